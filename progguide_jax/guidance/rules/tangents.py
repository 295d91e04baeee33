"""Rules that leave out, or shorten, a part of p_u or of p_c - p_u."""

import math

import jax.numpy as jnp

from progguide_jax import registry
from progguide_jax.diffusion import prediction
from progguide_jax.guidance.rules import shape, spaces


@registry.numeric
def cfg_zero(
    strength: float = 1.0, zero_init: int = 0, space: str = "flow"
) -> shape.Rule:
    """CFG-Zero* (Fan et al. 2025, arXiv:2503.18886).

    Formula: f_c + omega (f_c - s f_u), s = <f_c, f_u> / |f_u|^2 over the whole image;
        the first zero_init evaluations have the velocity 0.
    Convention: theirs is w = 1 + omega.
    Space: flow, f = eps - x0; `space` chooses another (eps, x0, v) for s, but not for
        the velocity 0.
    Cost: 2 evaluations.
    Neutral: strength 0 with zero_init 0 is CFG; strength 1 is theirs, and between
        s is mixed with 1.
    Deviation: strength is ours. diffusers takes what the network predicts; a velocity 0
        is a step of flow matching, and an eps or an x0 of 0 is none.

    They use zero_init 1 (or 4 % of the steps) for flow matching; other networks are
    better without. Where omega is 0 a step is the conditional one, the first ones too.
    """
    if not math.isfinite(strength):
        raise ValueError(f"cfg_zero: strength must be finite, got {strength}")
    if not 0 <= zero_init < math.inf:
        raise ValueError(f"cfg_zero: zero_init must be 0 or more, got {zero_init}")
    spaces.check("cfg_zero", space)
    settings = dict(strength=strength, zero_init=zero_init)
    return shape.Rule(settings, shape.bound(_cfg_zero, space=space))


def _cfg_zero(evaluate, step, carry, *, strength, zero_init, space):
    c, u = (spaces.of(step, p, space) for p in evaluate("cond", step.reference))
    s = spaces.ratio(prediction.dot(c, u), prediction.dot(u, u))
    s = 1 + strength * (s - 1)
    found = spaces.back(step, c + step.omega * (c - s * u), space)
    still = spaces.back(step, jnp.zeros_like(c), "flow")
    faces = zip(still, found, strict=True)
    chosen = (jnp.where(step.index < zero_init, a, b) for a, b in faces)
    return prediction.Prediction(*chosen), carry


@registry.numeric
def tcfg(strength: float = 1.0, space: str = "eps") -> shape.Rule:
    """Tangential damping CFG (Kwon et al. 2025, arXiv:2503.18137).

    Formula: p_c + omega (p_c - u), u = <p_u, d> d, d the first right singular vector of
        the matrix with the rows p_c and p_u, each image as one row.
    Convention: theirs is w = 1 + omega, counted from u: u + w (p_c - u).
    Space: eps; `space` chooses another (x0, v, flow).
    Cost: 2 evaluations.
    Neutral: strength 0 is CFG; 1 is theirs, and between u is mixed with p_u.
    Deviation: strength is ours. diffusers takes what the network predicts.

    d comes from the 2 x 2 matrix of inner products, without an SVD. Where the two
    predictions are orthogonal and equally long d is not defined, and u is p_u / 2. At
    pure noise (alpha 0) it is CFG, since eps says nothing of x0 there.
    """
    if not math.isfinite(strength):
        raise ValueError(f"tcfg: strength must be finite, got {strength}")
    spaces.check("tcfg", space)
    return shape.Rule({"strength": strength}, shape.bound(_tcfg, space=space))


def _tcfg(evaluate, step, carry, *, strength, space):
    asked = evaluate("cond", step.reference)
    c, u = (spaces.of(step, p, space) for p in asked)
    # d = (cos a c + sin a u) / length with tan 2a = 2 cu / (cc - uu)
    twice = 2 * prediction.dot(c, u)
    apart = prediction.dot(c - u, c + u)
    size = jnp.hypot(twice, apart)
    sin, cos = spaces.ratio(twice, size), spaces.ratio(apart, size)
    along = (sin * c + (1 - cos) * u) / 2
    kept = u + strength * (along - u)
    found = spaces.back(step, c + step.omega * (c - kept), space)
    return (spaces.or_cfg(step, found, *asked) if space == "eps" else found), carry


@registry.numeric
def adamag(beta: float = 0.1, gamma: float = 4.0, w_min: float = 1.0) -> shape.Rule:
    """AdaMaG (Esmati et al. 2026, arXiv:2605.20079).

    Formula: p_u + W (g_orthogonal + beta g_parallel), g = p_c - p_u split along the
        conditional score, so along eps_c; W = max(w_min, w t^gamma),
        t = sigma / (alpha + sigma), the time of flow matching, 1 at noise.
    Convention: theirs is w = 1 + omega.
    Space: any; g is split in the direction of eps_c and is the same in all up to a
        factor.
    Cost: 2 evaluations.
    Neutral: beta 1, gamma 0 and w_min 0 are CFG (of omega >= -1).
    Source: accounts of the paper and two reimplementations, which have beta 0.1 and
        gamma 4 (section 5, tables 4 and 5) and the weight as Eq. 11, where t rises to
        data; no code of theirs was found. Open: w_min, where both have 1 and an account
        says that the paper gives none.

    W falls to w_min soon: with gamma 4 half the noise
    (t = 0.5) leaves w / 16.
    """
    if not all(math.isfinite(value) for value in (beta, w_min)):
        raise ValueError(
            f"adamag: beta and w_min must be finite, got {beta} and {w_min}"
        )
    if not 0 <= gamma < math.inf:
        raise ValueError(f"adamag: gamma must be 0 or more, got {gamma}")
    return shape.Rule(dict(beta=beta, gamma=gamma, w_min=w_min), _adamag)


def _adamag(evaluate, step, carry, *, beta, gamma, w_min):
    c, u = evaluate("cond", step.reference)
    g = c.x0 - u.x0
    size = spaces.ratio(prediction.dot(g, c.eps), prediction.dot(c.eps, c.eps))
    parallel = size * c.eps
    time = step.sigma / (step.alpha + step.sigma)
    w = jnp.maximum(w_min, (1 + step.omega) * time**gamma)
    return step.from_x0(u.x0 + w * (g - parallel + beta * parallel)), carry
