"""A system: all that sampling and probing ask of a model, whatever kind it is."""

import numbers
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from progguide_jax import registry
from progguide_jax.diffusion import arguments, prediction, process


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

    # what some references need; None where a model has no such thing; what holds
    # parameters is a `jax.tree_util.Partial`
    # (keys [B], conditions) -> other conditions of the same kind, drawn at random
    other: Callable[[jax.Array, Any], Any] | None = None
    # conditions -> embeddings [B,D], and embeddings -> their branch
    embed: Callable[[Any], jax.Array] | None = None
    branch_of_embedding: Callable[[jax.Array], prediction.Branch] | None = None
    # (conditions, name of a perturbation, its settings) -> branch of the same network
    # disturbed inside; "attended" is no prediction, but how much attention each pixel
    # of a layer gets [B,h,w]
    perturbed: Callable[..., prediction.Branch] | None = None


def of(model: System, what: str) -> System:
    """model itself; ValueError for anything else, such as parameters."""
    if not isinstance(model, System):
        raise ValueError(
            f"{what} is a {type(model).__name__}: pass a System, such as "
            "system.of_network(fn, params, noise_schedule, shape, num_classes=10)"
        )
    return model


def of_network(
    fn: Callable[..., jax.Array],
    params: Any,
    noise_schedule: process.NoiseSchedule,
    shape: tuple[int, ...],
    *,
    num_classes: int | None = None,
    null: Any = None,
    predicts: str = "eps",
    fractional_t: bool = False,
) -> System:
    """Your own network fn(params, x [B,*shape], t [B], cond) -> [B,*shape] as a system.

    num_classes: cond is a label int [B], 0 ... num_classes - 1, or "no class", which is
    num_classes unless `null` says otherwise; other labels are refused. Without it cond
    is any pytree with leading axis B, and null, the same tree for "no condition", must
    be given. predicts: one of `process.PREDICTIONS`. t is int32, the nearest timestep;
    with fractional_t it is float32, for a network that embeds t as a number: then grids
    of sigma, and references that ask at a shifted t, reach it exactly. What else it can
    do is added with `_replace`, such as `embed` and `branch_of_embedding`.
    """
    arguments.check_model(fn, [params], "fn")
    registry.check("prediction", predicts, process.PREDICTIONS)
    if null is None and num_classes is None:
        raise ValueError(
            "num_classes and null are both missing: pass num_classes for labels, or "
            "null, the conditions of no condition"
        )
    if num_classes is not None and not isinstance(num_classes, numbers.Integral):
        raise ValueError(f"num_classes is {num_classes!r:.40}: pass an int, such as 10")
    if not isinstance(shape, tuple | list):
        raise ValueError(
            f"shape is {shape!r:.40}: pass that of one x, such as (32, 32, 3)"
        )
    at = _at_float if fractional_t else _at_nearest
    whole, shape = jax.tree_util.Partial(at, as_partial(fn), params), tuple(shape)
    about = {"network": getattr(fn, "__qualname__", type(fn).__name__)}
    if num_classes is not None:
        return of_labels(
            whole, noise_schedule, shape, num_classes, null, predicts, origin=about
        )
    return System(
        branch=lambda cond: prediction.Branch(whole, cond, predicts, shape=shape),
        noise_schedule=process.of(noise_schedule),
        shape=shape,
        condition=_itself,
        null=null,
        decode=_itself,
        origin=about,
    )


def of_labels(
    fn: jax.tree_util.Partial,
    noise_schedule: process.NoiseSchedule,
    shape: tuple[int, ...],
    num_classes: int,
    null: int | None = None,
    predicts: str = "eps",
    **more: Any,
) -> System:
    """The system of fn(x, level, label), whose conditions are labels: every way into it
    refuses those that are neither a class nor null, default num_classes. more: the
    other fields, origin among them."""
    null = num_classes if null is None else null

    def branch(label):
        arguments.check_labels(label, null, num_classes)
        return prediction.Branch(fn, label, predicts, shape=shape)

    def condition(labels):
        arguments.check_labels(labels, null, num_classes)
        return np.asarray(labels, np.int32)

    return System(
        branch=branch,
        noise_schedule=process.of(noise_schedule),
        shape=shape,
        condition=condition,
        null=null,
        decode=_itself,
        other=other_labels(num_classes),
        **more,
    )


def _at_nearest(fn, params, x, level, cond):
    return fn(params, x, jnp.round(level.t).astype(jnp.int32), cond)


def _at_float(fn, params, x, level, cond):
    return fn(params, x, level.t, cond)


def _itself(value):
    return value


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


def demand(model: System, field: str, reference: str) -> Callable:
    """What `field` of the model holds, as a `Partial`; ValueError naming the reference
    where it is None."""
    fn = getattr(model, field)
    if fn is None:
        raise ValueError(
            f"{reference} needs System.{field}, which this model lacks: give it, or "
            "use another reference"
        )
    return as_partial(fn)


def as_partial(fn: Callable) -> jax.tree_util.Partial:
    """fn as something that a compiled program takes as an argument."""
    return fn if isinstance(fn, jax.tree_util.Partial) else jax.tree_util.Partial(fn)


def other_labels(
    num_classes: int,
) -> Callable[[jax.Array, jax.Array], jax.Array] | None:
    """`System.other` of labels 0 ... num_classes - 1: each of the others is as likely
    as the next, of the null label every one; None where there is no other."""
    if num_classes < 2:
        return None
    return jax.tree_util.Partial(_other_labels, num_classes)


def _other_labels(num_classes, keys, label):
    null = label >= num_classes
    first = jnp.where(null, 0, 1)
    step = jax.vmap(lambda key, low: jax.random.randint(key, (), low, num_classes))
    return ((jnp.where(null, 0, label) + step(keys, first)) % num_classes).astype(
        label.dtype
    )
