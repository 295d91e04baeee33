"""What every solver of the registry owes: a new one is covered by its line."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.integrate
import worlds

from progguide_jax.diffusion import levels, prediction, samplers, solvers
from progguide_jax.guidance import curves, references

DETERMINISTIC = [n for n in solvers.names() if solvers.SOLVERS[n].order]


def exact(y, omega, high, low):
    """dy/dr = (y - D) / r of the guided model in y = x / alpha, by SciPy."""

    def slope(log_r, y):
        r = np.exp(log_r)
        v = worlds.STD**2 + r**2
        tanh = np.tanh(worlds.HALF * y / v)
        mean = worlds.HALF * (1 + omega * (1 - tanh))
        return r * r * (y - mean) / v

    done = scipy.integrate.solve_ivp(
        slope, np.log([high, low]), y, rtol=1e-12, atol=1e-12, method="DOP853"
    )
    return done.y[:, -1]


def ending(grid, solver, omega):
    """y = x / alpha at the grid's last level, for bright images from fixed starts."""
    y = np.array([-2.0, -1.0, 0.5, 1.0, 2.0]) * grid.r[0]
    branches = references.branches(
        worlds.model(worlds.two_classes, ()), jnp.ones(5, int), {"null": {}}
    )
    x_T = jnp.asarray(y * grid.alpha[0])
    weights = np.full(len(grid.t) - 1, omega)
    x = samplers.solve(branches, x_T, solver(grid), omega=weights)
    return np.asarray(x) / grid.alpha[-1], y


def log_uniform(steps, high=80.0, low=0.02):
    """The levels of log sigma in equal distances, without a step onto data."""
    grid = levels.log_snr(worlds.NS, steps + 1, low, high)
    return levels.Levels(grid.t[:-1], grid.alpha[:-1], grid.sigma[:-1], grid.at)


@pytest.mark.parametrize("omega", [0.0, 3.0])
@pytest.mark.parametrize("name", DETERMINISTIC)
def test_its_order(name, omega, x64):
    entry = solvers.SOLVERS[name]
    errors = []
    for steps in (200, 400, 800):
        found, y = ending(log_uniform(steps), entry.make(), omega)
        errors.append(np.abs(found - exact(y, omega, 80.0, 0.02)).max())
    orders = np.log2(np.array(errors[:-1]) / errors[1:])
    assert orders[-1] == pytest.approx(entry.order, abs=0.15), (errors, orders)


