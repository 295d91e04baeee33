"""Guided sampling: what it costs over its network evaluations, what zeros save.

    python -m benchmarks.sampling

Guided DDIM of --steps steps against as many calls of the jitted network; omega zero on
80 % of the steps; two calls of B against one of 2B; one device against one per core;
and how often five schedules compile.
"""

import functools

import jax
import numpy as np

from benchmarks import measure
from progguide_jax import generation
from progguide_jax.guidance import schedules
from progguide_jax.runtime import sharding

SCHEDULES = ("static", "linear", "cosine", "gn", "interval")


def main(argv=None) -> None:
    parser = measure.arguments(__doc__, rounds=5)
    parser.add_argument("--steps", type=int, default=5, help="S, a multiple of 5")
    args, config = measure.setup(parser, argv)
    module, params = measure.network(config)
    timesteps = generation.timesteps(config, args.steps)
    full = np.ones(args.steps, np.float32)
    zeros = np.where(np.arange(args.steps) < args.steps // 5, full, 0)

    def programs(mesh):
        """Guided sampling on mesh in both forms, and half its network evaluations."""
        placed = jax.device_put(params, sharding.replicated(mesh))
        data = measure.batch(config, mesh, args.batch)
        forward = measure.forward(module, mesh)
        two, double = (
            measure.guided(module, config, mesh, timesteps, both)
            for both in (False, True)
        )

        def network():
            for _ in range(args.steps):
                forward(
                    placed, data["eps"], data["t"], data["label"]
                ).block_until_ready()

        def sample(program, omega):
            return lambda: program(placed, data["eps"], data["label"], omega)

        return {
            "network": network,
            "two calls": sample(two, full),
            "double batch": sample(double, full),
            "80 % zero": sample(two, zeros),
        }

    mesh = sharding.mesh()
    functions = programs(mesh)
    forms = ("two calls", "double batch")
    if mesh.size > 1:
        alone = programs(measure.one_device())
        functions |= {f"{form}, one device": alone[form] for form in forms}
    s = measure.rounds(functions, args.rounds)
    two = s["two calls"]
    rows = [
        measure.row(
            "guided / (evaluations x forward)", two / (2 * s["network"]), "<= 1.05"
        ),
        measure.row("omega 0 on 80 % / full", s["80 % zero"] / two, "<= 0.65"),
        measure.row("double batch / two calls", s["double batch"] / two),
        measure.row(
            f"compilations of {len(SCHEDULES)} schedules",
            count_compilations(config, module, params, args.steps),
            "== 1",
        ),
    ]
    if mesh.size > 1:
        alone = min((s[f"{form}, one device"] for form in forms), key=np.median)
        every = min((s[form] for form in forms), key=np.median)
        rows.append(measure.row("best of one device / best of all", alone / every))
    for name, seconds in s.items():
        if name != "network":
            rate = args.batch / seconds
            rows.append(measure.row(f"images/s, {name}", rate))
    measure.report("sampling", rows, args, steps=args.steps)


def count_compilations(config, module, params, num_steps: int) -> int:
    """How often XLA is called while `generation.Sampler` runs every schedule."""
    mesh = sharding.mesh()
    placed = jax.device_put(params, sharding.replicated(mesh))
    sampler = generation.Sampler(config, module, mesh, num_steps)
    num_timesteps = config.noise.num_timesteps
    make = functools.partial(
        schedules.make,
        scale=1.0,
        timesteps=generation.timesteps(config, num_steps),
        num_timesteps=num_timesteps,
    )
    shapes = {
        "gn": {"g": np.linspace(1, 2, num_timesteps)},
        "interval": {"t_min": num_timesteps // 4, "t_max": num_timesteps // 2},
    }
    index = np.arange(mesh.size)
    compiled = []

    def listen(event, duration, **kwargs):
        if event == "/jax/core/compile/backend_compile_duration":
            compiled.append(event)

    jax.monitoring.register_event_duration_secs_listener(listen)
    for name in SCHEDULES:
        omega = make(name, **shapes.get(name, {}))
        sampler(placed, index, index % config.data.num_classes, omega)
    return len(compiled)


if __name__ == "__main__":
    main()
