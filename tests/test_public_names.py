"""The names that users call: the README's blocks run as printed, and the notebooks."""

import importlib.metadata
import importlib.util
import json
import pathlib
import re

import matplotlib
import numpy as np
import pytest

ROOT = pathlib.Path(__file__).parents[1]


def blocks(kind):
    """The blocks of the README in this language, in their order."""
    text = (ROOT / "README.md").read_text()
    return re.findall(rf"```{kind}\n(.*?)```", text, re.S)


@pytest.fixture(scope="module")
def readme():
    """A dict for each of the README's Python blocks, run one after the other."""
    names: dict = {}
    left = []
    for block in blocks("python"):
        exec(block, names)
        left.append(dict(names))
    return left


def test_the_readmes_own_model_is_sampled(readme):
    first = readme[0]
    assert first["ts"].shape == first["omega"].shape == (50,)
    assert np.isclose(first["omega"].mean(), 2.0, rtol=1e-6)
    assert first["omega"][0] < first["omega"][-1]
    x_0 = np.asarray(first["x_0"])
    assert x_0.shape == (8, 32, 32, 3) and np.abs(x_0).max() <= 1

    def again(**kwargs):
        names = ("cond", "null_cond", "noise_schedule", "timesteps", "omega")
        values = (first["labels"], 10, first["ns"], first["ts"], first["omega"])
        given = dict(zip(names, values, strict=True), clip_x0=1.0) | kwargs
        model = given.pop("eps_fn", first["net"].apply)
        return first["samplers"].sample(model, first["x_T"], **given)

    np.testing.assert_allclose(again(params=first["params"]), x_0, atol=1e-6)
    # the README's rule is CFG at half the weight
    halved = readme[2]["halved"]
    guided = again(params=first["params"], rule=halved)
    half = again(params=first["params"], omega=first["omega"] / 2)
    np.testing.assert_allclose(guided, half, atol=1e-5)
    assert np.abs(guided - x_0).max() > 1e-3


def test_the_readmes_curves(readme):
    """Each line by its formula."""
    source, ts = blocks("python")[1], readme[0]["ts"]
    names, curves = dict(readme[0]), []
    for line in source.splitlines():
        exec(line, names)
        if line.startswith("omega"):
            curves.append(names["omega"])
    own, tau, step, interval, table, gn = curves
    np.testing.assert_array_equal(own, np.linspace(0, 4, 50))
    falling = 2 * (1 - ts / 1000) / np.mean(1 - ts / 1000)
    for curve in (tau, gn):  # G of a constant g falls linearly
        np.testing.assert_allclose(curve, falling, rtol=2e-3)
    np.testing.assert_array_equal(step, np.where(ts < 400, 2, 0))
    np.testing.assert_array_equal(interval, np.where((ts >= 200) & (ts <= 500), 2, 0))
    assert table[-1] > table[0] and np.isclose(table.mean(), 2, rtol=1e-6)
    by_class = readme[1]["table"]
    np.testing.assert_allclose(by_class, np.tile(gn, (10, 1)), rtol=1e-6)


def test_the_readmes_exact_model(readme):
    """g within its error of the closed form; what the trace says was applied is what
    was asked for; x_0 lands on its class."""
    last = readme[-1]
    g, exact = np.asarray(last["g"]), last["exact"].gradnorm(last["ns"])[200]
    assert g.shape == (8,) and abs(g.mean() - exact) < 5 * g.std() / 8**0.5
    trace = last["trace"]
    seen = trace.delta["null"] > 0.1  # below, rounding is part of the difference
    asked, applied = trace.omega["null"][seen], trace.applied["null"][seen]
    np.testing.assert_allclose(applied, asked, rtol=1e-2)
    assert seen.mean() > 0.1 and trace.t.shape == (20,)
    y = last["exact"].class_axis(last["x_0"])
    assert np.all((y > 0) == (last["label"] == 1))


def test_the_readmes_network_of_v(readme):
    """It is the network of eps = sigma x + alpha v, whose levels have alpha^2 + sigma^2
    = 1; and it was guided."""
    names = readme[3]

    def eps_fn(params, x, level, label):
        alpha, sigma = (a[:, None, None, None] for a in level[1:])
        return sigma * x + alpha * names["v_fn"](params, x, level, label)

    network = names["jax"].tree_util.Partial(eps_fn, names["params"])
    branch = names["prediction"].Branch
    branches = {k: branch(network, b.cond) for k, b in names["branches"].items()}
    plan = names["solvers"].unipc()(names["grid"])

    def x_0(omega):
        return names["samplers"].solve(branches, names["x_T"], plan, omega=omega)

    scale = np.abs(names["x_0"]).max()
    assert names["x_0"].shape == (8, 32, 32, 3)
    np.testing.assert_allclose(names["x_0"], x_0(names["omega"]), atol=1e-3 * scale)
    assert np.abs(names["x_0"] - x_0(0 * names["omega"])).max() > 1e-2 * scale


