"""Rules with memory against NumPy loops written from their formulas."""

import by_hand
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.fft

from progguide_jax.diffusion import levels, prediction, samplers, solvers
from progguide_jax.guidance import rules
from progguide_jax.guidance.rules import history

OMEGA = np.linspace(0.4, 2.0, 8)


def turning(speed):
    """eps_c = (1, 0), and eps_u at the angle 90 degrees t / T times speed[image]."""

    def fn(x, level, label):
        angle = jnp.pi / 2 * level.t / 1000 * label
        return jnp.stack([jnp.cos(angle), jnp.sin(angle)], -1).astype(x.dtype)

    def toward(x, level, label):
        return fn(x, level, 0 * label)

    given = {"cond": toward, "null": fn}
    return {
        name: prediction.Branch(jax.tree_util.Partial(f), jnp.asarray(speed))
        for name, f in given.items()
    }


def test_adaptive_stops_each_image_where_its_cosine_says():
    """t falls 875, 750 ... 0, and the step that first has a cosine above cos(45
    degrees), with speed 1 that at t = 375, is the last that is guided."""
    speed = np.array([1.0, 0.8, 0.6])
    t = np.arange(8)[::-1] * 125
    above = np.cos(np.pi / 2 * t[:, None] / 1000 * speed) > np.cos(np.pi / 4)
    last = above.argmax(0)  # the first step above is the last that is guided
    assert last.tolist() == [4, 3, 1]
    given, x_T = turning(speed), np.ones((3, 2))
    rule = rules.adaptive(threshold=float(np.cos(np.pi / 4)))
    found, trace = by_hand.ours(rule, OMEGA, x_T, given, trace=True)
    guided = np.arange(8)[:, None] <= last
    wanted = by_hand.ours(rules.cfg(), OMEGA[:, None] * guided, x_T, given)
    np.testing.assert_allclose(found, wanted, atol=1e-4)
    np.testing.assert_array_equal(trace.evaluations, [2] * 5 + [1] * 3)


def test_adaptive_does_not_begin_again():
    """The cosine rises above the threshold once, in the middle, and falls again."""

    def bump(x, level, label):
        angle = jnp.where(jnp.abs(level.t - 500) < 10, 0.0, 1.0)
        return jnp.stack([jnp.cos(angle), jnp.sin(angle)], -1).astype(x.dtype)

    given = turning(np.zeros(3)) | {
        "null": prediction.Branch(jax.tree_util.Partial(bump), jnp.zeros(3))
    }
    _, trace = by_hand.ours(rules.adaptive(), OMEGA, np.ones((3, 2)), given, trace=True)
    np.testing.assert_array_equal(trace.evaluations, [2] * 4 + [1] * 4)


def test_smc_by_hand(x64):
    """f = eps - x0, the velocity of x / (alpha + sigma) = (1 - t) x0 + t eps."""
    slope, gain, before = 5.0, 0.2, None

    def guided(k, x, alpha, sigma, ask):
        nonlocal before
        eps = {c: ask(x, c) for c in (True, False)}
        f = {c: e - (x - sigma * e) / alpha for c, e in eps.items()}
        d = f[True] - f[False]
        before = d if before is None else before
        before = d - gain * np.sign((d - before) + slope * before)
        mixed = f[False] + (1 + OMEGA[k]) * before
        t = sigma / (alpha + sigma)
        return x / (alpha + sigma) + (1 - t) * mixed

    wanted = by_hand.ddim(guided)
    found = by_hand.ours(rules.make("smc", slope=slope, gain=gain), OMEGA)
    np.testing.assert_allclose(found, wanted, atol=1e-9)
    cfg = by_hand.ours(rules.cfg(), OMEGA)
    assert np.abs(found - cfg).max() > 0.05


