"""Samplers that aim at the tilt, on two Gaussians for which every answer is known.

x | c ~ N(c, 1) and c ~ N(0, 1), so without a condition x ~ N(0, 2). With g = 1 + omega
the tilt has mean 2 g c / (g + 1) and variance 2 / (g + 1); from high noise the flow of
CFG ends with variance 2^(1-g) and its SDE with (2 - 2^(2-2g)) / (2g - 1) (Bradley and
Nakkiran 2024, arXiv:2408.09000).
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from progguide_jax import registry
from progguide_jax.diffusion import (
    levels,
    noise,
    particles,
    plans,
    prediction,
    samplers,
    solvers,
    tilted,
)

C, OMEGA = 1.0, 2.0
TILT = dict(mean=1.5, variance=0.5)
FLOW, SDE = 0.25, (2 - 2.0**-4) / 5
KEY = jax.random.key(5)


def exact(x, level, cond):
    """eps of N(mean, variance); cond [B,2]."""
    mean, variance = (prediction.per_image(a, x) for a in cond.T)
    alpha, sigma = (prediction.per_image(a, x) for a in level[1:])
    return sigma * (x - alpha * mean) / (alpha**2 * variance + sigma**2)


EXACT = jax.tree_util.Partial(exact)


def pair(batch, c=C):
    cond = jnp.tile(jnp.array([c, 1.0]), (batch, 1))
    null = jnp.tile(jnp.array([0.0, 2.0]), (batch, 1))
    return {
        "cond": prediction.Branch(EXACT, cond),
        "null": prediction.Branch(EXACT, null),
    }


def grid(steps, high=80.0):
    return levels.log_snr(None, steps, 0.01, high)


def start(batch, high=80.0, key=1):
    keys = noise.image_keys(jax.random.key(key), jnp.arange(batch))
    return high * noise.initial_noise(keys, (1,))


def check_variance(x, variance, mean, groups, limit=0.03):
    """Within 4 standard errors, estimated from independent groups."""
    square = np.mean((np.asarray(x, np.float64).reshape(groups, -1) - mean) ** 2, 1)
    error = square.std(ddof=1) / np.sqrt(groups)
    assert abs(square.mean() - variance) < 4 * error, (square.mean(), variance, error)
    assert error < limit * variance


@pytest.mark.slow
def test_cfg_does_not_sample_the_tilt():
    """What the formulas above say of its flow and its SDE."""
    x_T, steps = start(20_000), grid(300)
    for solver, variance in ((solvers.ddim(), FLOW), (solvers.ddpm(), SDE)):
        x = samplers.solve(
            pair(20_000), x_T, solver(steps), omega=np.full(300, OMEGA), key=KEY
        )
        check_variance(x, variance, np.mean(x), 100)


def test_fkc_samples_the_tilt():
    x_T = start(80 * 512)
    x = tilted.fkc(pair(len(x_T)), x_T, grid(200), omega=OMEGA, key=KEY, particles=512)
    check_variance(x, TILT["variance"], TILT["mean"], 80, limit=0.015)
    means = np.mean(np.reshape(x, (80, 512)), 1)
    assert abs(means.mean() - TILT["mean"]) < 4 * means.std(ddof=1) / np.sqrt(80)


@pytest.mark.slow
def test_fkc_between_the_two_models():
    """omega = -1/2, where the weights fall with the distance: precision 3/4."""
    x_T = start(40 * 256)
    x = tilted.fkc(pair(len(x_T)), x_T, grid(200), omega=-0.5, key=KEY, particles=256)
    check_variance(x, 4 / 3, 2 / 3, 40)


def test_fkc_in_any_coordinates(x64):
    """The same sigma / alpha with alpha < 1, of a variance-preserving process."""
    one = grid(20)
    shrink = 1 / np.sqrt(1 + one.r**2)
    other = levels.Levels(one.t, shrink, shrink * one.r, one.at)
    x_T = start(256).astype(jnp.float64)
    found = [
        tilted.fkc(pair(256), x_T * scale, g, omega=OMEGA, key=KEY, particles=64)
        for g, scale in ((one, 1.0), (other, shrink[0]))
    ]
    np.testing.assert_allclose(*found, atol=1e-6)


def test_without_a_tilt_fkc_is_the_sde():
    """With the noise of a step between DDPM's small and large one, r'/r apart here."""
    x_T, steps = start(64), grid(20)
    given, plan = pair(64), solvers.ddpm("large")(steps)
    plan.matrix[:, 0, plans.Z] *= np.sqrt(steps.r[1:] / steps.r[:-1])
    ours = tilted.fkc(given, x_T, steps, omega=0.0, key=KEY, particles=16)
    plain = samplers.solve(given, x_T, plan, omega=np.zeros(20), key=KEY)
    np.testing.assert_allclose(ours, plain, atol=1e-5)


def test_a_group_of_particles_is_alone():
    x_T, keys = start(96), noise.image_keys(KEY, jnp.arange(96))
    steps = grid(20)
    whole = tilted.fkc(pair(96), x_T, steps, omega=OMEGA, key=keys, particles=32)
    part = slice(32, 64)
    alone = tilted.fkc(
        pair(32), x_T[part], steps, omega=OMEGA, key=keys[part], particles=32
    )
    np.testing.assert_allclose(whole[part], alone, atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("name", ("cond", "null"))
def test_fkc_names_the_step_and_the_branch_that_was_not_finite(name, caplog):
    """The third group of four meets it where r < 0.5, and the rest ends on images."""
    steps, given = grid(8), pair(16)

    def broken(x, level, cond):
        lost = (cond[:, 0] == 9) & (level.sigma < 0.5 * level.alpha)
        return exact(x, level, cond) + jnp.where(lost, jnp.nan, 0)[:, None]

    cond = given[name].cond.at[8:12, 0].set(9)
    given[name] = prediction.Branch(jax.tree_util.Partial(broken), cond)
    x = tilted.fkc(given, start(16), steps, omega=1.0, key=KEY, particles=4)
    assert np.isfinite(np.delete(x, slice(8, 12), 0)).all()
    k = int(np.flatnonzero(steps.r < 0.5)[0])
    assert (
        f"images, the first one after evaluation {k + 1} of 8 (t = {steps.t[k]:g}): "
        f"the prediction of the branch {name!r} is not finite there"
    ) in caplog.text


def test_drawing_again_is_in_proportion():
    """Systematic: n copies of a particle of weight n / P, give or take one."""
    weight = np.array([[0.1, 0.2, 0.3, 0.4], [0.25, 0.25, 0.25, 0.25]])
    x = jnp.arange(8.0)[:, None]
    log_weight = jnp.log(jnp.asarray(weight)).reshape(-1) + 7.0
    counts = np.zeros(8)
    draw = jax.jit(particles._drawn_again, static_argnums=(3, 4))
    for seed in range(150):
        keys = jax.random.split(jax.random.key(seed), 2)
        drawn, left = draw(x, log_weight, keys, 3.9, 4)
        found = np.bincount(np.asarray(drawn[:, 0], int), minlength=8)
        assert np.all(np.abs(found - 4 * weight.ravel()) < 1 + 1e-5)
        np.testing.assert_array_equal(left[:4], 0)  # and the even group keeps its own
        np.testing.assert_allclose(left[4:], np.log(0.25) + 7, rtol=1e-6)
        counts += found
    np.testing.assert_allclose(counts / 600, weight.ravel(), atol=0.03)


def test_gibbs_by_its_variance():
    """Down from r^2 = v CFG's flow multiplies distances by A, A^2 = (1 + v)^-g
    (1 + v/2)^(g-1), and the conditional draft has variance 1: V <- A^2 (V + v)."""
    sigma, repeats, g = 1.0, 3, 1 + OMEGA
    again = levels.log_snr(None, 100, 0.01, sigma)
    x = tilted.gibbs(
        pair(20_000), start(20_000), grid(200), omega=OMEGA, key=KEY, sigma=sigma,
        repeats=repeats, again=again,
    )  # fmt: skip
    variance, v = 1.0, sigma**2
    for _ in range(repeats):
        variance = (1 + v) ** -g * (1 + v / 2) ** (g - 1) * (variance + v)
    check_variance(x, variance, np.mean(x), 100)


def test_gibbs_takes_the_levels_below_sigma():
    steps = grid(20)
    below = int(np.sum((steps.r <= 2.0) & (steps.r > 0)))
    x, trace = tilted.gibbs(
        pair(4), start(4), steps, omega=np.linspace(1, 2, below), key=KEY, sigma=2.0,
        trace=True,
    )  # fmt: skip
    np.testing.assert_array_equal(trace.evaluations, [1] * 20 + [2] * 2 * below)
    np.testing.assert_allclose(
        trace.omega["null"][:, 0],
        np.r_[np.zeros(20), np.tile(np.linspace(1, 2, below), 2)], rtol=1e-6,
    )  # fmt: skip
    assert np.all(np.isfinite(x))


QUICK = ("ddpm", "dpmpp_2m")
# of the levels of a repeat the first one only
CHURN = dict(churn=60.0, churn_min=0.98)


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("heun", CHURN),
        *(
            pytest.param(n, {}, marks=[] if n in QUICK else pytest.mark.slow)
            for n in solvers.names()
        ),
    ],
)
def test_gibbs_with_any_solver(name, settings):
    """Noising and denoising without guidance leave N(c, 1) as it is."""
    x = tilted.gibbs(
        pair(4000), start(4000), grid(200), omega=0.0, key=KEY,
        again=levels.log_snr(None, 120, 0.01, 1.0),
        solver=solvers.make(name, **settings),
    )  # fmt: skip
    np.testing.assert_allclose(np.var(x), 1.0, atol=0.1)


@pytest.mark.slow
def test_pcg_is_the_sde_of_cfg_at_half_its_tilt():
    """gamma' = 2 gamma - 1: omega twice that of the SDE."""
    x_T, steps = start(20_000), grid(400)
    x = tilted.pcg(pair(20_000), x_T, steps, omega=2 * OMEGA, key=KEY)
    check_variance(x, SDE, np.mean(x), 100)


