"""The names that notebooks and users call: the README's block and the notebooks run."""

import json
import pathlib
import re

import jax
import jax.numpy as jnp
import matplotlib
import numpy as np
import pytest

from progguide_jax.analytic import gaussians
from progguide_jax.diffusion import process

ROOT = pathlib.Path(__file__).parents[1]


def test_the_readme_block_runs_as_printed():
    """With the exact model behind it: omega averages to its scale, x_0 lands on its
    class, g is the closed form within its error, the table has the scale as mean."""
    text = (ROOT / "README.md").read_text()
    first, second = re.findall(r"```python\n(.*?)```", text, re.S)
    model = gaussians.TwoGaussians(0.5, 0.25, (8, 8, 1))
    ns, count = process.ddpm_linear(), 2048
    labels, key = jnp.arange(count) % 2, jax.random.key(0)
    t = jnp.full(count, 200)
    names = dict(
        # the block's null label is CIFAR-10's
        eps_fn=lambda x, t, c: model.eps(ns)(x, t, jnp.where(c == 10, 2, c)),
        eps_fn_emb=model.eps_of_mean(ns),
        x_T=jax.random.normal(key, (count, 8, 8, 1)),
        labels=labels,
        key=key,
        x0=model.sample(key, labels),
        eps=jax.random.normal(jax.random.key(1), (count, 8, 8, 1)),
        t=t,
        emb=jnp.where(labels == 1, 0.5, -0.5)[:, None],
        g_of_t=model.gradnorm(ns),
    )
    exec(first, names)
    assert names["ts"].shape == names["omega"].shape == (200,)
    assert np.isclose(names["omega"].mean(), 0.2, rtol=1e-6)
    assert names["omega"][0] < names["omega"][-1]
    y = model.class_axis(names["x_0"])
    assert np.all((y > 0) == (labels == 1))
    g, exact = np.asarray(names["g"]), model.gradnorm(ns)[200]
    assert abs(g.mean() - exact) < 4 * g.std() / count**0.5
    assert names["table"].shape == (200,) and np.isclose(names["table"].mean(), 0.2)

    exec(second, names)
    trace = names["trace"]
    seen = trace.delta["null"] > 0.1  # below, rounding is part of the difference
    asked, applied = trace.omega["null"][seen], trace.applied["null"][seen]
    np.testing.assert_allclose(applied, asked, rtol=1e-2)
    assert seen.mean() > 0.1
    assert np.isclose(trace.omega["null"].mean(), 2.0) and trace.t.shape == (20,)
    y = names["gaussians"].TwoGaussians(0.125, 0.25, (8, 8, 1)).class_axis(names["x_0"])
    assert np.mean((y > 0) == (labels == 1)) > 0.99


@pytest.mark.parametrize(
    "path", sorted((ROOT / "notebooks").glob("*.ipynb")), ids=lambda p: p.stem
)
def test_notebook_runs(path, tmp_path, monkeypatch):
    """Every code cell, as a script; lines of the shell (%pip) are left out."""
    monkeypatch.chdir(tmp_path)
    matplotlib.use("agg")
    names: dict = {}
    for cell in json.loads(path.read_text())["cells"]:
        if cell["cell_type"] == "code":
            lines = [x for x in cell["source"] if not x.startswith("%")]
            exec(compile("".join(lines), path.name, "exec"), names)
    y = names["final"]  # class-axis positions by schedule: schedules overshoot less
    assert y["static"] > y["linear"] > y["cosine"] > 4