def feedback_by_hand(pi, tau, delta, most):
    """What the authors do with x / alpha, at noise r; omega multiplies lambda - 1."""
    levels_r, log_posterior, last = by_hand.GRID.r, np.zeros((3, 1, 1, 1)), None

    def guided(k, x, alpha, sigma, ask):
        nonlocal log_posterior, last
        eps_c, eps_u = ask(x, True), ask(x, False)
        y, r = x / alpha, levels_r[k]
        if last is not None:
            y_0, r_0, D_c, D_u = last
            m_c, m_u = (
                r**2 / r_0**2 * y_0 + (r_0**2 - r**2) / r_0**2 * D for D in (D_c, D_u)
            )
            v = (r_0**2 - r**2) * r**2 / r_0**2
            nearer = by_hand.sums((y - m_c) ** 2) - by_hand.sums((y - m_u) ** 2)
            log_posterior = log_posterior - tau / (2 * v) * nearer + delta
            least = np.log((1 - pi) * most / (most - 1))
            log_posterior = np.clip(log_posterior, least, 3)
        last = y, r, (x - sigma * eps_c) / alpha, (x - sigma * eps_u) / alpha
        ratio = np.exp(log_posterior)
        w = ratio / (ratio - (1 - pi))
        seen.append(w.ravel())
        return eps_c + OMEGA[k] * (w - 1) * (eps_c - eps_u)

    seen = []
    return by_hand.ddim(guided), np.array(seen)


def test_feedback_by_hand(x64):
    settings = dict(pi=0.9, tau=2e-4, delta=-0.4, most=6.0)
    wanted, weights = feedback_by_hand(**settings)
    found = by_hand.ours(rules.make("feedback", **settings), OMEGA)
    np.testing.assert_allclose(found, wanted, atol=1e-9)
    assert weights[0] == pytest.approx(1 / 0.9)
    assert np.ptp(weights, axis=1).max() > 0.1
    assert weights.max() == pytest.approx(6.0)  # and L is 3 at most:
    assert weights.min() == pytest.approx(1 / (1 - 0.1 / np.e**3))


def test_the_settings_of_feedback_for_a_grid():
    """delta: 3 (1 - pi) / 2 = e^(delta steps / 2). tau of EDM's 64 levels."""
    grid = levels.karras(None, 64, 0.002, 80.0)
    settings = rules.feedback_settings(grid)
    assert settings["delta"] == pytest.approx(2 * np.log(0.075) / 64, rel=1e-12)
    i = np.arange(64)
    s = (80 ** (1 / 7) + i / 63 * (0.002 ** (1 / 7) - 80 ** (1 / 7))) ** 7
    v = np.zeros(64)
    for i in range(63):
        v[63 - i] = (s[i] ** 2 - s[i + 1] ** 2) * s[i + 1] ** 2 / s[i] ** 2
    at = 0.6 * v[26] + 0.4 * v[25]  # 0.4 * 64 = 25.6
    assert settings["tau"] == pytest.approx(2 * at / 10 * -settings["delta"], rel=1e-9)


@pytest.mark.parametrize("steps", [10, 50])
def test_feedback_takes_tau_and_delta_from_the_grid(steps, x64):
    """Without evidence the weight is 3 after half of the steps: e^L = 3 (1 - pi) / 2.
    tau as above, of a DDPM grid."""
    grid = levels.from_timesteps(by_hand.NS, levels.timesteps(1000, steps))
    plan = solvers.ddim()(grid)
    rule = rules.feedback().on(plan)
    assert rule.settings["delta"] * steps / 2 == pytest.approx(np.log(0.075))
    v = grid.r[1:] ** 2 * (1 - (grid.r[1:] / grid.r[:-1]) ** 2)
    at = v[steps - 1 - int(0.4 * steps)]
    expected = -2 * at * rule.settings["delta"] / 10
    assert rule.settings["tau"] == pytest.approx(expected)
    given = rules.feedback(tau=1.0, delta=-2.0).on(plan).settings
    assert (given["tau"], given["delta"]) == (1.0, -2.0)
    with pytest.raises(ValueError, match="the plan does not say its levels"):
        rules.feedback().on(plan._replace(levels=None))


def test_cfg_cache_by_hand(x64):
    """Every third step; image 2 is guided from the third step on and begins afresh."""
    omega = np.repeat(OMEGA[:, None], 3, 1)
    omega[:2, 2] = 0
    cache, steps = np.zeros(by_hand.start().shape), np.zeros(3, int)

    def guided(k, x, alpha, sigma, ask):
        nonlocal cache
        d = ask(x, True) - ask(x, False)
        for i in range(3):
            if omega[k, i]:
                cache[i] = d[i] if steps[i] % 3 == 0 else cache[i]
                steps[i] += 1
        return ask(x, True) + omega[k][:, None, None, None] * cache

    wanted = by_hand.ddim(guided)
    rule = rules.make("cfg_cache", every=3)
    found, trace = by_hand.ours(rule, omega, trace=True)
    np.testing.assert_allclose(found, wanted, atol=1e-9)
    np.testing.assert_array_equal(trace.evaluations, [2, 1, 2, 2, 1, 2, 2, 1])
    np.testing.assert_allclose(trace.applied["null"], omega, atol=1e-6)
    _, trace = by_hand.ours(rule, OMEGA, trace=True)
    np.testing.assert_array_equal(trace.evaluations, [2, 1, 1, 2, 1, 1, 2, 1])


