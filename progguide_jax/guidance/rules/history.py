"""Rules that remember predictions of earlier steps."""

import math

import jax
import jax.numpy as jnp
import numpy as np

from progguide_jax import registry
from progguide_jax.diffusion import prediction
from progguide_jax.guidance.rules import shape


@registry.numeric
def smc(slope: float = 5.0, gain: float = 0.2) -> shape.Rule:
    """Sliding-mode control of CFG, SMC-CFG (Wang et al. 2026, arXiv:2603.03281).

    Formula: f_u + (1 + omega) g with g = d - gain sign(d - g_before + slope g_before),
        d = f_c - f_u and f = eps - x0; at first g_before is d.
    Convention: theirs is w = 1 + omega.
    Space: f = eps - x0, the velocity of rectified flow, which their networks predict.
    Cost: 2 evaluations.
    Neutral: gain 0 is CFG.

    gain is a velocity and moves every pixel by as much, also where d is nearly 0. Their
    examples for FLUX, Qwen-Image, SD3 and Wan have slope 5 and gain 0.2.
    """
    if not (math.isfinite(slope) and math.isfinite(gain) and gain >= 0):
        raise ValueError(
            "smc: slope must be finite and gain finite and not negative, got slope "
            f"{slope} and gain {gain}"
        )
    return shape.Rule(dict(slope=slope, gain=gain), _smc, _nothing, memory="gain")


def _nothing(x_T):
    """What is remembered of each image, and whether that is anything."""
    return jnp.zeros_like(x_T), jnp.zeros(len(x_T), bool)


def _smc(evaluate, step, carry, *, slope, gain):
    c, u = evaluate("cond", step.reference)
    before, any_before = carry
    d = (c.eps - c.x0) - (u.eps - u.x0)
    before = jnp.where(prediction.per_image(any_before, d), before, d)
    g = (d - gain * jnp.sign(d - before + slope * before)).astype(d.dtype)
    # f moves x0 by -t, t = sigma / (alpha + sigma)
    t = step.sigma / (step.alpha + step.sigma)
    x0 = c.x0 - t * (step.omega * g + (g - d))
    return step.from_x0(x0), (g, jnp.ones_like(any_before))


@registry.numeric
def cfg_cache(every: int = 2) -> shape.Rule:
    """CFG with a cached difference (CFG-Cache, Lv et al. 2024, arXiv:2410.19355).

    Formula: eps_c + omega d; d = eps_c - eps_u at every `every`-th guided step of an
        image, and what it was last in between.
    Convention: theirs is w = 1 + omega.
    Space: eps.
    Cost: 2 evaluations at every `every`-th step, else 1.
    Neutral: every 1 is CFG.
    Deviation: theirs caches low and high frequencies apart, makes the low ones larger
        early and the high ones late, and begins after a third of the steps.

    diffusers has 5 for video. Take few for a steep omega(t): d is of an earlier level.
    """
    if every < 1:
        raise ValueError(f"cfg_cache: every must be at least 1 step, got {every}")
    return shape.Rule(dict(every=every), _cfg_cache, _no_cache)


def _no_cache(x_T):
    """The difference of each image, and its guided steps so far."""
    return jnp.zeros_like(x_T), jnp.zeros(len(x_T), jnp.int32)


def _cfg_cache(evaluate, step, carry, *, every):
    cached, steps = carry
    (c,) = evaluate("cond")
    due = steps % every == 0
    needed = jnp.any(prediction.per_image(due, c.eps) & (step.omega != 0))
    asked = evaluate.branch()
    fresh = jax.lax.cond(needed, lambda: asked(step.reference)[0], lambda: c)
    old = step.from_eps(c.eps - cached)
    u = jax.tree.map(
        lambda a, b: jnp.where(prediction.per_image(due, a), a, b), fresh, old
    )
    count = needed.astype(jnp.int32) * len(step.weights)
    evaluate.record(count, **{step.reference: u})
    found = step.mix(lambda c, u: c + step.omega * (c - u), c, u)
    cached = jnp.where(prediction.per_image(due, cached), c.eps - u.eps, cached)
    return found, (cached, steps + 1)


