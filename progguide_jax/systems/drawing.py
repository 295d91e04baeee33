"""Images of a system by a spec: the one place where sampling is called."""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from progguide_jax.diffusion import asking, loop, noise, tracing
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
    """
    (x_0,) = _run(system, spec, index, labels, mesh, double_batch=double_batch)
    return sharding.to_host(system.decode(x_0))


def trace(system: System, spec: SamplingSpec, index, labels, mesh) -> tracing.Trace:
    """What guidance did to these images, on the host."""
    _, found = _run(system, spec, index, labels, mesh, trace=True)
    return sharding.to_host(found)


def paths(system: System, spec: SamplingSpec, index, labels, mesh, view):
    """view(x [B,...]), any arrays, along whole trajectories: [S+1,...] each, from noise
    to x_0, on the host. The states themselves are not kept: they would not fit."""
    return sharding.to_host(_run(system, spec, index, labels, mesh, view=view)[1])


def _run(system, spec, index, labels, mesh, double_batch=False, trace=False, view=None):
    mine = sharding.host_rows(len(index))
    index, labels = np.asarray(index, np.int32), np.asarray(labels, np.int32)
    own, cond = sharding.put(mesh, (index[mine], system.condition(labels[mine])))
    branches = references.branches(system, cond, spec.guides)
    shape = jax.ShapeDtypeStruct((len(index), *system.shape), np.float32)
    rows = loop.rows(spec.plan, branches, spec.weights(labels), spec.rule, shape)
    on_grid = (
        None if view is None else tuple(np.flatnonzero(spec.plan.on_grid).tolist())
    )
    run = _compiled(mesh, system.shape, double_batch, trace, view, on_grid)
    key = jax.random.key(spec.seed)
    return run(asking.share(branches), own, key, rows, spec.rule, spec.projection)


@functools.cache
def _compiled(mesh, shape, double_batch, trace, view, on_grid):
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
                return jnp.concatenate([first[None], after[np.array(on_grid)]])

            more[0] = jax.tree.map(whole, view(x_T), more[0])
        return x_0, *more

    return jax.jit(run)
