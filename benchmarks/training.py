"""Training: one device against one per core; our GroupNorm against flax's.

python -m benchmarks.training
"""

from unittest import mock

import flax.linen as nn
import jax

from benchmarks import measure
from progguide_jax import training
from progguide_jax.models import layers
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
            program = measure.forward(module, mesh).lower(*inputs).compile()
        placed = jax.device_put(params, sharding.replicated(mesh))
        return lambda: program(placed, *inputs[1:])

    s = measure.rounds(
        {
            "train, every core": train(sharding.mesh()),
            "train, one device": train(measure.one_device()),
            "forward": forward(layers.GroupNorm),
            "forward, flax's GroupNorm": forward(nn.GroupNorm),
        },
        args.rounds,
    )
    rows = [
        measure.row(
            "one device / every core", s["train, one device"] / s["train, every core"]
        ),
        measure.row(
            "forward, flax's GroupNorm / ours",
            s["forward, flax's GroupNorm"] / s["forward"],
            ">= 1.00",
        ),
    ]
    rows += [measure.row(f"images/s, {n}", args.batch / v) for n, v in s.items()]
    measure.report("training", rows, args)


if __name__ == "__main__":
    main()