@registry.numeric
def higs(
    mean: float = 0.75,
    eta: float = 1.0,
    cutoff: float = 0.05,
    sharpness: float = 50.0,
    cfg: float = 0.0,
) -> shape.Rule:
    """History-guided sampling, HiGS (Sadat et al. 2025, arXiv:2509.22300, Algorithm 1).

    Formula: D + omega highpass(g_across + eta g_along), g = D - h, split along and
        across D = x0_c + cfg (x0_c - x0_u); h <- mean D + (1 - mean) h after each step,
        0 at first. The first step has no history and is D. highpass multiplies the DCT
        of the image by sigmoid(sharpness (f - cutoff)), f = |(k / height, l / width)|.
    Convention: omega is their w_HiGS(t), a root in t: cfg is their w_CFG - 1.
    Space: x0.
    Cost: 1 evaluation, 2 where cfg is not 0.
    Neutral: cfg 0 and cutoff inf are the conditional model.

    Their omega(t) is w sqrt((t - 0.4) / 0.6) above t = 0.4 of the way, w 1 to 3; cutoff
    -inf filters nothing. The weights of h sum to 1 after some steps only. x may have
    any axes: all but the last, the channels, are filtered; of a vector the only one.
    One reference only, since omega is not the weight of it.
    """
    if not 0 < mean <= 1:
        raise ValueError(f"higs: mean must lie in (0, 1], got {mean}")
    if not (math.isfinite(eta) and math.isfinite(cfg)):
        raise ValueError(f"higs: eta and cfg must be finite, got {eta} and {cfg}")
    if not sharpness > 0 or math.isnan(cutoff):
        raise ValueError(
            f"higs: sharpness must be positive and cutoff a number, got {sharpness} "
            f"and {cutoff}"
        )
    settings = dict(mean=mean, eta=eta, cutoff=cutoff, sharpness=sharpness, cfg=cfg)
    return shape.Rule(settings, _higs, _nothing, references="one")


def _higs(evaluate, step, carry, *, mean, eta, cutoff, sharpness, cfg):
    before, any_before = carry
    (c,) = evaluate("cond")
    asked = evaluate.branch()
    u = jax.lax.cond(cfg != 0, lambda: asked(step.reference)[0], lambda: c)
    evaluate.record(jnp.int32(cfg != 0))
    d = c.x0 + jnp.asarray(cfg, c.x0.dtype) * (c.x0 - u.x0)
    g = d - before
    length = jnp.maximum(prediction.dot(d, d), np.finfo(np.float32).tiny)
    along = (prediction.dot(g, d) / length).astype(d.dtype) * d
    high = highpass(g - along + eta * along, cutoff, sharpness).astype(d.dtype)
    moved = jnp.where(prediction.per_image(any_before, d), d + step.omega * high, d)
    before = (mean * d + (1 - mean) * before).astype(d.dtype)
    return step.from_x0(moved), (before, jnp.ones_like(any_before))


def highpass(x: jax.Array, cutoff, sharpness) -> jax.Array:
    """x [B,...] with the low frequencies of its orthonormal DCT taken out."""
    axes = range(1, max(x.ndim - 1, 2))
    square = 0.0
    for axis in axes:
        x = _along(_dct(x.shape[axis]), x, axis)
        n = x.shape[axis]
        f = jnp.arange(n, dtype=x.dtype) / n
        square = (
            square
            + jnp.expand_dims(f, tuple(i for i in range(x.ndim) if i != axis)) ** 2
        )
    x = x * jax.nn.sigmoid(sharpness * (jnp.sqrt(square) - cutoff))
    for axis in axes:
        x = _along(_dct(x.shape[axis]).T, x, axis)
    return x


def _dct(n: int) -> np.ndarray:
    """The orthonormal DCT-II, [n,n]."""
    k, i = np.arange(n)[:, None], np.arange(n)
    matrix = np.cos(np.pi * (2 * i + 1) * k / (2 * n)) * np.sqrt(2 / n)
    matrix[0] /= np.sqrt(2)
    return matrix


def _along(matrix: np.ndarray, x: jax.Array, axis: int) -> jax.Array:
    """matrix times x, along one axis."""
    product = jnp.tensordot(jnp.asarray(matrix, x.dtype), x, (1, axis))
    return jnp.moveaxis(product, 0, axis)
