"""Rules without memory where they are special: by hand, at limits, at mistakes."""

import math

import numpy as np
import pytest
from one_step import ALPHA, SIGMA, apply, draw, length, x0_of

from progguide_jax.guidance import rules


@pytest.fixture(autouse=True)
def wide(x64):
    """Every test here is in float64."""


def test_adg_by_hand():
    """x0_u = (1, 0), x0_c at 30 degrees: with omega 1 it turns by 30 more.

    official: e = (0, 1/2), so cos 30 (cos 30, 1/2) + (sin 30 / sin 30) (0, 1/2).
    """
    s = math.sqrt(3) / 2
    c, u = np.array([[s, 0.5]]), np.array([[1.0, 0.0]])
    eps_c, eps_u = -ALPHA / SIGMA * c, -ALPHA / SIGMA * u
    zero = np.zeros((1, 2))
    found = apply(rules.adg(), zero, eps_c, eps_u, 1.0)
    np.testing.assert_allclose(found, [[0.75, s / 2 + 0.5]], atol=1e-12)
    found = apply(rules.adg(variant="exact"), zero, eps_c, eps_u, 1.0)
    np.testing.assert_allclose(found, [[0.5, s]], atol=1e-12)
    # never by more than 60 degrees
    found = apply(rules.adg(variant="exact"), zero, eps_c, eps_u, 100.0)
    np.testing.assert_allclose(found, [[0.0, 1.0]], atol=1e-12)
    # and not at all below 0
    found = apply(rules.adg(), zero, eps_c, eps_u, -0.5)
    np.testing.assert_allclose(found, c, atol=1e-12)


@pytest.mark.parametrize("variant", ["official", "norm_restored", "exact"])
def test_adg_and_lengths(variant):
    x, c, u = draw(3)
    found = apply(rules.adg(variant=variant), x, c, u, 8.0)
    own = x0_of(x, c)
    ratio = [length(a) / length(b) for a, b in zip(found, own, strict=True)]
    if variant == "official":
        assert max(ratio) <= math.sqrt(2) and max(ratio) > 1.1
    else:
        np.testing.assert_allclose(ratio, 1, rtol=1e-12)
    if variant == "norm_restored":
        norms = [np.linalg.norm(a, axis=-1) for a in (found, own)]
        np.testing.assert_allclose(*norms, rtol=1e-12)


def test_pmc_stays_at_the_cap_or_below_it():
    """Whichever way the difference points; in float32 too, where roots cancel."""
    for seed in range(4):
        x, c, u = (a.astype(np.float32) for a in draw(seed))
        own, found = x0_of(x, c), apply(rules.pmc(1.05), x, c, u, 50.0)
        ratio = [length(a) / length(b) for a, b in zip(found, own, strict=True)]
        np.testing.assert_allclose(ratio, 1.05, rtol=1e-5)
        gentle = apply(rules.pmc(1.05), x, c, u, 0.001)
        plain = apply(rules.cfg(), x, c, u, 0.001)
        np.testing.assert_allclose(gentle, plain, atol=1e-5)


def test_a_velocity_of_0_is_no_step_of_flow_matching():
    """x0 and eps are then the same, x / (alpha + sigma), which a step of DDIM keeps."""
    x, c, u = draw()
    rule = rules.cfg_zero(zero_init=2)
    for index in (0, 1):
        still = apply(rule, x, c, u, 2.0, index)
        np.testing.assert_allclose(still, x / (ALPHA + SIGMA), rtol=1e-12)
    moved = apply(rule, x, c, u, 2.0, 2)
    np.testing.assert_array_equal(moved, apply(rules.cfg_zero(), x, c, u, 2.0, 2))


def test_parallel_predictions():
    """Where p_u is a multiple of p_c nothing of CFG-Zero*'s shift is left, and TCFG
    keeps all of p_u."""
    x, c, _ = draw()
    u = 0.5 * c
    found = apply(rules.cfg_zero(space="eps"), x, c, u, 3.0)
    np.testing.assert_allclose(found, x0_of(x, c), atol=1e-9)
    found = apply(rules.tcfg(), x, c, u, 3.0)
    np.testing.assert_allclose(found, apply(rules.cfg(), x, c, u, 3.0), atol=1e-9)


# without a memory or evaluations of their own; the others are linear in eps, or, as
# recfg and tsr, scale what the predictions have in common
EQUAL = [
    name
    for name, entry in rules.RULES.items()
    if name not in ("cfgpp", "recfg", "tsr")
    and entry.make().init is None
    and not entry.calls
]


@pytest.mark.parametrize("name", EQUAL)
def test_equal_predictions_stay_what_they_are(name):
    """Also where they are 0, as those of a new network; ep_cfg and others divide by
    their length."""
    x, c, _ = draw()
    found = apply(rules.make(name), x, c, c, 3.0)
    np.testing.assert_allclose(found, x0_of(x, c), atol=1e-9)
    nothing = np.zeros_like(c)
    for eps, state in ((nothing, x), (x / SIGMA, x), (nothing, nothing)):
        assert np.all(np.isfinite(apply(rules.make(name), state, eps, eps, 3.0)))


@pytest.mark.parametrize(
    ("name", "settings", "words"),
    [
        ("adg", {"max_angle": -1.0}, "max_angle must be 0 or more"),
        ("adg", {"variant": "exakt"}, "unknown variant of adg.*did you mean 'exact'"),
        ("rescale", {"phi": 1.5}, r"phi must lie in \[0, 1\], got 1.5"),
        ("rescale", {"space": "velocity"}, "unknown space of rescale.*eps, x0, v, flo"),
        ("cfg_renorm", {"ratio": 0.0}, "ratio must be positive"),
        ("ep_cfg", {"low": 60.0, "high": 50.0}, "percentiles with low < high"),
        ("ep_cfg", {"strength": math.nan}, r"strength must lie in \[0, 1\]"),
        ("beta_norm", {"gamma": -1.0}, "gamma must be 0 or more"),
        ("power_law", {"exponent": -1.0}, "exponent must be above -1"),
        ("pmc", {"norm_cap": 0.9}, "norm_cap must be at least 1"),
        ("vags", {"kappa": math.inf}, "kappa must be finite"),
        ("mambo_g", {"alpha": -1.0}, "alpha must be 0 or more"),
        ("mambo_g", {"space": "epsilon"}, "unknown space of mambo_g 'epsilon'"),
        ("cfg_zero", {"zero_init": -1}, "zero_init must be 0 or more"),
        ("cfg_zero", {"strength": math.nan}, "strength must be finite"),
        ("tcfg", {"strength": math.inf}, "strength must be finite"),
        ("adamag", {"gamma": -1.0}, "gamma must be 0 or more"),
        ("adamag", {"beta": math.nan}, "beta and w_min must be finite"),
        ("fdg", {"low": math.nan}, "low must be finite"),
        ("recfg", {"ratio": math.nan}, "ratio has entries that are not finite"),
    ],
)
def test_bad_settings(name, settings, words):
    with pytest.raises(ValueError, match=words):
        rules.make(name, **settings)
