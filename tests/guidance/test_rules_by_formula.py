"""Each rule without memory against its formula, in float64 NumPy, image by image."""

import math

import numpy as np
import pytest
from one_step import (
    ALPHA,
    SIGMA,
    SPACES,
    apply,
    draw,
    flow_of,
    inner,
    length,
    x0_of_flow,
)

from progguide_jax.guidance import rules


@pytest.fixture(autouse=True)
def wide(x64):
    """Every test here is in float64."""


def in_space(space, combine):
    """A formula combine(c, u, omega) in a space, as one of (x, eps_c, eps_u, omega)."""
    to, back = SPACES[space]
    return lambda x, c, u, omega: back(x, combine(to(x, c), to(x, u), omega))


def adg(variant, max_angle, center):
    def combine(c, u, omega):
        mean = c.mean((0, 1)) if center else 0.0
        c, u = c - mean, u - mean
        theta = math.acos(inner(c, u) / length(c) / length(u))
        turn = min(omega * theta, max_angle)
        e = c - inner(c, u) / inner(u, u) * u
        x0 = math.cos(turn) * c + math.sin(turn) / math.sin(theta) * e
        if variant == "norm_restored":
            for i, j in np.ndindex(c.shape[:2]):
                x0[i, j] *= length(c[i, j]) / length(x0[i, j])
        if variant == "exact":
            along, across = u / length(u), e / length(e)
            turned = theta + turn
            x0 = math.cos(turned) * along + math.sin(turned) * across
            x0 = length(c) * x0
        return x0 + mean

    return combine


def rescale(c, u, omega):
    p = c + omega * (c - u)
    return p * (0.7 * c.std() / p.std() + 0.3)


def cfg_renorm(c, u, omega):
    p = c + omega * (c - u)
    return p if length(p) <= 1.1 * length(c) else p * 1.1 * length(c) / length(p)


def ep_cfg(c, u, omega):
    p = c + omega * (c - u)
    return p * length(c) / length(p)


def robust_ep_cfg(c, u, omega):
    def energy(a):
        squares = np.sort(a.ravel() ** 2)
        low, high = np.percentile(squares, [40, 60])
        return sum(s for s in squares if low <= s <= high)

    p = c + omega * (c - u)
    return p * (0.75 * math.sqrt(energy(c) / energy(p)) + 0.25)


def beta_norm(c, u, omega):
    return u + (1 + omega) * (c - u) / length(c - u) ** 0.8


def power_law(c, u, omega):
    """On scores s = -eps / sigma, and back to eps."""
    s_c, s_u = -c / SIGMA, -u / SIGMA
    s = s_c + omega * length(s_c - s_u) ** 0.9 * (s_c - s_u)
    return -SIGMA * s


def pmc(c, u, omega):
    """The largest weight by bisection."""
    low, high = 0.0, 1e4
    for _ in range(200):
        middle = (low + high) / 2
        inside = length(c + middle * (c - u)) <= 1.05 * length(c)
        low, high = (middle, high) if inside else (low, middle)
    return c + min(omega, low) * (c - u)


def vags(c, u, omega):
    agree = inner(c, u) / length(c) / length(u)
    signal = ALPHA / (ALPHA + SIGMA)
    w = (1 + omega) * math.exp(0.9 * (2 * signal - 1) * agree)
    return u + w * (c - u)


def mambo_g(c, u, omega):
    w = 1 + omega * math.exp(-0.5 * length(c - u) / length(u))
    return u + w * (c - u)


def cfg_zero(c, u, omega):
    s = inner(c, u) / inner(u, u)
    return s * u + (1 + omega) * (c - s * u)


def tcfg(c, u, omega):
    """By the SVD of the two rows."""
    _, _, right = np.linalg.svd(np.stack([c.ravel(), u.ravel()]), full_matrices=False)
    kept = inner(u.ravel(), right[0]) * right[0].reshape(c.shape)
    return kept + (1 + omega) * (c - kept)


def adamag(x, c, u, omega):
    """On the velocity, split along eps_c, at the time sigma / (alpha + sigma)."""
    f_c, f_u = flow_of(x, c), flow_of(x, u)
    g = f_c - f_u
    parallel = inner(g, c) / inner(c, c) * c
    time = SIGMA / (ALPHA + SIGMA)
    w = max(0.4, (1 + omega) * time**3)
    return x0_of_flow(x, f_u + w * (g - parallel + 0.1 * parallel))


def recfg(c, u, omega):
    return (1 + omega) * c - omega * 0.9 * u


CASES = [
    ("adg", {"variant": v, "max_angle": a, "center": m},
     in_space("x0", adg(v, a, m)))
    for v in ("official", "norm_restored", "exact")
    for a in (math.pi / 3, math.inf)
    for m in (False, True)
] + [
    ("rescale", {"space": space}, in_space(space, rescale))
    for space in ("v", "eps")
] + [
    ("rescale", {}, in_space("v", rescale)),
    ("cfg_renorm", {"ratio": 1.1}, in_space("flow", cfg_renorm)),
    ("cfg_renorm", {"ratio": 1.1, "space": "x0"}, in_space("x0", cfg_renorm)),
    ("ep_cfg", {}, in_space("flow", ep_cfg)),
    ("ep_cfg", {"robust": True, "low": 40.0, "high": 60.0, "strength": 0.75},
     in_space("flow", robust_ep_cfg)),
    ("beta_norm", {"gamma": 0.8}, in_space("eps", beta_norm)),
    ("power_law", {}, in_space("eps", power_law)),
    ("pmc", {}, in_space("x0", pmc)),
    ("vags", {"kappa": 0.9}, in_space("flow", vags)),
    ("mambo_g", {"alpha": 0.5}, in_space("flow", mambo_g)),
    ("mambo_g", {"alpha": 0.5, "space": "eps"}, in_space("eps", mambo_g)),
    ("cfg_zero", {}, in_space("flow", cfg_zero)),
    ("cfg_zero", {"space": "v"}, in_space("v", cfg_zero)),
    ("tcfg", {}, in_space("eps", tcfg)),
    ("tcfg", {"space": "x0"}, in_space("x0", tcfg)),
    ("adamag", {"gamma": 3.0, "w_min": 0.4}, adamag),
    ("recfg", {"ratio": 0.9}, in_space("eps", recfg)),
]  # fmt: skip


@pytest.mark.parametrize("predicts", ["eps", "v"])
@pytest.mark.parametrize(("name", "settings", "formula"), CASES)
def test_it_is_its_formula(name, settings, formula, predicts):
    """On images that agree much and little, each with an omega of its own."""
    for seed, omega in enumerate(([0.3, 1.5, 0.7], [4.0, 9.0, 2.0])):
        x, c, u = draw(seed)
        found = apply(rules.make(name, **settings), x, c, u, omega, predicts=predicts)
        expected = [formula(*image) for image in zip(x, c, u, omega, strict=True)]
        np.testing.assert_allclose(found, expected, rtol=1e-9, atol=1e-9)
        plain = apply(rules.cfg(), x, c, u, omega)
        assert np.abs(found - plain).max() > 1e-3
