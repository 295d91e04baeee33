"""Each rule without memory against its formula, in float64 NumPy, image by image."""

import math

import jax.numpy as jnp
import numpy as np
import pytest

from progguide_jax.diffusion import prediction
from progguide_jax.guidance import rules

ALPHA, SIGMA = 0.6, 0.8
SHAPE = (6, 8, 3)


@pytest.fixture(autouse=True)
def wide(x64):
    """Every test here is in float64."""


def apply(rule, x, eps_c, eps_u, omega, index=0, predicts="eps", t=500.0):
    """x0 of one step at alpha 0.6; omega: a number or one an image [B]."""
    x = jnp.asarray(x)
    omega = prediction.per_image(jnp.asarray(omega, x.dtype), x)
    step = prediction.Step(
        x=x, t=t, alpha=ALPHA, sigma=SIGMA, alpha_next=0.8, sigma_next=0.6,
        weights={"null": omega}, index=index, keys=None, predicts=predicts,
    )  # fmt: skip

    def evaluate(*names):
        eps = {"cond": eps_c, "null": eps_u}
        return [step.from_eps(jnp.asarray(eps[name])) for name in names]

    found, carry = rule(evaluate, step, None)
    assert carry is None
    faces = ALPHA * found.x0 + SIGMA * found.eps
    # both belong to the same x
    np.testing.assert_allclose(faces, x, atol=1e4 * np.finfo(x.dtype).eps)
    return np.asarray(found.x0)


def draw(seed=0, shape=SHAPE):
    """x, eps_c, eps_u [3,...]: the two predictions are near each other."""
    rng = np.random.default_rng(seed)
    x, c, d = rng.normal(size=(3, 3, *shape))
    return x, c, c + np.array([0.1, 0.5, 2.0]).reshape(3, *[1] * len(shape)) * d


def x0_of(x, eps):
    return (x - SIGMA * eps) / ALPHA


def v_of(x, eps):
    return ALPHA * eps - SIGMA * x0_of(x, eps)


def flow_of(x, eps):
    return eps - x0_of(x, eps)


def x0_of_v(x, v):
    return ALPHA * x - SIGMA * v


def x0_of_flow(x, f):
    """x = alpha x0 + sigma (f + x0)."""
    return (x - SIGMA * f) / (ALPHA + SIGMA)


SPACES = {  # name: (from eps, back to x0)
    "eps": (lambda x, eps: eps, x0_of),
    "x0": (x0_of, lambda x, x0: x0),
    "v": (v_of, x0_of_v),
    "flow": (flow_of, x0_of_flow),
}


def length(a):
    return math.sqrt(float((a * a).sum()))


def inner(a, b):
    return float((a * b).sum())


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


EQUAL = [name for name in rules.names() if name not in ("cfgpp", "apg", "recfg")]


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