def test_the_readmes_network_as_a_system(readme):
    """Its first two branches are those of the block before, on whole timesteps, and
    the guide is that network with other parameters."""
    names, jax = readme[4], readme[4]["jax"]
    level = names["ns"].level(names["jnp"].full(8, 300))

    def raw(branch):
        return branch.fn(names["x_T"], level, branch.cond)

    for name, branch in names["branches"].items():
        by_hand = readme[3]["branches"].get(name, readme[3]["branches"]["cond"])
        if name == "guide":
            fn, weaker = names["v_fn"], jax.tree.map(lambda p: p / 2, names["params"])
            by_hand = readme[3]["prediction"].Branch(
                jax.tree_util.Partial(fn, weaker), by_hand.cond
            )
        np.testing.assert_allclose(raw(branch), raw(by_hand), atol=1e-6)
    assert set(names["branches"]) == {"cond", "null", "guide"}
    assert np.isfinite(names["x_0"]).all()


def without_magic(cell, instead):
    """The source of a cell with its lines of the shell replaced."""
    return re.sub(r"(?m)^( *)%.*$", rf"\1{instead}", "".join(cell["source"]))


@pytest.mark.parametrize(
    ("inside", "address", "installs"),
    [
        ("checkout/notebooks", "", [".."]),
        ("checkout", "https://x/y", ["."]),
        ("beside", "", ["./progguide_jax"]),
        (".", "https://x/y", ["git+https://x/y"]),
        (".", "", []),
    ],
)
def test_a_notebook_installs_what_is_not_there(
    inside, address, installs, tmp_path, monkeypatch
):
    """From its checkout, or from the address at the top of its first cell; an install
    that is there stays as it is."""
    for package in ("checkout/progguide_jax", "beside/progguide_jax/progguide_jax"):
        (tmp_path / package).mkdir(parents=True)
        (tmp_path / package / "__init__.py").touch()
    (tmp_path / "checkout/notebooks").mkdir()
    monkeypatch.chdir(tmp_path / inside)
    there = ["an install"]
    monkeypatch.setattr(importlib.metadata, "distributions", lambda name: list(there))
    for path in (ROOT / "notebooks").glob("*.ipynb"):
        cells = json.loads(path.read_text())["cells"]
        first = next(cell for cell in cells if cell["cell_type"] == "code")
        assert "%pip install -q {sources[0]}" in "".join(first["source"])
        source = without_magic(first, "asked.append(sources[0])")
        empty, given = 'REPOSITORY = ""', f'REPOSITORY = "{address}"'
        assert source.index(empty) < source.index("pathlib.Path")
        source, names = source.replace(empty, given), {"asked": []}
        exec(source, names)
        assert names["asked"] == []
        there.clear()
        exec(source, names)
        if not installs:  # it is on the path of these tests
            monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
            with pytest.raises(ImportError, match="set REPOSITORY, in this cell, to"):
                exec(source, names)
        assert names["asked"] == installs


@pytest.mark.parametrize(
    "path", sorted((ROOT / "notebooks").glob("*.ipynb")), ids=lambda p: p.stem
)
def test_notebook_runs(path, tmp_path, monkeypatch):
    """Every code cell, as a script; lines of the shell (%pip) do nothing."""
    monkeypatch.chdir(tmp_path)
    matplotlib.use("agg")
    names: dict = {}
    for cell in json.loads(path.read_text())["cells"]:
        if cell["cell_type"] == "code":
            exec(compile(without_magic(cell, "pass"), path.name, "exec"), names)
    y = names["final"]  # class-axis positions by schedule: schedules overshoot less
    assert y["static"] > y["linear"] > y["cosine"] > 4
    own = names["pictures"]  # bright before dark: the classes are in the order of names
    assert own.images.shape == (64, 32, 32, 1)
    brightness = own.images.mean((1, 2, 3))
    assert np.all((brightness > 127) == (own.labels == 0))
