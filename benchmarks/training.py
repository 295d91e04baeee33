"""Training: one device against one per core; our GroupNorm against flax's.

python -m benchmarks.training
"""

from unittest import mock

import flax.linen as nn
import jax

from benchmarks import measure
from progguide_jax.engine import training
from progguide_jax.networks import layers
from progguide_jax.runtime import sharding


def main(argv=None) -> None:
    args, config = measure.setup(measure.arguments(__doc__), argv)
    module, params = measure.network(config)

    def train(mesh):
        train_state = measure.train_state(config, params, mesh)
        step = training.compiled_step(config, mesh)
        data = measure.batch(config, mesh, args.batch)
        data = {name: data[name] for name in ("image", "label")}

        def run():
            nonlocal train_state
            train_state, metrics = step(train_state, data)
            return metrics

        return run

    def forward(group_norm):
        mesh = sharding.mesh()
        data = measure.batch(config, mesh, args.batch)
        inputs = (params, data["eps"], data["t"], data["label"])
        with mock.patch.object(layers, "GroupNorm", group_norm):
            program = measure.forward(module, config, mesh).lower(*inputs).compile()
        placed = jax.device_put(params, sharding.replicated(mesh))
        return lambda: program(placed, *inputs[1:])

    functions = {
        "train": train(sharding.mesh()),
        "forward": forward(layers.GroupNorm),
        "forward, flax's GroupNorm": forward(nn.GroupNorm),
    }
    if jax.device_count() > 1:
        functions["train, one device"] = train(measure.one_device())
    s = measure.rounds(functions, args.rounds)
    rows = [
        measure.row(
            "forward, flax's GroupNorm / ours",
            s["forward, flax's GroupNorm"] / s["forward"],
            ">= 1.00",
        )
    ]
    if "train, one device" in s:
        ratio = s["train, one device"] / s["train"]
        rows.append(measure.row("train, one device / all", ratio))
    rows += [measure.row(f"images/s, {n}", args.batch / v) for n, v in s.items()]
    measure.report("training", rows, args)


if __name__ == "__main__":
    main()
