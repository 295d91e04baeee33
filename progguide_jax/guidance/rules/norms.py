"""Rules that guide as CFG does and then give the result a size like that of p_c."""

import math

import jax
import jax.numpy as jnp

from progguide_jax import registry
from progguide_jax.diffusion import prediction
from progguide_jax.guidance.rules import shape, spaces


def _guided(evaluate, step, space: str) -> tuple[jax.Array, jax.Array]:
    """p_c and CFG's result in this space, in float32 or more."""
    c, u = (spaces.of(step, p, space) for p in evaluate("cond", step.reference))
    return c, c + step.omega * (c - u)


@registry.numeric
def rescale(phi: float = 0.7, space: str = "v") -> shape.Rule:
    """CFG rescale (Lin et al. 2023, arXiv:2305.08891, section 3.4).

    Formula: p = p_c + omega (p_c - p_u), times phi std(p_c) / std(p) + 1 - phi, the
        standard deviations over all pixels and channels of an image.
    Convention: theirs is w = 1 + omega.
    Space: v, which their network predicts; `space` chooses another (eps, x0, flow).
    Cost: 2 evaluations.
    Neutral: phi 0 is CFG.
    Deviation: diffusers takes what the network predicts, so eps for most networks. Its
        deviations divide by n - 1, which cancels.

    They use phi 0.7 with w 7.5.
    """
    _check_share("rescale", "phi", phi)
    spaces.check("rescale", space)
    return shape.Rule({"phi": phi}, shape.bound(_rescale, space=space))


def _rescale(evaluate, step, carry, *, phi, space):
    c, guided = _guided(evaluate, step, space)
    size = spaces.ratio(_std(c), _std(guided))
    return spaces.back(step, guided * (phi * size + 1 - phi), space), carry


def _std(a: jax.Array) -> jax.Array:
    """Of each image: [B,1,...]."""
    wide = jnp.promote_types(a.dtype, jnp.float32)
    axes = tuple(range(1, a.ndim))
    return jnp.std(a.astype(wide), axis=axes, keepdims=True)


@registry.numeric
def cfg_renorm(ratio: float = 1.0, space: str = "flow") -> shape.Rule:
    """CFG-Renorm (Qin et al. 2025, arXiv:2503.21758, Lumina-Image 2.0).

    Formula: p = p_c + omega (p_c - p_u), scaled down to the length ratio |p_c| where it
        is longer, the L2 norm of the whole image.
    Convention: theirs is w = 1 + omega.
    Space: flow, which their network predicts; `space` chooses another (eps, x0, v).
    Cost: 2 evaluations.
    Neutral: ratio inf is CFG.

    They use ratio 1 with w 4.
    """
    if not ratio > 0:
        raise ValueError(
            f"cfg_renorm: ratio must be positive (inf = none), got {ratio}"
        )
    spaces.check("cfg_renorm", space)
    return shape.Rule({"ratio": ratio}, shape.bound(_cfg_renorm, space=space))


def _cfg_renorm(evaluate, step, carry, *, ratio, space):
    c, guided = _guided(evaluate, step, space)
    longest = jnp.where(ratio < math.inf, ratio * prediction.norm(c), math.inf)
    size = jnp.minimum(1, spaces.ratio(longest, prediction.norm(guided)))
    return spaces.back(step, guided * size, space), carry


@registry.numeric
def ep_cfg(
    strength: float = 1.0,
    robust: bool = False,
    low: float = 45.0,
    high: float = 55.0,
    space: str = "flow",
) -> shape.Rule:
    """Energy-preserving CFG (Zhang et al. 2024, arXiv:2412.09966).

    Formula: p = p_c + omega (p_c - p_u), times sqrt(E(p_c) / E(p)), E the sum of
        squares; robust: of those squares of an image that lie between its low-th and
        high-th percentile.
    Convention: theirs is w = 1 + omega.
    Space: flow, as in their code; `space` chooses another (eps, x0, v).
    Cost: 2 evaluations; robust sorts the pixels of every image twice.
    Neutral: strength 0 is CFG; 1 is theirs, and between the factors are mixed.
    Deviation: strength is ours. Their public code has no robust form; the percentiles
        45 and 55 are read as those of the squares.
    """
    _check_share("ep_cfg", "strength", strength)
    if not 0 <= low < high <= 100:
        raise ValueError(
            f"ep_cfg: low and high must be percentiles with low < high, got {low} and "
            f"{high}"
        )
    spaces.check("ep_cfg", space)
    settings = dict(strength=strength, low=low, high=high)
    return shape.Rule(settings, shape.bound(_ep_cfg, robust=robust, space=space))


def _ep_cfg(evaluate, step, carry, *, strength, low, high, robust, space):
    c, guided = _guided(evaluate, step, space)
    limits = jnp.stack([jnp.asarray(low), jnp.asarray(high)]) / 100 if robust else None
    size = jnp.sqrt(spaces.ratio(_energy(c, limits), _energy(guided, limits)))
    return spaces.back(step, guided * (strength * size + 1 - strength), space), carry


def _energy(a: jax.Array, limits: jax.Array | None) -> jax.Array:
    """The sum of the squares of each image [B,1,...], of those between two quantiles
    `limits` [2]."""
    if limits is None:
        return prediction.dot(a, a)
    wide = jnp.promote_types(a.dtype, jnp.float32)
    squares = jnp.square(a.reshape(len(a), -1).astype(wide))
    low, high = jnp.quantile(squares, limits.astype(wide), axis=1, keepdims=True)
    inside = (squares >= low) & (squares <= high)
    return prediction.per_image(jnp.sum(squares * inside, axis=1), a)


def _check_share(rule: str, key: str, value: float) -> None:
    if not 0 <= value <= 1:
        raise ValueError(f"{rule}: {key} must lie in [0, 1], got {value}")
