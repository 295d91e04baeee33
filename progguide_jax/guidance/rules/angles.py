"""Rules that turn x0_c away from x0_u instead of moving it."""

import math

import jax.numpy as jnp

from progguide_jax import registry
from progguide_jax.diffusion import prediction
from progguide_jax.guidance.rules import shape, spaces

VARIANTS = ("official", "norm_restored", "exact")


@registry.numeric
def adg(
    max_angle: float = math.pi / 3, variant: str = "official", center: bool = False
) -> shape.Rule:
    """Angle domain guidance (Jin et al. 2025, arXiv:2506.11039).

    Formula: a = min(omega theta, max_angle), theta the angle from x0_u to x0_c, e the
        part of x0_c orthogonal to x0_u: cos(a) x0_c + (sin(a) / sin(theta)) e.
    Convention: theirs is w = 1 + omega; omega below 0 turns nothing.
    Space: x0, an image as one vector.
    Cost: 2 evaluations.
    Neutral: max_angle 0 is the conditional model.
    Deviation: their code adds 0.001 to omega, has 3.14 / 3 as the angle, and an arccos,
        which does not resolve the angles of images that are nearly equal; it takes one
        image at a time, since for several its arrays do not match.

    variant: "official" may lengthen x0 by up to sqrt(2); "norm_restored" (theirs too)
    gives every pixel the length over its channels that it has in x0_c; "exact" (ours)
    turns x0_c by a in the plane of the two and keeps the length of the whole.
    max_angle inf is their unclipped form. The angle is one about 0, made for latents:
    in pixels the brightness dominates it, and `center` takes it about the mean colour
    of x0_c.
    """
    if not max_angle >= 0:
        raise ValueError(
            f"adg: max_angle must be 0 or more (inf = none), got {max_angle}"
        )
    registry.check("variant of adg", variant, VARIANTS)
    fn = shape.bound(_adg, variant=variant, center=bool(center))
    return shape.Rule({"max_angle": max_angle}, fn)


def _adg(evaluate, step, carry, *, max_angle, variant, center):
    c, u = (p.x0 for p in evaluate("cond", step.reference))
    middle = _mean_colour(c) if center else 0
    c, u = c - middle, u - middle
    along = spaces.ratio(u, prediction.norm(u))
    e = c - prediction.dot(c, along) * along
    length, across = prediction.norm(c), prediction.norm(e)
    theta = jnp.arctan2(across, prediction.dot(c, along))
    turn = jnp.minimum(jnp.maximum(step.omega, 0) * theta, max_angle)
    unit = spaces.ratio(e, across)
    if variant == "exact":
        x0 = length * (jnp.cos(theta + turn) * along + jnp.sin(theta + turn) * unit)
    else:
        x0 = jnp.cos(turn) * c + jnp.sin(turn) * length * unit
    if variant == "norm_restored":
        own, wanted = (jnp.linalg.norm(a, axis=-1, keepdims=True) for a in (x0, c))
        x0 = x0 * spaces.ratio(wanted, own)
    return step.from_x0(x0 + middle), carry


def _mean_colour(a):
    """The mean over all axes but the batch and the channels, the last one."""
    axes = tuple(range(1, max(a.ndim - 1, 2)))
    return jnp.mean(a, axis=axes, keepdims=True)
