"""Networks told another noise level, against closed forms and by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from progguide_jax.diffusion import (
    levels,
    noise,
    prediction,
    process,
    samplers,
    solvers,
    system,
)
from progguide_jax.guidance import references

NS = process.ddpm_linear()
STD, START = 0.5, 5.0


def made(fn, kind="eps", shape=(1,), ns=NS) -> system.System:
    fn = jax.tree_util.Partial(fn)
    return system.System(
        branch=lambda cond: prediction.Branch(fn, cond, kind),
        noise_schedule=ns,
        shape=shape,
        condition=np.asarray,
        null=2,
        decode=lambda x: x,
        origin={},
    )


def one_gaussian(x, level, cond):
    """eps of x0 ~ N(0, STD^2)."""
    alpha, sigma = (prediction.per_image(a, x) for a in level[1:])
    return sigma * x / ((alpha * STD) ** 2 + sigma**2)


def told(x, level, cond):
    """A network that says which t it was told."""
    return prediction.per_image(level.t, x) + 0 * x


def reference(name, model, **settings):
    cond = jnp.zeros(1, int)
    return references.branches(model, cond, {name: settings})[name]


def closed_form(space, factor, w):
    """The final std of the flow from r = START, by the integral of
    d log y / d log r = r^2 [w / (s^2 + r^2) - (w - 1) k^(2 - p) / (s^2 + k^2 r^2)];
    p = 2, 1 and 0 where scores, eps and x0 are mixed, k the factor."""
    power = {"score": 2, "eps": 1, "x0": 0}[space]
    s, R = STD, START
    first = (s**2 / (s**2 + R**2)) ** (w / 2)
    second = ((s**2 + factor**2 * R**2) / s**2) ** ((w - 1) / (2 * factor**power))
    return np.sqrt(s**2 + R**2) * first * second


@pytest.mark.parametrize("kind", ["eps", "x0"])
@pytest.mark.parametrize("space", ["score", "x0", "eps"])
def test_sigma_scale_on_a_gaussian(space, kind, x64):
    """A VP network of a linear model; the flow is linear, so one path gives the std."""

    def fn(x, level, cond):
        alpha, sigma = (prediction.per_image(a, x) for a in level[1:])
        eps = one_gaussian(x, level, cond)
        return eps if kind == "eps" else (x - sigma * eps) / alpha

    model, needs = made(fn, kind), {"sigma_scale": {"factor": 1.2, "space": space}}
    branches = references.branches(model, jnp.zeros(1, int), needs)
    grid = levels.make("karras", NS, 300, sigma_max=START)
    plan = solvers.make("heun")(grid)
    x_T = jnp.full((1, 1), grid.alpha[0])  # y = 1
    omega = np.full(300, 2.0)
    x_0 = samplers.solve(branches, x_T, plan, omega=omega).item()
    std = x_0 * np.sqrt(STD**2 + START**2)
    assert std == pytest.approx(closed_form(space, 1.2, 3.0), rel=2e-3)
    printed = {"score": 0.1569, "x0": 0.7178}
    if space in printed:
        assert closed_form(space, 1.2, 3.0) == pytest.approx(printed[space], abs=1e-4)


def test_sigma_scale_stops_at_the_last_timestep(x64):
    """At T-1 the guide is the model; before it the factor is what is left."""
    fn = reference("sigma_scale", made(one_gaussian), factor=2.0, space="eps").fn
    t = jnp.array([999, 995])
    x, level = jnp.ones((2, 1)), NS.level(t, jnp.float64)
    found = fn(x, level, jnp.zeros(2, int))[:, 0]
    last = np.exp(NS.log_r[-1])
    y = 1 / NS.alpha[[999, 995]]
    np.testing.assert_allclose(found, last * y / (STD**2 + last**2), rtol=1e-9)


def test_self_guidance_is_told_a_later_t():
    """10 of 1000 steps later, at most T-1."""
    fn = reference("self_guidance", made(told), delta=0.01).fn
    t = jnp.array([0.0, 17.5, 985, 995, 999])
    level = process.Level(t, jnp.full(5, 0.6), jnp.full(5, 0.8))
    found = fn(jnp.ones((5, 1)), level, jnp.zeros(5, int))[:, 0]
    np.testing.assert_allclose(found, [10, 27.5, 995, 999, 999], rtol=1e-6)


@pytest.mark.parametrize("kind", ["eps", "x0"])
def test_self_guidance_by_hand(kind, x64):
    """The same x, eps of the later level: sigma' x / (alpha'^2 s^2 + sigma'^2)."""

    def fn(x, level, cond):
        alpha, sigma = (prediction.per_image(a, x) for a in level[1:])
        eps = one_gaussian(x, level, cond)
        return eps if kind == "eps" else (x - sigma * eps) / alpha

    branch = reference("self_guidance", made(fn, kind), delta=0.1)
    level = NS.level(jnp.array([300]), jnp.float64)
    raw = branch.fn(jnp.full((1, 1), 2.0), level, None)
    alpha, sigma = NS.alpha[400], NS.sigma[400]
    eps = sigma * 2 / (alpha**2 * STD**2 + sigma**2)
    wanted = {"eps": eps, "x0": (2 - NS.sigma[300] * eps) / NS.alpha[300]}
    assert raw.item() == pytest.approx(wanted[kind], rel=1e-9)