@pytest.mark.slow
def test_pcg_with_many_corrections_is_near_its_tilt():
    x = tilted.pcg(
        pair(10_000), start(10_000), grid(80), omega=OMEGA, key=KEY, corrections=12
    )
    assert abs(np.var(x) - TILT["variance"]) < 0.06 * TILT["variance"]
    assert np.mean(x) == pytest.approx(TILT["mean"], rel=0.03)


def test_pcg_without_corrections_is_ddim():
    x_T, steps = start(16), grid(20)
    ours = tilted.pcg(pair(16), x_T, steps, omega=3.0, key=KEY, corrections=0)
    plan = solvers.ddim()(steps)
    plain = samplers.solve(pair(16), x_T, plan, omega=np.zeros(20))
    np.testing.assert_allclose(ours, plain, atol=1e-5)


@pytest.mark.parametrize("name", [n for n in tilted.names() if n != "fkc"])
def test_an_image_is_its_own(name):
    x_T, keys = start(6), noise.image_keys(KEY, jnp.arange(6))
    whole = tilted.sample(name, pair(6), x_T, grid(12), omega=1.0, key=keys)
    part = tilted.sample(name, pair(2), x_T[2:4], grid(12), omega=1.0, key=keys[2:4])
    np.testing.assert_allclose(whole[2:4], part, atol=1e-5)


