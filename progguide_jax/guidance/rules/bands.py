"""Rules that treat coarse and fine structure of an image differently."""

import math

import jax
import jax.numpy as jnp

from progguide_jax import registry
from progguide_jax.diffusion import prediction
from progguide_jax.guidance.rules import shape, spaces


@registry.numeric
def fdg(high: float = 1.0, low: float = 0.5, parallel: float = 1.0) -> shape.Rule:
    """Frequency-decoupled guidance (Sadat et al. 2025, arXiv:2506.19713).

    Formula: x0_c + omega U(low D(g)) + omega high (g - U(D(g))), g = x0_c - x0_u, the
        two levels of a Laplacian pyramid: D blurs and halves, U doubles and blurs. In
        each level the part of g along that of x0_c counts `parallel` times.
    Convention: theirs are weights w of each level; 1 + omega high and 1 + omega low.
    Space: x0 of images [B,H,W,C] with even sides of at least 6.
    Cost: 2 evaluations.
    Neutral: high, low and parallel 1 are CFG.
    Deviation: diffusers applies it to raw predictions, and counts from those without
        the condition, which differs where parallel is not 1.

    diffusers' example, w of 10 and 5, is omega 9 with high 1 and low 4 / 9. Their
    finding is low < high: much guidance of coarse structure takes away variety.
    """
    settings = dict(high=high, low=low, parallel=parallel)
    for key, value in settings.items():
        if not math.isfinite(value):
            raise ValueError(f"fdg: {key} must be finite, got {value}")
    return shape.Rule(settings, _fdg)


def _fdg(evaluate, step, carry, *, high, low, parallel):
    shape_ = step.x.shape
    if len(shape_) != 4 or any(side % 2 or side < 6 for side in shape_[1:3]):
        raise ValueError(
            "the rule fdg takes images [B,H,W,C] with even H and W of at least 6, and "
            f"x has shape {shape_}: use another rule"
        )
    c, u = (p.x0 for p in evaluate("cond", step.reference))
    coarse_c, coarse = _halved(c), _halved(c - u)
    fine_c, fine = c - _doubled(coarse_c), c - u - _doubled(coarse)
    coarse = low * _weighed(coarse, coarse_c, parallel)
    fine = high * _weighed(fine, fine_c, parallel)
    return step.from_x0(c + step.omega * (_doubled(coarse) + fine)), carry


def _weighed(g: jax.Array, own: jax.Array, parallel) -> jax.Array:
    """g with its part along `own` counted so many times."""
    size = spaces.ratio(prediction.dot(g, own), prediction.dot(own, own))
    return g + (parallel - 1) * size * own


def _halved(a: jax.Array) -> jax.Array:
    """Blurred, then the means of 2 x 2 pixels: [B,H/2,W/2,C]."""
    batch, height, width, channels = a.shape
    blocks = _blurred(a).reshape(batch, height // 2, 2, width // 2, 2, channels)
    return jnp.mean(blocks, axis=(2, 4))


def _doubled(a: jax.Array) -> jax.Array:
    """Twice as many pixels by linear interpolation, then blurred: [B,2H,2W,C]."""
    batch, height, width, channels = a.shape
    size = (batch, 2 * height, 2 * width, channels)
    return _blurred(jax.image.resize(a, size, "bilinear"))


def _blurred(a: jax.Array) -> jax.Array:
    """Binomial blur (1, 4, 6, 4, 1) / 16 along both axes, mirrored at the border."""
    for axis in (1, 2):
        pad = [(2, 2) if i == axis else (0, 0) for i in range(4)]
        wide, n = jnp.pad(a, pad, mode="reflect"), a.shape[axis]
        shifted = (jax.lax.slice_in_dim(wide, i, i + n, axis=axis) for i in range(5))
        weights = (1 / 16, 4 / 16, 6 / 16, 4 / 16, 1 / 16)
        a = sum(w * s for w, s in zip(weights, shifted, strict=True))
    return a