@pytest.mark.parametrize("name", ["dpmpp_2m", "unipc"])
def test_its_memory_where_omega_jumps(name, x64):
    """omega 3, and 0 from r = 8 down, where a level lies: with the x0 of another omega
    the step after the jump has an error of order 1; begun again, it keeps its order."""
    orders = {}
    for restart in (False, True):
        errors = []
        for steps in (200, 400, 800):
            grid = log_uniform(steps, 128.0, 0.5)  # r = 8 is halfway
            omega = np.where(np.arange(steps) < steps // 2, 3.0, 0.0)
            assert grid.r[steps // 2] == pytest.approx(8)
            jumps = {"jumps": curves.jumps(omega)} if restart else {}
            plan = solvers.make(name, restart=restart)(grid, **jumps)
            found, y = ending(grid, lambda grid, plan=plan: plan, omega)
            middle = exact(y, 3.0, 128.0, 8.0)
            errors.append(np.abs(found - exact(middle, 0.0, 8.0, 0.5)).max())
        orders[restart] = np.log2(errors[-2] / errors[-1])
    assert orders[False] == pytest.approx(1, abs=0.2), orders
    order = solvers.SOLVERS[name].order
    assert orders[True] == pytest.approx(order, abs=0.2), orders


@pytest.mark.parametrize("name", ["dpmpp_2m", "unipc"])
def test_a_memory_needs_two_steps(name):
    with pytest.raises(ValueError, match=f"{name} learns .* there is one step: take"):
        solvers.make(name)(worlds.grid(1))


@pytest.mark.parametrize("spacing", levels.names())
@pytest.mark.parametrize("name", solvers.names())
def test_it_reaches_the_class_on_every_grid(name, spacing):
    """50 steps of the exact model end on the law of the class, N(HALF, STD^2)."""
    grid = levels.make(spacing, worlds.NS, 50)
    branches = references.branches(
        worlds.model(worlds.two_classes, (1,)), jnp.ones(2000, int), {"null": {}}
    )
    x_T = worlds.start(2000, (1,))
    plan = solvers.make(name)(grid)
    key = jax.random.key(2)
    x_0 = samplers.solve(branches, x_T, plan, omega=np.zeros(50), key=key)
    # x_T is N(0, 1) where the grid begins: alpha HALF is missing from its mean
    lost = grid.alpha[0] * worlds.HALF * (0 if plan.stochastic else worlds.STD)
    assert np.mean(x_0) == pytest.approx(worlds.HALF, abs=0.05 + lost)
    assert np.std(x_0) == pytest.approx(worlds.STD, rel=0.2)


@pytest.mark.parametrize("name", solvers.names())
def test_a_trajectory_has_every_grid_level(name):
    steps, plan = 8, solvers.make(name)(worlds.grid())
    branches = references.branches(worlds.model(), jnp.arange(6) % 2, {"null": {}})
    x_0, path = samplers.solve(
        branches, worlds.start(), plan, omega=np.full(steps, 0.5),
        key=jax.random.key(0), trajectory=True,
    )  # fmt: skip
    assert path.shape == (steps + 1, 6, 4, 3)
    np.testing.assert_array_equal(path[0], worlds.start())
    np.testing.assert_array_equal(path[-1], x_0)
    assert plan.on_grid.sum() == steps


@pytest.mark.parametrize("name", solvers.names())
def test_a_batch_is_its_halves(name):
    plan, omega = solvers.make(name)(worlds.grid()), np.linspace(0, 1, 8)
    keys = samplers.image_keys(jax.random.key(5), jnp.arange(6))

    def run(rows):
        label = (jnp.arange(6) % 2)[rows]
        branches = references.branches(worlds.model(), label, {"null": {}})
        x_T = worlds.start()[rows]
        return samplers.solve(branches, x_T, plan, omega=omega, key=keys[rows])

    halves = [run(slice(2)), run(slice(2, 6))]
    np.testing.assert_allclose(run(slice(6)), np.concatenate(halves), atol=2e-5)


@pytest.mark.parametrize("name", solvers.names())
def test_one_program_for_all_of_one_length_and_memory(name):
    """This solver and DDPM or a solver of its own memory: one trace for both."""
    traces = []

    def counted(x, level, label):
        traces.append(1)
        return worlds.curved(x, level, label)

    branches = references.branches(
        worlds.model(counted), jnp.ones(6, int), {"null": {}}
    )
    plan = solvers.make(name)(worlds.grid())
    for matrix in (plan.matrix, plan.matrix * 0.9):
        samplers.solve(
            branches, worlds.start(), plan._replace(matrix=matrix),
            omega=np.ones(8), key=jax.random.key(0),
        )  # fmt: skip
        count = len(traces)
    if plan.matrix.shape == (8, 1, 4):
        for other in (solvers.ddim(), solvers.ddim(0.3), solvers.ddpm("large")):
            samplers.solve(
                branches, worlds.start(), other(worlds.grid()), omega=np.ones(8),
                key=jax.random.key(0),
            )  # fmt: skip
    assert len(traces) == count <= 2


@pytest.mark.parametrize(
    ("name", "kind"),
    [(name, "v") for name in solvers.names()]
    + [("ddim", "x0")]
    + [
        pytest.param(name, "x0", marks=pytest.mark.slow)
        for name in solvers.names()
        if name != "ddim"
    ],
)
def test_from_pure_noise(name, kind):
    """alpha = 0: for networks of v and x0, and a line that says so for eps."""
    pure = worlds.NS.alpha_bar.copy()
    pure[-1] = 0.0
    ns = type(worlds.NS)("pure", pure)
    grid = levels.from_timesteps(ns, np.array([999, 600, 300, 100, 20]))

    def raw(x, level, label):
        alpha, sigma = (prediction.per_image(a, x) for a in level[1:])
        x0 = jnp.full_like(x, 0.5)
        eps = (x - alpha * x0) / sigma
        return {"eps": eps, "x0": x0, "v": alpha * eps - sigma * x0}[kind]

    fn = jax.tree_util.Partial(raw)
    branches = {
        n: prediction.Branch(fn, jnp.ones(6, int), kind) for n in ("cond", "null")
    }
    run = dict(omega=np.ones(5), key=jax.random.key(0))
    try:
        plan = solvers.make(name)(grid)
    except ValueError as error:
        assert "pure noise" in str(error) and name == "heun"
        return
    x_0 = samplers.solve(branches, worlds.start(), plan, **run)
    np.testing.assert_allclose(x_0, 0.5, atol=1e-5)
    eps = {n: prediction.Branch(b.fn, b.cond, "eps") for n, b in branches.items()}
    with pytest.raises(ValueError, match="eps-network cannot start"):
        samplers.solve(eps, worlds.start(), plan, **run)
