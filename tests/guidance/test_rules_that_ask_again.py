"""Rules that ask away from x_t, or for a gradient, against closed forms."""

import math

import by_hand
import jax.numpy as jnp
import numpy as np
import pytest

from progguide_jax.diffusion import samplers, solvers
from progguide_jax.guidance import rules

OMEGA = np.linspace(0.4, 2.0, 8)
A_C, A_U, M_C, M_U = 0.8, 0.5, 1.0, -0.5


def straight(xp, x, alpha, sigma, label):
    """eps = a (x - alpha m), a and m with the condition and without it."""
    with_ = xp.reshape(xp.asarray(label, x.dtype), (-1, 1, 1, 1)) >= 0
    a, m = xp.where(with_, A_C, A_U), xp.where(with_, M_C, M_U)
    return a * (x - alpha * m)


def test_characteristic_of_a_linear_network(x64):
    """d solves d = sigma (a_u (y_u + (1 + w) d) - a_c (y_c + w d)), y = x - alpha m."""

    def guided(k, x, alpha, sigma, ask):
        w = OMEGA[k]
        right = sigma * (ask(x, False) - ask(x, True))
        d = right / (1 - sigma * (A_U * (1 + w) - A_C * w))
        return (1 + w) * ask(x + w * d, True) - w * ask(x + (1 + w) * d, False)

    wanted = by_hand.ddim(guided, fn=straight)
    rule = rules.characteristic(iterations=60, tolerance=1e-12)
    found = by_hand.ours(rule, OMEGA, given=by_hand.branches(straight))
    np.testing.assert_allclose(found, wanted, atol=1e-9)
    cfg = by_hand.ours(rules.cfg(), OMEGA, given=by_hand.branches(straight))
    assert np.abs(found - cfg).max() > 0.1


def iterated(iterations, tolerance, rate, seen):
    """The iteration, image by image."""

    def guided(k, x, alpha, sigma, ask):
        w, steps = OMEGA[k], []
        eps = np.zeros_like(x)
        for i in range(len(x)):

            def at(y, conditioned, i=i):
                whole = np.zeros_like(x)
                whole[i] = y
                return ask(whole, conditioned)[i]

            d, best, done = np.zeros_like(x[i]), None, 0
            while True:
                c, u = at(x[i] + w * d, True), at(x[i] + (1 + w) * d, False)
                rest = d - sigma * (u - c)
                size = np.sqrt(np.mean(rest**2))
                if best is None or size < best[0]:
                    best = size, (1 + w) * c - w * u
                if best[0] <= tolerance or done == iterations:
                    break
                d, done = d - rate * rest, done + 1
            eps[i] = best[1]
            steps.append(done)
        seen.append(steps)
        return eps

    return guided


@pytest.mark.parametrize("rate", [1.0, 0.5])
def test_characteristic_iterates_each_image_by_itself(rate, x64):
    """Of a curved network, for which some images need more iterations than others."""
    seen = []
    wanted = by_hand.ddim(iterated(7, 1e-2, rate, seen))
    rule = rules.characteristic(iterations=7, tolerance=1e-2, rate=rate)
    found, trace = by_hand.ours(rule, OMEGA, trace=True)
    np.testing.assert_allclose(found, wanted, atol=1e-9)
    steps = np.array(seen)
    assert np.any(np.ptp(steps, axis=1) > 0)
    np.testing.assert_array_equal(trace.evaluations, 2 + 2 * steps.max(1))


def test_characteristic_where_the_iteration_runs_away(x64):
    """By sigma (a_u (1 + w) - a_c w) = 5 sigma each d is worse than d = 0, CFG."""

    def steep(xp, x, alpha, sigma, label):
        with_ = xp.reshape(xp.asarray(label, x.dtype), (-1, 1, 1, 1)) >= 0
        return xp.where(with_, 1.0, 3.0) * (x - alpha)

    given, omega = by_hand.branches(steep), np.ones(8)
    plan = solvers.ddim()(by_hand.GRID)
    rule, x = rules.characteristic(), jnp.asarray(by_hand.start())
    _, path = samplers.solve(given, x, plan, omega=omega, rule=rule, trajectory=True)
    _, cfg = samplers.solve(given, x, plan, omega=omega, trajectory=True)
    np.testing.assert_allclose(path[1], cfg[1], atol=1e-9)


def test_reg_by_hand(x64):
    """Pixel by pixel, the sum of sin(x) + b mean(x) has the gradient cos(x) + b."""

    def wavy(xp, x, alpha, sigma, label):
        b = 0.1 * xp.reshape(xp.asarray(label, x.dtype), (-1, 1, 1, 1))
        return sigma * (xp.sin(x) + b * x.mean((1, 2, 3), keepdims=True))

    def guided(k, x, alpha, sigma, ask):
        slope = sigma * (np.cos(x) + 0.1 * by_hand.LABEL[:, None, None, None])
        d = (ask(x, True) - ask(x, False)) * (1 - 0.7 * sigma * slope)
        return ask(x, True) + OMEGA[k] * d

    wanted = by_hand.ddim(guided, fn=wavy)
    given = by_hand.branches(wavy)
    found, trace = by_hand.ours(rules.reg(strength=0.7), OMEGA, given=given, trace=True)
    np.testing.assert_allclose(found, wanted, atol=1e-8)
    np.testing.assert_array_equal(trace.evaluations, [3] * 8)


def test_tsr_samples_a_gaussian_of_another_temperature(x64):
    """The rule on the exact eps of N(m, std^2) is the exact eps of N(m, std^2 / k)."""
    k, std, m = 2.5, 0.4, 0.3

    def eps(variance):
        def fn(xp, x, alpha, sigma, label):
            return sigma * (x - alpha * m) / (alpha**2 * variance + sigma**2)

        return fn

    given = by_hand.branches(eps(std**2))
    found = by_hand.ours(rules.tsr(k=k, std=std), OMEGA, given=given)
    wanted = by_hand.ddim(lambda j, x, a, s, ask: ask(x, True), fn=eps(std**2 / k))
    np.testing.assert_allclose(found, wanted, atol=1e-9)


def test_from_pure_noise():
    """At alpha = 0 a v-network starts it, and the first step of tsr is that of CFG."""
    grid, given = by_hand.from_pure_noise()
    x_T = jnp.asarray(by_hand.start(), jnp.float32)
    plan, path = solvers.ddim()(grid), {}
    for name in ("tsr", "cfg", "reg", "characteristic"):
        x_0, path[name] = samplers.solve(
            given, x_T, plan, omega=np.ones(6), rule=rules.make(name), trajectory=True
        )
        assert np.all(np.isfinite(x_0))
    np.testing.assert_allclose(path["tsr"][1], path["cfg"][1], atol=1e-5)


@pytest.mark.parametrize(
    ("name", "settings", "words"),
    [
        ("characteristic", {"iterations": -1}, "iterations must not be negative"),
        ("characteristic", {"rate": 0.0}, r"rate lie in \(0, 1\]"),
        ("reg", {"strength": math.nan}, "strength must be finite"),
        ("tsr", {"k": 0.0}, "k and std must be positive"),
        ("tsr", {"std": math.inf}, "k and std must be positive and finite"),
    ],
)
def test_bad_settings(name, settings, words):
    with pytest.raises(ValueError, match=f"^{name}: .*{words}"):
        rules.make(name, **settings)
