"""golden/solvers.json beside diffusers: two independent writings of the same papers."""

import json
import pathlib

import numpy as np
import pytest

GOLDEN = pathlib.Path(__file__).parents[1] / "golden" / "solvers.json"
golden = json.loads(GOLDEN.read_text())
pytestmark = pytest.mark.slow


def has_a_scheduler(cell):
    """Heun has no churn in diffusers; Euler's is evaluated at the level without it."""
    return "churn" not in cell["settings"]


@pytest.mark.parametrize(
    "cell",
    [cell for cell in golden["cells"] if has_a_scheduler(cell)],
    ids=lambda c: "-".join(
        [c["solver"], *(str(v) for v in c["settings"].values()), c["grid"], c["omega"]]
    ),
)
def test_path_is_the_one_of_diffusers(cell):
    pytest.importorskip("torch")
    pytest.importorskip("diffusers")
    from oracles import diffusers_runs

    r = np.array(golden["grids"][cell["grid"]]["r"])
    omega = golden["grids"][cell["grid"]]["omega"][cell["omega"]]
    h, s = golden["half_separation"], golden["std"]

    def eps(x, level):
        scale = np.sqrt(1 + r[level] ** 2)
        y, var = x * scale, s**2 + r[level] ** 2
        mean = h + omega[level] * h * (1 - np.tanh(h * y / var))
        return r[level] * (y - mean) / var

    settings = cell["settings"]
    scheduler = diffusers_runs.create(cell["solver"], settings, len(r) - 1)
    diffusers_runs.set_levels(scheduler, r)
    expected = np.array(cell["path"])
    path = diffusers_runs.path(
        scheduler, eps, expected[0][:, None], golden["noise"], **settings
    )
    # euler and dpmpp_2m work in float32 there
    single = cell["solver"] in ("euler", "dpmpp_2m")
    tolerance = 3e-5 if single else 1e-8
    np.testing.assert_allclose(path[..., 0], expected, rtol=tolerance, atol=tolerance)