@pytest.mark.parametrize("cfg", [0.0, 0.7])
def test_higs_by_hand(cfg, x64):
    mean, eta, cutoff, sharpness = 0.6, 0.3, 0.2, 20.0
    history = None
    f = np.hypot(np.arange(4)[:, None] / 4, np.arange(6) / 6)
    mask = 1 / (1 + np.exp(-sharpness * (f - cutoff)))

    def guided(step, x, alpha, sigma, ask):
        nonlocal history
        c, u = ((x - sigma * ask(x, with_)) / alpha for with_ in (True, False))
        d = (1 + cfg) * c - cfg * u
        if history is None:
            history, moved = mean * d, d
        else:
            g = d - history
            unit = d / np.sqrt(by_hand.sums(d**2))
            along = by_hand.sums(g * unit) * unit
            g = (g - along) + eta * along
            spectrum = scipy.fft.dctn(g, axes=(1, 2), norm="ortho")
            g = scipy.fft.idctn(spectrum * mask[..., None], axes=(1, 2), norm="ortho")
            moved, history = d + OMEGA[step] * g, mean * d + (1 - mean) * history
        return (x - alpha * moved) / sigma

    wanted = by_hand.ddim(guided)
    rule = rules.make(
        "higs", mean=mean, eta=eta, cutoff=cutoff, sharpness=sharpness, cfg=cfg
    )
    found, trace = by_hand.ours(rule, OMEGA, trace=True)
    np.testing.assert_allclose(found, wanted, atol=1e-8)
    np.testing.assert_array_equal(trace.evaluations, [2 if cfg else 1] * 8)


def test_higs_leaves_the_mean_of_an_image_alone():
    """What all pixels have in common is frequency 0, and a vector is filtered too."""
    flat = jnp.ones((2, 8, 8, 3))
    assert np.abs(history.highpass(flat, 0.05, 500.0)).max() < 1e-5
    edge = jnp.asarray(np.tile([1.0, -1.0], 4), jnp.float32)[None]
    np.testing.assert_allclose(history.highpass(edge, 0.05, 500.0), edge, atol=1e-5)


@pytest.mark.parametrize("name", ["smc", "feedback", "cfg_cache", "higs"])
def test_from_pure_noise(name):
    """alpha = 0 at the first level: nothing is divided by it."""
    grid, given = by_hand.from_pure_noise()
    x_T = jnp.asarray(by_hand.start(), jnp.float32)
    found = samplers.solve(
        given, x_T, solvers.ddim()(grid), omega=np.ones(6), rule=rules.make(name)
    )
    assert np.all(np.isfinite(found))


@pytest.mark.parametrize(
    ("name", "settings", "words"),
    [
        ("adaptive", {"threshold": -1.0}, "threshold is a cosine"),
        ("adaptive", {"rule": "adaptive"}, "rule is one that stops by itself: use"),
        ("adaptive", {"rule": rules.apg}, "rule is <function apg.*: pass a Rule"),
        ("feedback", {"pi": 0.0}, r"pi must lie in \(0, 1\]"),
        ("feedback", {"tau": -1.0}, r"tau must be finite and not negative \(None"),
        ("feedback", {"most": 1.0}, "most must be above 1"),
        ("feedback", {"t_1": 1.0}, "t_1 is a share of the way"),
        ("smc", {"gain": -0.1}, "gain finite and not negative"),
        ("cfg_cache", {"every": 0}, "every must be at least 1"),
        ("higs", {"mean": 0.0}, r"mean must lie in \(0, 1\]"),
        ("higs", {"sharpness": 0.0}, "sharpness must be positive"),
    ],
)
def test_bad_settings(name, settings, words):
    with pytest.raises(ValueError, match=f"^{name}: .*{words}"):
        rules.make(name, **settings)
