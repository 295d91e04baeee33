"""What a training would take: its step compiled and taken twice, nothing kept."""

import functools
import math
import time

import jax

from progguide_jax.data import batches
from progguide_jax.engine import training
from progguide_jax.runtime import sharding
from progguide_jax.systems import build, validation

# operations a second of one chip in bfloat16, dense, as its vendor states it
PEAKS = {
    "A100": 312e12,
    "H100, H200 (SXM)": 989e12,
    "TPU v4": 275e12,
    "TPU v5e": 197e12,
    "TPU v5p": 459e12,
}
SHARE = 0.2  # of it that a U-Net of this kind is assumed to reach: not measured
_MIB = 2**20


def rehearse(config, workdir: str) -> None:
    """Print parameters, FLOPs and memory of the step of config, compile it, take it
    twice on the first batch, and print the hours that all steps would take here, and on
    accelerators at an assumed share of their peak. Leaves no file in workdir."""
    validation.validate(config)
    mesh = sharding.mesh()
    training.check_batch(config, mesh)
    print("\n".join(report(config, mesh)))


def report(config, mesh) -> list[str]:
    """The lines that `rehearse` prints."""
    train, dataset = config.train, build.load_data(config)
    rows = sharding.host_rows(train.batch_size)
    batch = batches.batch(
        dataset, config.seed, 0, train.batch_size, config.data.flip, rows
    )
    placed = sharding.put(mesh, {k: batch[k] for k in ("image", "label")})
    state = training.fresh_state(config, mesh)
    count = sum(x.size for x in jax.tree.leaves(state.params))
    held = sum(map(_bytes_here, jax.tree.leaves(state)))

    flops = _flops(config, state, placed)
    begun = time.perf_counter()
    step = training.compiled_step(config, mesh).lower(state, placed).compile()
    compiling = time.perf_counter() - begun
    scratch = getattr(step.memory_analysis(), "temp_size_in_bytes", math.nan)
    for _ in range(2):  # the first brings everything into the caches
        begun = time.perf_counter()
        state, metrics = jax.block_until_ready(step(state, placed))
        seconds = time.perf_counter() - begun

    lines = [
        f"devices: {mesh.size} x {jax.devices()[0].device_kind}",
        f"parameters: {count:,}",
        f"memory a device: {held / _MIB:.1f} MiB of state, "
        f"{scratch / _MIB:.1f} MiB of scratch as compiled",
        f"FLOPs: {flops:.3g} a step, {flops / train.batch_size:.3g} an image",
        f"compiling: {compiling:.1f} s",
        f"the first steps' loss: {float(metrics['loss']):.4f}",
        f"{train.num_steps:,} steps of {train.batch_size}: "
        f"{train.num_steps * seconds / 3600:.2g} h here ({seconds:.3g} s a step)",
    ]
    total = flops * train.num_steps
    lines += [
        f"  {total / (SHARE * peak) / 3600:.2g} h on one {name}, if it reached "
        f"{SHARE:.0%} of its peak"
        for name, peak in PEAKS.items()
    ]
    return lines


def _flops(config, state, batch) -> float:
    """Those of a step on all devices together, as XLA counts them. It counts one of the
    devices, and one part of train.accumulate: so the step is counted undivided."""
    undivided = config.copy_and_resolve_references()
    undivided.train.accumulate = 1
    step = functools.partial(
        training.train_step,
        config=undivided,
        module=build.network(config),
        optimizer=build.optimizer(config),
    )
    shapes = jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), (state, batch)
    )
    cost = jax.jit(step).lower(*shapes).cost_analysis()
    return (cost or {}).get("flops", math.nan)


def _bytes_here(leaf: jax.Array) -> int:
    """What one device holds of it."""
    return math.prod(leaf.sharding.shard_shape(leaf.shape)) * leaf.dtype.itemsize
