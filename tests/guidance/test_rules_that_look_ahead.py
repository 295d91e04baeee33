"""Rules that ask at another level, against NumPy written from their formulas."""

import by_hand
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from progguide_jax.diffusion import prediction
from progguide_jax.guidance import rules

OMEGA = np.linspace(0.4, 2.0, 8)


@pytest.mark.parametrize("reach", [0.5, 0.8])
def test_rectified_cfgpp_by_hand(reach, x64):
    """The three lines of the paper's algorithm in the coordinates of flow matching."""
    grid = by_hand.GRID
    whole = grid.alpha + grid.sigma
    time = grid.sigma / whole
    z = by_hand.start() / whole[0]
    for k, omega in enumerate(OMEGA):
        dt = time[k + 1] - time[k]
        v_c = by_hand.velocity(z, time[k], True)
        last = k == len(OMEGA) - 1  # from t = 0, below which no network knows a level
        half = 0 if last else reach * dt
        z_m, t_m = z + half * v_c, time[k] + half
        z = z + dt * (
            v_c
            + omega
            * (by_hand.velocity(z_m, t_m, True) - by_hand.velocity(z_m, t_m, False))
        )
    rule = rules.make("rectified_cfgpp", reach=reach)
    found = by_hand.ours(rule, OMEGA)
    np.testing.assert_allclose(found, z, atol=1e-9)
    assert np.abs(found - by_hand.ours(rules.cfg(), OMEGA)).max() > 0.01


def test_fsg_by_hand(x64):
    """Of 8 steps: 0 twice, 1 twice and 3 once, a step ahead; then a step of CFG++."""
    grid, weight, lam = by_hand.GRID, 3.0, 0.6
    label, none = by_hand.LABEL, 0 * by_hand.LABEL - 1
    x = by_hand.start()
    for k in range(8):
        (a, s), (a_m, s_m) = ((grid.alpha[i], grid.sigma[i]) for i in (k, k + 1))

        def ask(x, label, a=a, s=s):
            return by_hand.network(np, x, a, s, label)

        for _ in range({0: 2, 1: 2, 3: 1}.get(k, 0)):
            eps = ask(x, none) + weight * (ask(x, label) - ask(x, none))
            x_m = a_m * (x - s * eps) / a + s_m * eps
            back = ask(x_m, none, a_m, s_m)
            x = a * (x_m - s_m * back) / a_m + s * back
        u = ask(x, none)
        eps = u + lam * (ask(x, label) - u)
        x = a_m * (x - s * eps) / a + s_m * u
    rule = rules.make("fsg", weight=weight)
    found, trace = by_hand.ours(rule, np.full(8, lam - 1), trace=True)
    np.testing.assert_allclose(found, x, atol=1e-9)
    cost = [2 + 3 * n for n in (2, 2, 0, 1, 0, 0, 0, 0)]
    np.testing.assert_array_equal(trace.evaluations, cost)


def test_the_network_is_told_the_level_of_x_m(x64):
    """eps is how far the t that it is told is from that of sigma / alpha: 0."""
    log_r, steps = jnp.asarray(by_hand.NS.log_r), jnp.arange(1000.0)

    def off(x, level, label):
        right = jnp.interp(jnp.log(level.sigma / level.alpha), log_r, steps)
        return 0 * x + prediction.per_image(level.t - right, x)

    off = jax.tree_util.Partial(off)
    given = {
        name: prediction.Branch(off, jnp.full(3, label))
        for name, label in (("cond", 1.0), ("null", 0.0))
    }
    found = by_hand.ours(rules.make("rectified_cfgpp"), OMEGA, given=given)
    np.testing.assert_allclose(found, by_hand.start() / by_hand.GRID.alpha[0])


@pytest.mark.parametrize(
    ("name", "settings", "words"),
    [
        ("rectified_cfgpp", {"reach": 1.0}, "reach is a share of the step"),
        ("fsg", {"weight": np.inf}, "weight must be finite"),
        ("fsg", {"starts": (0.0, 1.0)}, "starts is a share of the steps"),
    ],
)
def test_bad_settings(name, settings, words):
    with pytest.raises(ValueError, match=f"^{name}: .*{words}"):
        rules.make(name, **settings)
