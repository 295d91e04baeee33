"""What a predicted clean image may be: its x0 is moved, and eps derived again from it.

A projection is a function (x0 [B,...], step) -> x0, per image.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from progguide_jax import registry
from progguide_jax.diffusion import closures, prediction


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Projection:
    """fn(x0, step, **settings) with its settings, which are traced."""

    settings: dict[str, Any]
    fn: Callable = dataclasses.field(metadata=dict(static=True))

    def __call__(self, x0: jax.Array, step: prediction.Step) -> jax.Array:
        return self.fn(x0, step, **self.settings)


def of(projection: Projection | Callable | None) -> Projection | None:
    """A user's function (x0, step) -> x0 as a Projection."""
    if projection is None:
        return None
    if isinstance(projection, Projection):
        return dataclasses.replace(projection, fn=closures.of_user(projection.fn))
    if not callable(projection) or projection in PROJECTIONS.values():
        raise ValueError(
            f"projection is {projection!r:.40}: pass what a factory gives, such as "
            "projections.clip(1.0), or a function (x0, step) -> x0"
        )
    return Projection({}, closures.by_variables(projection))


def none() -> None:
    """x0 as it was predicted.

    Formula: x0.
    Cost: none.
    Neutral: always.
    """
    return None


@registry.numeric
def clip(bound: float = 1.0) -> Projection:
    """Clipping to the range of pixels (Ho et al. 2020, arXiv:2006.11239).

    Formula: max(-bound, min(bound, x0)).
    Cost: none.
    Neutral: the identity where |x0| <= bound.
    """
    if not bound > 0:
        raise ValueError(f"clip: bound must be positive, got {bound}")
    return Projection({"bound": bound}, _clip)


def _clip(x0, step, *, bound):
    return jnp.clip(x0, -bound, bound)


@registry.numeric
def dynamic_threshold(quantile: float = 0.995, bound: float = 1.0) -> Projection:
    """Dynamic thresholding (Saharia et al. 2022, arXiv:2205.11487, section 2.3).

    Formula: s = max(bound, the quantile of |x0| over the pixels of each image); x0
        clipped to [-s, s] and scaled by bound / s.
    Cost: none.
    Neutral: the identity where |x0| <= bound.
    Deviation: diffusers keeps s <= sample_max_value, 1 unless set: plain clipping.
    """
    if not 0 < quantile <= 1:
        raise ValueError(
            f"dynamic_threshold: quantile must lie in (0, 1], got {quantile}"
        )
    if not bound > 0:
        raise ValueError(f"dynamic_threshold: bound must be positive, got {bound}")
    return Projection({"quantile": quantile, "bound": bound}, _dynamic_threshold)


def _dynamic_threshold(x0, step, *, quantile, bound):
    size = jnp.abs(x0.reshape(len(x0), -1)).astype(
        jnp.promote_types(x0.dtype, jnp.float32)
    )
    s = jnp.maximum(bound, jnp.quantile(size, quantile, axis=1)).astype(x0.dtype)
    s = prediction.per_image(s, x0)
    return jnp.clip(x0, -s, s) * (bound / s)


PROJECTIONS = {"none": none, "clip": clip, "dynamic_threshold": dynamic_threshold}


def names() -> list[str]:
    """The projections that `make` knows."""
    return list(PROJECTIONS)


def make(name: str, **settings) -> Projection | None:
    """The projection `name`."""
    return registry.make("projection", name, PROJECTIONS, **settings)
