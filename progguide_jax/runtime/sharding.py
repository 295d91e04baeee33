"""One mesh over every device, its two shardings, and the way in and out of it.

Programs are written for the global batch and compiled with `jit`; a batch is split
over the mesh along its leading axis and everything else is replicated, but for the
state of a training that asks to split it too. On a CPU each core can be a device of the
same mesh.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import flatten_util
from jax.experimental import multihost_utils


def mesh() -> jax.sharding.Mesh:
    """One axis, "data", over all devices of all hosts, each host's side by side."""
    devices = sorted(jax.devices(), key=lambda d: (d.process_index, d.id))
    return jax.sharding.Mesh(
        np.array(devices), ("data",), axis_types=(jax.sharding.AxisType.Auto,)
    )


def replicated(mesh: jax.sharding.Mesh) -> jax.sharding.NamedSharding:
    """Every device holds the whole array."""
    return jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec())


def batch(mesh: jax.sharding.Mesh, axis: int = 0) -> jax.sharding.NamedSharding:
    """`axis` is split over the devices, the other axes are whole."""
    spec = jax.sharding.PartitionSpec(*[None] * axis, "data")
    return jax.sharding.NamedSharding(mesh, spec)


def split_state(mesh: jax.sharding.Mesh, tree: Any) -> Any:
    """A sharding for each leaf (of any that have a shape): its longest axis that the
    devices can share is split over them; one that has none is whole on each. With a
    batch split over the same axis this is ZeRO-3, or FSDP (Rajbhandari et al. 2020)."""

    def of(leaf: Any) -> jax.sharding.NamedSharding:
        sizes = [n if n % mesh.size == 0 else 0 for n in leaf.shape]
        longest = int(np.argmax(sizes)) if any(sizes) else None
        return replicated(mesh) if longest is None else batch(mesh, longest)

    return jax.tree.map(of, tree)


def whole(mesh: jax.sharding.Mesh, tree: Any) -> Any:
    """The tree with every leaf whole on each device."""
    return jax.jit(lambda x: x, out_shardings=replicated(mesh))(tree)


def check_batch(
    batch_size: int, mesh: jax.sharding.Mesh, name: str = "batch_size", parts: int = 1
) -> None:
    """Raise ValueError with the nearest sizes if the devices cannot share a batch, each
    taking its images in so many parts."""
    n = mesh.size * parts
    shares = f"{mesh.size} devices" + f" times train.accumulate {parts}" * (parts > 1)
    if batch_size % n:
        below = batch_size // n * n
        nearest = f"{below} or {below + n}" if below else f"{n}"
        raise ValueError(
            f"{name} {batch_size} is not divisible by the {shares}: use {nearest}"
        )


def host_rows(batch_size: int) -> slice:
    """The rows of a global batch of `batch_size` that this host makes."""
    owners = sorted(d.process_index for d in jax.devices())
    rows = batch_size // len(owners)
    first = owners.index(jax.process_index())
    return slice(first * rows, (first + jax.local_device_count()) * rows)


def put(mesh: jax.sharding.Mesh, host_tree: Any) -> Any:
    """Global arrays split along axis 0 from this host's rows of each [n,...] leaf."""
    sharding = batch(mesh)
    hosts = mesh.size / jax.local_device_count()

    def place(x: np.ndarray) -> jax.Array:
        shape = (round(len(x) * hosts), *np.shape(x)[1:])
        return jax.make_array_from_process_local_data(sharding, np.asarray(x), shape)

    return jax.tree.map(place, host_tree)


def value_and_grad(
    loss: Callable[..., jax.Array], mesh: jax.sharding.Mesh | None, parts: int = 1
):
    """`jax.value_and_grad` of loss(params, *rows), a mean over the rows, which the
    devices of the mesh share: each differentiates its own, then they average once.
    parts: a device takes its rows in so many parts, one after the other, for less
    memory.

    Left to itself the partitioner has them meet once for each parameter, which on CPU
    devices costs a small network a quarter of its step.
    """
    alone = _in_parts(jax.value_and_grad(loss), parts)
    if mesh is None or mesh.size == 1:
        return alone

    def mine(params, *rows):
        found = alone(params, *rows)
        if jax.default_backend() != "cpu":  # there the compiler joins and overlaps them
            return jax.lax.pmean(found, "data")
        flat, unravel = flatten_util.ravel_pytree(found)
        return unravel(jax.lax.pmean(flat, "data"))

    def averaged(params, *rows):
        all_of_it, split = jax.sharding.PartitionSpec(), batch(mesh).spec
        specs = (all_of_it, *[split] * len(rows))
        shared = jax.shard_map(
            mine, mesh=mesh, in_specs=specs, out_specs=all_of_it, check_vma=False
        )
        return shared(params, *rows)

    return averaged


def _in_parts(value_and_grad: Callable, parts: int) -> Callable:
    """The mean over `parts` equal shares of the rows, of which each device has some of
    its own in every share."""
    if parts == 1:
        return value_and_grad

    def in_turn(params, *rows):
        shares = jax.tree.map(
            lambda x: x.reshape(-1, parts, *x.shape[1:]).swapaxes(0, 1), rows
        )

        def add(total, share):
            return jax.tree.map(jnp.add, total, value_and_grad(params, *share)), None

        shapes = jax.eval_shape(value_and_grad, params, *jax.tree.map(_first, shares))
        zeros = jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), shapes)
        total, _ = jax.lax.scan(add, zeros, shares)
        return jax.tree.map(lambda x: x / parts, total)

    return in_turn


def _first(x: jax.Array) -> jax.Array:
    return x[0]


def to_host(x: Any) -> Any:
    """Each leaf as a whole numpy array, on every host; all hosts must call this."""

    def fetch(leaf: jax.Array) -> np.ndarray:
        if getattr(leaf, "is_fully_addressable", True) or leaf.is_fully_replicated:
            return np.asarray(leaf)
        return np.asarray(multihost_utils.process_allgather(leaf, tiled=True))

    return jax.tree.map(fetch, x)


def agreed(answer: bool) -> bool:
    """Host 0's answer on every host, where files may show at different times."""
    return bool(from_host_0(np.array(answer)))


def from_host_0(x: np.ndarray) -> np.ndarray:
    """Host 0's array on every host, which all have one of its shape and dtype."""
    if jax.process_count() == 1:
        return x
    return np.asarray(multihost_utils.broadcast_one_to_all(x))


def barrier(name: str) -> None:
    """Every host waits here for the others: what one has written, all then find."""
    if jax.process_count() > 1:
        multihost_utils.sync_global_devices(name)
