"""Images of a system by a spec: the one place where sampling is called."""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from progguide_jax.diffusion import asking, faults, loop, noise, particles, tracing
from progguide_jax.diffusion.system import System
from progguide_jax.guidance import references
from progguide_jax.runtime import sharding
from progguide_jax.systems.specs import SamplingSpec


def draw(
    system: System,
    spec: SamplingSpec,
    index: np.ndarray,
    labels: np.ndarray,
    mesh: jax.sharding.Mesh,
    *,
    double_batch: bool = False,
) -> np.ndarray:
    """Images float32 [B,H,W,C], decoded, on every host: image i is a function of
    (spec.seed, index[i], its label) alone, not of the batch or of the devices.

    index int [B], labels int [B]: those of the global batch, the same on every host.
    FloatingPointError, naming step and branch, if an image is not finite.
    """
    (x_0,) = _run(system, spec, index, labels, mesh, double_batch=double_batch)
    images = sharding.to_host(system.decode(x_0))
    finite = np.isfinite(images).all(axis=tuple(range(1, images.ndim)))
    if not finite.all():
        raise FloatingPointError(
            _first_fault(system, spec, index, labels, mesh, finite)
        )
    return images


def _first_fault(system, spec, index, labels, mesh, finite) -> str:
    """Where the first of the images that are not finite went astray."""
    bad = int(np.flatnonzero(~finite)[0])
    if spec.particles:
        why = _fault_of_particles(system, spec, index[bad], labels[bad])
        return f"image {index[bad]} is not finite {why}"
    index, labels = (np.full(mesh.size, a[bad]) for a in (index, labels))
    every = tuple(range(len(spec.plan.t)))
    states = _run(system, spec, index, labels, mesh, view=_whole, rows_seen=every)[1]
    branches, rows = _prepared(system, spec, labels, system.condition(labels))
    keys = noise.fold_in(noise.image_keys(jax.random.key(spec.seed), index), 1)
    found = faults.first(asking.share(branches), sharding.to_host(states), rows, keys)
    where = f"image {index[0]} is not finite"
    return f"{where} {found}" if found else f"{where} after decoding, and x_0 is"


def _whole(x):
    return x


def trace(system: System, spec: SamplingSpec, index, labels, mesh) -> tracing.Trace:
    """What guidance did to these images, on the host."""
    _, found = _run(system, spec, index, labels, mesh, trace=True)
    return sharding.to_host(found)


def paths(system: System, spec: SamplingSpec, index, labels, mesh, view):
    """view(x [B,...]), any arrays, along whole trajectories: [S+1,...] each, from noise
    to x_0, on the host. The states themselves are not kept: they would not fit."""
    return sharding.to_host(_run(system, spec, index, labels, mesh, view=view)[1])


def _prepared(system, spec, labels, cond):
    """The branches, and the rows of the loop, for these labels of the whole batch."""
    branches = references.branches(system, cond, spec.guides)
    shape = jax.ShapeDtypeStruct((len(labels), *system.shape), np.float32)
    rows = loop.rows(spec.plan, branches, spec.weights(labels), spec.rule, shape)
    return branches, rows


def _run(
    system, spec, index, labels, mesh,
    double_batch=False, trace=False, view=None, rows_seen=None,
):  # fmt: skip
    """rows_seen: of the plan, after which view looks; None = those on the grid."""
    if spec.particles:
        if trace or view is not None:
            raise ValueError(
                "particles are drawn anew on the way, so that no image has a path: "
                "set sample.tilted=none"
            )
        return (_of_particles(system, spec, index, labels, mesh),)
    mine = sharding.host_rows(len(index))
    index, labels = np.asarray(index, np.int32), np.asarray(labels, np.int32)
    own, cond = sharding.put(mesh, (index[mine], system.condition(labels[mine])))
    branches, rows = _prepared(system, spec, labels, cond)
    if view is not None and rows_seen is None:
        rows_seen = tuple(np.flatnonzero(spec.plan.on_grid).tolist())
    run = _compiled(mesh, system.shape, double_batch, trace, view, rows_seen)
    key = jax.random.key(spec.seed)
    return run(asking.share(branches), own, key, rows, spec.rule, spec.projection)


def _of_particles(system, spec, index, labels, mesh) -> jax.Array:
    """x_0 of one of the particles of each image."""
    count = spec.particles["particles"]
    mine = sharding.host_rows(len(index))
    index, labels = (np.repeat(np.asarray(a, np.int32), count) for a in (index, labels))
    mine = slice(mine.start * count, mine.stop * count)
    own, cond = sharding.put(mesh, (index[mine], system.condition(labels[mine])))
    branches, rows = _prepared(system, spec, labels, cond)
    run = _compiled_particles(mesh, system.shape, count)
    lost = particles.noise_lost(spec.levels).astype(np.float32)
    key, threshold = jax.random.key(spec.seed), spec.particles["threshold"]
    return run(asking.share(branches), own, key, rows, lost, threshold)


def _fault_of_particles(system, spec, index, label) -> str:
    """Where those of one image went astray."""
    count = spec.particles["particles"]
    labels = np.full(count, label, np.int32)
    branches, rows = _prepared(system, spec, labels, system.condition(labels))
    keys = noise.image_keys(jax.random.key(spec.seed), np.full(count, index, np.int32))
    x_T, steps = _start_of_particles(keys, system.shape, count)
    lost = particles.noise_lost(spec.levels).astype(np.float32)
    threshold = spec.particles["threshold"]
    return particles.fault(branches, x_T, rows, steps, lost, threshold, count)


def _start_of_particles(keys, shape, count):
    """x_T and the keys of the steps, of keys [B] that `count` in a row share."""
    number = jnp.arange(len(keys)) % count
    each = jax.vmap(jax.random.fold_in)(noise.fold_in(keys, 2), number)
    start, steps = (noise.fold_in(each, i) for i in (0, 1))
    return noise.initial_noise(start, shape), steps


@functools.cache
def _compiled_particles(mesh, shape, count):
    """The program of so many particles an image: those of one index side by side."""

    def run(branches, index, key, rows, lost, threshold):
        keys = noise.image_keys(key, index)
        x_T, steps = _start_of_particles(keys, shape, count)
        x_0 = particles.scan(branches, x_T, rows, steps, lost, threshold, count)
        return particles.one_of(x_0, noise.fold_in(keys[::count], 3), count)

    return jax.jit(run)


@functools.cache
def _compiled(mesh, shape, double_batch, trace, view, rows_seen):
    """The program of one mesh and shape; jit's own cache knows the rest."""

    def run(branches, index, key, rows, rule, projection):
        keys = noise.image_keys(key, index)
        start, steps = (noise.fold_in(keys, i) for i in (0, 1))
        x_T = noise.initial_noise(start, shape)
        x_0, *more = loop.scan(
            branches, x_T, rows, steps, rule, projection,
            view=view, trace=trace, double_batch=double_batch,
        )  # fmt: skip
        if view is not None:

            def whole(first, after):
                return jnp.concatenate([first[None], after[np.array(rows_seen)]])

            more[0] = jax.tree.map(whole, view(x_T), more[0])
        return x_0, *more

    return jax.jit(run)
