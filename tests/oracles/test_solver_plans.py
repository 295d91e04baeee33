"""Plans run by hand in float64, against the textbook solvers of golden/solvers.json."""

import json
import pathlib

import numpy as np
import pytest

from progguide_jax.diffusion import levels, solvers

GOLDEN = pathlib.Path(__file__).parents[1] / "golden" / "solvers.json"
golden = json.loads(GOLDEN.read_text())


def grid(name, kind):
    """The golden levels as a variance-preserving or a variance-exploding process."""
    r = np.array(golden["grids"][name]["r"])
    alpha = 1 / np.sqrt(1 + r**2) if kind == "vp" else np.ones_like(r)
    return of(alpha, alpha * r, kind)


def of(alpha, sigma, kind):
    """Levels whose t is log(sigma / alpha): the plans only hand it on."""

    def at(log_r):
        alpha = 1 / np.sqrt(1 + np.exp(2 * log_r)) if kind == "vp" else 1 + 0 * log_r
        return log_r, alpha, alpha * np.exp(log_r)

    with np.errstate(divide="ignore"):
        return levels.Levels(np.log(sigma / alpha), alpha, sigma, at)


def run(plan, grid, omega, y, noise):
    """y at every level: (x, h) <- M (x0, eps, x, z, h), row by row."""
    h, s = golden["half_separation"], golden["std"]
    memory = plan.matrix.shape[1] - 1
    state = np.zeros((1 + memory, len(y)))
    state[0] = grid.alpha[0] * y
    path, step = [y], 0
    for row in range(len(plan.t)):
        alpha, sigma = plan.alpha[row], plan.sigma[row]
        z = np.full_like(y, noise[step])
        x = plan.gain[row] * state[0] + plan.kick[row] * z
        assert plan.t[row] == pytest.approx(np.log(sigma / alpha))
        var = s**2 + (sigma / alpha) ** 2
        lean = 1 - np.tanh(h * x / alpha / var)
        mean = h + omega[plan.omega[row]] * h * lean
        x0 = (s**2 * x / alpha + (sigma / alpha) ** 2 * mean) / var
        eps = (x - alpha * x0) / sigma
        z = 0 * z if plan.kick[row] else z  # a cell has one noise a step
        state = plan.matrix[row] @ np.stack([x0, eps, x, z, *state[1:]])
        if plan.on_grid[row]:
            step += 1
            path.append(state[0] / grid.alpha[step])
    return np.array(path)


@pytest.mark.parametrize("kind", ["vp", "ve"])
@pytest.mark.parametrize(
    "cell",
    golden["cells"],
    ids=lambda c: "-".join(
        [c["solver"], *(str(v) for v in c["settings"].values()), c["grid"], c["omega"]]
    ),
)
def test_plan_takes_the_textbook_path(cell, kind):
    if cell["settings"].get("variance") == "large" and kind == "ve":
        pytest.skip("the large variance is one of VP")
    solver = getattr(solvers, cell["solver"])(**cell["settings"])
    expected = np.array(cell["path"])
    omega = golden["grids"][cell["grid"]]["omega"][cell["omega"]]
    levels_ = grid(cell["grid"], kind)
    path = run(solver(levels_), levels_, omega, expected[0], golden["noise"])
    # 12 digits were printed, and some churned steps amplify the last of them
    np.testing.assert_allclose(path, expected, rtol=2e-9, atol=2e-9)


@pytest.mark.parametrize("omega", ["0.0", "3.0"])
@pytest.mark.parametrize("name", golden["convergence"]["errors"])
def test_order_of_convergence(name, omega):
    """The errors at r = 0.02 beside the exact flow are those of the textbook form."""
    table = golden["convergence"]
    solver, errors = getattr(solvers, name)(), []
    for num_steps in table["steps"]:
        i = np.arange(num_steps + 1) / num_steps
        r = np.append(80 ** (1 - i) * 0.02**i, 0.0)
        levels_ = of(np.ones_like(r), r, "ve")
        y = np.array(golden["starts"]) * np.sqrt(1 + r[0] ** 2)
        weights = np.full(num_steps + 1, float(omega))
        path = run(solver(levels_), levels_, weights, y, np.zeros(num_steps + 1))
        errors.append(np.max(np.abs(path[-2] - table["ode"][omega])))
    np.testing.assert_allclose(errors, table["errors"][name][omega], rtol=1e-3)
    order = np.log2(errors[-2] / errors[-1])
    assert abs(order - solvers.SOLVERS[name].order) < 0.1
