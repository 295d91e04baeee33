"""A system: all that sampling and probing ask of a model, whatever kind it is."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from progguide_jax.diffusion import prediction, process


class System(NamedTuple):
    """A model, trained or exact, of pixels or latents, of labels or prompts.

    A pytree could not hold its functions: hand `branch(...)` to the sampler instead.
    """

    # conditions, a pytree with leading axis B -> the branch that answers for them
    branch: Callable[[Any], prediction.Branch]
    noise_schedule: process.NoiseSchedule
    shape: tuple[int, ...]  # of one x
    condition: Callable[[Any], Any]  # labels or prompts -> conditions
    null: Any  # the conditions of "no condition", without the axis B or with it
    decode: Callable[[jax.Array], jax.Array]  # x -> images
    origin: dict[str, Any]  # what it was made by, as JSON: checkpoint step and digest

    # what some references need; None where a model has no such thing
    # (keys [B], conditions) -> other conditions of the same kind, drawn at random
    other: Callable[[jax.Array, Any], Any] | None = None
    # conditions -> embeddings [B,D], and embeddings -> their branch
    embed: Callable[[Any], jax.Array] | None = None
    branch_of_embedding: Callable[[jax.Array], prediction.Branch] | None = None
    # (conditions, name of a perturbation, its settings) -> branch of the same network
    # disturbed inside; "attended" is no prediction, but how much attention each pixel
    # of a layer gets [B,h,w]
    perturbed: Callable[..., prediction.Branch] | None = None


def null_like(null: Any, cond: Any) -> Any:
    """`null` with the axis B, dtypes and shapes of the conditions."""
    try:
        return jax.tree.map(_like, jax.tree.map(jnp.asarray, cond), null)
    except (TypeError, ValueError) as error:
        raise ValueError(
            "null_cond and cond do not go together: pass the same tree for both, each "
            "leaf of null_cond with the axis B or without"
        ) from error


def _like(cond: jax.Array, null: Any) -> jax.Array:
    return jnp.broadcast_to(jnp.asarray(null, cond.dtype), cond.shape)