@pytest.mark.parametrize("name", tilted.names())
def test_every_card(name):
    card = registry.card(tilted.TILTED[name].make)
    assert {"Title", "Formula", "Convention", "Space", "Cost", "Neutral"} <= set(card)


@pytest.mark.parametrize(
    ("name", "settings", "words"),
    [
        ("fkc", {"omega": np.ones(8), "particles": 2}, "exact for one finite number"),
        ("fkc", {"particles": 4}, "no whole groups of 4 particles"),
        ("fkc", {"particles": 3}, "'cond' differ within a group of 3"),
        ("fkc", {"particles": 2, "threshold": 2.0}, r"threshold must lie in \[0, 1\]"),
        ("gibbs", {"repeats": -1}, "repeats must not be negative"),
        ("gibbs", {"sigma": 1e-3}, "no level is at most sigma = 0.001 noisy"),
        ("gibbs", {"sigma": 1e6}, "where the grid begins"),
        ("gibbs", {"omega": np.ones(3)}, "pass a number, or one for each"),
        ("pcg", {"size": 0.0}, r"size lie in \(0, 4\]"),
        ("pcg", {"omega": np.ones(3)}, r"omega has shape \(3,\)"),
    ],
)
def test_bad_settings(name, settings, words):
    given = pair(6)
    if settings.get("particles") == 3:
        cond = given["cond"].cond.at[1].set(9.0)
        given["cond"] = prediction.Branch(EXACT, cond)
    settings = dict(omega=1.0, key=KEY) | settings
    with pytest.raises(ValueError, match=f"^{name}: .*{words}"):
        tilted.sample(name, given, start(6), grid(8), **settings)


def test_an_unknown_name():
    with pytest.raises(ValueError, match="unknown tilted sampler 'fck': did you mean"):
        tilted.sample("fck", pair(2), start(2), grid(8), omega=1.0, key=KEY)
