"""What devices say to each other in one training step, counted in the compiled program.

    python -m benchmarks.scaling

Virtual CPU devices share the cores, so time says nothing; the number of collectives and
their bytes do. Beside them what the state takes on each device, whole and split
(train.fsdp). `docs/scaling.md` makes hours of it.
"""

import math
import re

import jax
import numpy as np

from benchmarks import measure
from configs import cifar10
from progguide_jax.engine import training
from progguide_jax.runtime import sharding

KINDS = "all-reduce|all-gather|reduce-scatter|all-to-all|collective-permute"
CALL = re.compile(rf"= (\(.*?\)|\S+) ({KINDS})(?:-start)?\(")
ARRAY = re.compile(r"([a-z]+)(\d+)\[([\d,]*)\]")
TO_HOST = re.compile(r" (?:outfeed|infeed|send|recv)(?:-done)?\(")
MIB = 2**20


def main(argv=None) -> None:
    parser = measure.arguments(__doc__)
    parser.add_argument("--devices", default="1,2,4,8", help="how many, a list")
    parser.add_argument("--dropout", type=float, default=0.0, help="of the network")
    args = parser.parse_args(argv)
    counts = [int(n) for n in args.devices.split(",")]
    if args.smoke:
        args.variant, args.batch, counts = "smoke", 8, [1, 2]
    jax.config.update("jax_num_cpu_devices", max(counts))
    config = cifar10.get_config(args.variant)
    config.train.batch_size, config.model.unet.dropout = args.batch, args.dropout
    rows = []
    for fsdp in (False, True):
        config.train.fsdp = fsdp
        for n in counts if not fsdp else counts[-1:]:
            rows += of_mesh(config, n, fsdp)
    measure.report("scaling", rows, args)


def of_mesh(config, n: int, fsdp: bool) -> list[dict]:
    """The rows of one number of devices."""
    mesh = jax.sharding.Mesh(
        np.array(jax.devices()[:n]), ("data",), axis_types=sharding.mesh().axis_types
    )
    state = training.abstract_state(config, mesh)
    size, b = config.data.image_size, config.train.batch_size
    split = sharding.batch(mesh)
    batch = {
        "image": jax.ShapeDtypeStruct((b, size, size, 3), np.float32, sharding=split),
        "label": jax.ShapeDtypeStruct((b,), np.int32, sharding=split),
    }
    program = training.compiled_step(config, mesh).lower(state, batch).compile()
    text = program.as_text()
    assert not TO_HOST.search(text), "the step speaks to the host"
    found = collectives(text)
    where = f"{n} devices{', split state' if fsdp else ''}"
    held = sum(map(bytes_on_a_device, jax.tree.leaves(state)))
    return [
        measure.row(f"collectives, {where}", float(len(found))),
        measure.row(f"MiB said, {where}", sum(b for _, b in found) / MIB),
        measure.row(f"MiB of state a device, {where}", held / MIB),
    ]


def collectives(text: str) -> list[tuple[str, int]]:
    """(kind, bytes of its result) of each in a compiled program."""
    return [
        (kind, sum(map(_bytes, ARRAY.findall(shape))))
        for shape, kind in CALL.findall(text)
    ]


def _bytes(array: tuple[str, str, str]) -> int:
    _, bits, shape = array
    return int(bits) // 8 * math.prod(int(n) for n in shape.split(",") if n)


def bytes_on_a_device(leaf: jax.ShapeDtypeStruct) -> int:
    return math.prod(leaf.sharding.shard_shape(leaf.shape)) * leaf.dtype.itemsize


if __name__ == "__main__":
    main()