@pytest.mark.parametrize(("power", "spread"), [(0.0, 50.0), (1.0, 20.0), (2.0, 8.0)])
def test_tsg_moves_t_at_random(power, spread):
    """N(t, (0.05 T (t/T)^power)^2) at t = 400, for 4,000 images."""
    branch = reference("tsg", made(told), noise_scale=0.05, power=power)
    assert branch.random
    n = 4000
    level = process.Level(jnp.full(n, 400.0), jnp.full(n, 0.6), jnp.full(n, 0.8))
    keys = noise.image_keys(jax.random.key(0), jnp.arange(n))
    found = np.asarray(branch.fn(jnp.ones((n, 1)), level, None, keys=keys)[:, 0])
    assert abs(found.mean() - 400) < 4 * spread / np.sqrt(n)
    assert abs(found.std() / spread - 1) < 4 / np.sqrt(2 * n)


def test_tsg_stays_within_the_timesteps():
    fn = reference("tsg", made(told), noise_scale=1.0, power=0.0).fn
    level = process.Level(jnp.full(500, 600.0), jnp.full(500, 0.6), jnp.full(500, 0.8))
    keys = noise.image_keys(jax.random.key(0), jnp.arange(500))
    found = fn(jnp.ones((500, 1)), level, None, keys=keys)
    assert found.min() == 0 and found.max() == 999


@pytest.mark.parametrize(
    ("name", "settings", "words"),
    [
        ("sigma_scale", {"factor": 0.9}, "factor is 0.9: it must be finite and at le"),
        ("sigma_scale", {"factor": float("nan")}, "factor is nan"),
        ("sigma_scale", {"space": "v"}, "space is 'v': use one of score, x0, eps"),
        ("self_guidance", {"delta": -0.1}, r"delta is -0.1.*in \[0, 1\]"),
        ("tsg", {"noise_scale": -1.0}, "noise_scale is -1.0"),
        ("tsg", {"power": float("inf")}, "power is inf"),
    ],
)
def test_settings_that_make_no_sense(name, settings, words):
    with pytest.raises(ValueError, match=words):
        reference(name, made(one_gaussian), **settings)


def test_a_branch_that_draws_needs_a_key():
    branches = references.branches(made(one_gaussian), jnp.zeros(1, int), {"tsg": {}})
    plan = solvers.ddim()(levels.from_timesteps(NS, [900, 400]))
    with pytest.raises(ValueError, match="'tsg' draws noise: pass key=jax.random.key"):
        samplers.solve(branches, jnp.ones((1, 1)), plan, omega=np.ones(2))
