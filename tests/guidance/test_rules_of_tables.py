"""ReCFG: the table at a step, and the ratio that is measured, against Gaussians."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from progguide_jax.diffusion import levels, prediction, process, samplers, solvers
from progguide_jax.diffusion.system import System
from progguide_jax.guidance import references, rules

NS = process.ddpm_linear()
MEAN, STD, SPREAD = 2.0, 0.5, 1.2  # p(x|c) ~ N(MEAN, STD^2), p(x) ~ N(0, SPREAD^2)
SHAPE = (2, 3)


def gaussians(predicts="eps"):
    """Exact predictions of both; the condition is 1, none is 0."""

    def raw(x, level, cond):
        alpha, sigma = (prediction.per_image(a, x) for a in level[1:])
        on = prediction.per_image(jnp.asarray(cond, x.dtype), x)
        std = jnp.where(on == 1, STD, SPREAD)
        eps = sigma * (x - alpha * on * MEAN) / ((alpha * std) ** 2 + sigma**2)
        x0 = (x - sigma * eps) / alpha
        return {"eps": eps, "v": alpha * eps - sigma * x0}[predicts]

    fn = jax.tree_util.Partial(raw)
    return System(
        lambda cond: prediction.Branch(fn, cond, predicts), NS, SHAPE, np.asarray, 0,
        lambda x: x, {},
    )  # fmt: skip


def exact(t):
    """E[eps_c eps_u] = sigma^2 / V and E[eps_u^2] = sigma^2 (v + alpha^2 m^2) / V^2 on
    x_t of the class, of variance v; V is that without a class."""
    alpha, sigma = NS.alpha[t], NS.sigma[t]
    v, wide = ((alpha * s) ** 2 + sigma**2 for s in (STD, SPREAD))
    return wide / (v + (alpha * MEAN) ** 2)


@pytest.mark.parametrize("predicts", ["eps", "v"])
def test_the_measured_ratio(predicts, x64):
    n, timesteps = 40_000, np.array([20, 300, 700])
    rng = np.random.default_rng(0)
    x0 = jnp.asarray(MEAN + STD * rng.normal(size=(n, *SHAPE)))
    found = [
        rules.recfg_ratio(
            gaussians(predicts), x0, jnp.ones(n), timesteps=timesteps,
            key=jax.random.key(0), per_pixel=per_pixel,
        )
        for per_pixel in (True, False)
    ]  # fmt: skip
    assert found[0].shape == (1000, *SHAPE) and found[1].shape == (1000,)
    for ratio in found:
        for t in timesteps:
            np.testing.assert_allclose(ratio[t], exact(t), rtol=0.03)
        np.testing.assert_allclose(ratio[500], (ratio[300] + ratio[700]) / 2)
        np.testing.assert_array_equal(ratio[999], ratio[700])


def test_the_ratio_takes_the_second_moment_out(x64):
    """ratio eps_u is eps_c's projection on eps_u, so that eps_c - ratio eps_u has no
    part along eps_u in the mean over the data."""
    n = 2000
    x0 = jnp.asarray(MEAN + STD * np.random.default_rng(1).normal(size=(n, *SHAPE)))
    model, t = gaussians(), 400
    settings = dict(timesteps=[t], key=jax.random.key(3), per_pixel=False)
    ratio = rules.recfg_ratio(model, x0, jnp.ones(n), **settings)[t]
    # a model that is ratio times smaller without a class has the ratio 1
    branch = model.branch(jnp.zeros(n))
    scaled = jax.tree_util.Partial(
        lambda x, level, cond: ratio * branch.fn(x, level, cond)
    )
    weak = prediction.Branch(scaled, jnp.zeros(n))
    again = rules.recfg_ratio(model, x0, jnp.ones(n), reference=weak, **settings)[t]
    assert again == pytest.approx(1, rel=1e-12) and ratio < 0.9


def run(rule, timesteps):
    branches = references.branches(gaussians(), jnp.ones(2), {"null": {}})
    plan = solvers.ddim()(levels.from_timesteps(NS, timesteps))
    x_T = jnp.asarray(np.random.default_rng(5).normal(size=(2, *SHAPE)))
    return samplers.solve(branches, x_T, plan, omega=[1.5] * 3, rule=rule)


@pytest.mark.parametrize("t", [0.0, 450.0, 450.25, 999.0])
def test_a_table_is_read_at_its_timestep(t, x64):
    """At a number of the table and between two."""
    table = np.linspace(0.5, 1.5, 1000)[:, None, None] * np.arange(1, 7).reshape(SHAPE)
    x, c, u = np.random.default_rng(0).normal(size=(3, 4, *SHAPE))
    step = prediction.Step(
        x=jnp.asarray(x), t=t, alpha=0.6, sigma=0.8, alpha_next=0.8, sigma_next=0.6,
        weights={"null": 1.5}, index=0, keys=None, predicts="eps",
    )  # fmt: skip

    def evaluate(*names):
        return [step.from_eps({"cond": c, "null": u}[name]) for name in names]

    found, _ = rules.recfg(table)(evaluate, step, None)
    ratio = np.interp(t, np.arange(1000), table[:, 0, 0]) * np.arange(1, 7)
    np.testing.assert_allclose(found.eps, 2.5 * c - 1.5 * ratio.reshape(SHAPE) * u)


def test_a_number_a_column_and_a_table_are_one(x64):
    timesteps = np.array([900, 450, 10])
    results = [
        run(rules.recfg(ratio), timesteps)
        for ratio in (0.8, np.full(1000, 0.8), np.full((1000, *SHAPE), 0.8))
    ]
    for result in results[1:]:
        np.testing.assert_allclose(result, results[0], rtol=1e-6)


def test_bad_tables():
    with pytest.raises(ValueError, match=r"ratio has the shape \(1000, 3\)"):
        run(rules.recfg(np.ones((1000, 3))), np.array([900, 450, 10]))
    x0 = jnp.zeros((2, *SHAPE))
    for timesteps in ([1000], [], [-1]):
        with pytest.raises(ValueError, match="timesteps must lie in 0 ... 999"):
            rules.recfg_ratio(
                gaussians(), x0, jnp.ones(2), timesteps=timesteps, key=jax.random.key(0)
            )
