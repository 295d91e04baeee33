"""Rules that move along p_c - p_u and choose how far, for each image and step.

The result is p_c + k (p_c - p_u) with a number k an image: so it is the same image
whatever the space in which it is mixed, and the space says only where k is measured.
"""

import math

import jax.numpy as jnp

from progguide_jax import registry
from progguide_jax.diffusion import prediction
from progguide_jax.guidance.rules import shape, spaces


def _moved(step, c, u, k) -> prediction.Prediction:
    return step.mix(lambda c, u: c + k * (c - u), c, u)


@registry.numeric
def beta_norm(gamma: float = 1.0) -> shape.Rule:
    """beta-CFG, the norm part (Malarz et al. 2025, arXiv:2502.10574).

    Formula: eps_u + w (eps_c - eps_u) / |eps_c - eps_u|^gamma, the L2 norm of the whole
        image.
    Convention: theirs is w = 1 + omega.
    Space: eps.
    Cost: 2 evaluations.
    Neutral: gamma 0 is CFG.
    Deviation: their w follows a Beta density over the steps; here that is a schedule.

    With gamma 1 the difference has length w whatever the network says, so w grows with
    the root of the number of pixels; their README has w 7.5 and gamma 1 for latents.
    """
    if not 0 <= gamma < math.inf:
        raise ValueError(f"beta_norm: gamma must be 0 or more, got {gamma}")
    return shape.Rule({"gamma": gamma}, _beta_norm)


def _beta_norm(evaluate, step, carry, *, gamma):
    c, u = evaluate("cond", step.reference)
    length = prediction.norm(c.eps - u.eps)
    k = spaces.ratio(1 + step.omega, length**gamma) - 1
    return _moved(step, c, u, k), carry


@registry.numeric
def power_law(exponent: float = 0.9) -> shape.Rule:
    """Power-law CFG (Lehman Pavasovic et al. 2025, arXiv:2502.07849).

    Formula: s_c + omega |s_c - s_u|^exponent (s_c - s_u) with scores s = -eps / sigma
        and the L2 norm of the whole image.
    Convention: omega.
    Space: eps; the norm is that of scores, |eps_c - eps_u| / sigma.
    Cost: 2 evaluations.
    Neutral: exponent 0 is CFG.

    The norm grows with the root of the number of pixels and, at little noise, with
    1 / sigma: look for omega anew at each size of the images. 0.9 is theirs; an
    exponent below 0 guides most where the predictions differ least.
    """
    if not -1 < exponent < math.inf:
        raise ValueError(f"power_law: exponent must be above -1, got {exponent}")
    return shape.Rule({"exponent": exponent}, _power_law)


def _power_law(evaluate, step, carry, *, exponent):
    c, u = evaluate("cond", step.reference)
    length = prediction.norm(c.eps - u.eps) / step.sigma
    length = jnp.maximum(length, 1e-30)  # a negative power of it is finite
    return _moved(step, c, u, step.omega * length**exponent), carry


@registry.numeric
def pmc(norm_cap: float = 1.05) -> shape.Rule:
    """Posterior-mean-capped CFG (Peng and Ma 2026, arXiv:2609.24287).

    Formula: x0_c + min(omega, k) (x0_c - x0_u), k the largest with
        |x0_c + k (x0_c - x0_u)| <= norm_cap |x0_c|, the L2 norm of the whole image.
    Convention: theirs is w = 1 + omega.
    Space: x0.
    Cost: 2 evaluations.
    Neutral: norm_cap inf is CFG.
    Source: accounts of the paper (its appendix D.4); no code is public. Theirs has a
        case for norm_cap < 1, where p_c itself is too long: refused here.

    They use 1.05 to 1.1 for SiT, and by one account 1.15 for SD3.5. An omega below 0 is
    left as it is.
    """
    if not norm_cap >= 1:
        raise ValueError(
            f"pmc: norm_cap must be at least 1 (inf = none), got {norm_cap}"
        )
    return shape.Rule({"norm_cap": norm_cap}, _pmc)


def _pmc(evaluate, step, carry, *, norm_cap):
    c, u = evaluate("cond", step.reference)
    delta = c.x0 - u.x0
    # the positive root of a k^2 + 2 b k = room, each sign of b without cancellation
    a, b = prediction.dot(delta, delta), prediction.dot(c.x0, delta)
    room = (jnp.minimum(norm_cap, 1e6) ** 2 - 1) * prediction.dot(c.x0, c.x0)
    root = jnp.sqrt(b**2 + a * room)
    k = jnp.where(b > 0, spaces.ratio(room, b + root), spaces.ratio(root - b, a))
    bound = (norm_cap < math.inf) & (a > 0)
    k = jnp.where(bound, jnp.minimum(step.omega, k), step.omega)
    return _moved(step, c, u, k), carry


@registry.numeric
def vags(kappa: float = 1.0) -> shape.Rule:
    """VAGS (Luo et al. 2026, arXiv:2605.15661), their rule for generation.

    Formula: p_u + w exp(kappa (2 s - 1) cos(f_c, f_u)) (p_c - p_u), with the velocity
        f = eps - x0 and the signal level s = alpha / (alpha + sigma), 0 at noise.
    Convention: theirs is w = 1 + omega.
    Space: flow; the cosine is that of velocities.
    Cost: 2 evaluations.
    Neutral: kappa 0 is CFG.
    Source: the authors' code (Velocity_Adaptive_Guidance_Scale of
        Harvard-AI-and-Robotics-Lab, VAGS_Generation), whose default is kappa 0.5.

    kappa 1 (0.9 on Flickr30K) with w 7 is theirs by an account of the paper. The factor
    is exp(-kappa) at the start and exp(kappa) at the end where the predictions agree,
    also at small omega.
    """
    if not math.isfinite(kappa):
        raise ValueError(f"vags: kappa must be finite, got {kappa}")
    return shape.Rule({"kappa": kappa}, _vags)


def _vags(evaluate, step, carry, *, kappa):
    c, u = evaluate("cond", step.reference)
    agree = spaces.cosine(*(spaces.of(step, p, "flow") for p in (c, u)))
    signal = step.alpha / (step.alpha + step.sigma)
    k = (1 + step.omega) * jnp.exp(kappa * (2 * signal - 1) * agree) - 1
    return _moved(step, c, u, k), carry


@registry.numeric
def mambo_g(alpha: float = 8.0, space: str = "flow") -> shape.Rule:
    """MAMBO-G (Zhu et al. 2025, arXiv:2508.03442).

    Formula: p_c + omega exp(-alpha |p_c - p_u| / |p_u|) (p_c - p_u), L2 norms of the
        whole image.
    Convention: theirs is w = 1 + omega.
    Space: flow, which their networks predict; `space` chooses another (eps, x0, v).
    Cost: 2 evaluations.
    Neutral: alpha 0 is CFG.
    Deviation: diffusers takes what the network predicts, whatever that is.

    They use alpha 8 with w 10.
    """
    if not 0 <= alpha < math.inf:
        raise ValueError(f"mambo_g: alpha must be 0 or more, got {alpha}")
    spaces.check("mambo_g", space)
    return shape.Rule({"alpha": alpha}, shape.bound(_mambo_g, space=space))


def _mambo_g(evaluate, step, carry, *, alpha, space):
    c, u = evaluate("cond", step.reference)
    p_c, p_u = (spaces.of(step, p, space) for p in (c, u))
    size = spaces.ratio(prediction.norm(p_c - p_u), prediction.norm(p_u))
    return _moved(step, c, u, step.omega * jnp.exp(-alpha * size)), carry
