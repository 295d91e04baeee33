"""Rules that take the difference apart: along a prediction and across it."""

import math

import jax.numpy as jnp

from progguide_jax import registry
from progguide_jax.diffusion import prediction
from progguide_jax.guidance.rules import shape


@registry.numeric
def apg(
    momentum: float = -0.5, norm_threshold: float = math.inf, eta: float = 0.0
) -> shape.Rule:
    """Adaptive projected guidance (Sadat et al. 2024, arXiv:2410.02416, Algorithm 1).

    Formula: g = (x0_c - x0_u) + momentum g_before, scaled down to L2 norm
        norm_threshold, then split into parts parallel and orthogonal to x0_c:
        x0_c + omega (g_orthogonal + eta g_parallel).
    Convention: theirs is w = 1 + omega.
    Space: x0.
    Cost: 2 evaluations.
    Neutral: momentum 0, norm_threshold inf and eta 1 are CFG.
    Deviation: diffusers counts from x0_u, which differs where eta is not 1 or g is
        shortened, and applies it to raw predictions.

    norm_threshold grows with the root of the number of pixels: take about the median of
    the norm.
    """
    if not norm_threshold > 0:
        raise ValueError(
            f"apg: norm_threshold must be positive (inf = none), got {norm_threshold}"
        )
    if not (math.isfinite(momentum) and abs(momentum) < 1 and math.isfinite(eta)):
        raise ValueError(
            f"apg: momentum must lie in (-1, 1) and eta be finite, got momentum "
            f"{momentum} and eta {eta}"
        )
    settings = dict(momentum=momentum, norm_threshold=norm_threshold, eta=eta)
    return shape.Rule(settings, _apg, jnp.zeros_like, memory="momentum")


def _apg(evaluate, step, carry, *, momentum, norm_threshold, eta):
    c, u = (p.x0 for p in evaluate("cond", step.reference))
    running = (c - u) + momentum * carry
    tiny = jnp.finfo(jnp.float32).tiny
    length = jnp.maximum(prediction.norm(running), tiny)
    g = running * jnp.minimum(1, norm_threshold / length).astype(c.dtype)
    along = prediction.dot(g, c) / jnp.maximum(prediction.dot(c, c), tiny)
    parallel = along.astype(c.dtype) * c
    x0 = c + step.omega * (g - parallel + eta * parallel)
    return step.from_x0(x0), running
