"""Guided sampling: what it costs over its network evaluations, what zeros save.

    python -m benchmarks.sampling

Guided DDIM of --steps steps against as many calls of the jitted network; the matrix of
a solver against a loop written for DDIM's four numbers; the trace; omega zero on 80 %
of the steps; two calls of B against one of 2B; one device against one per core; and how
often all schedules, settings and solvers of one length and memory compile.
"""

import jax
import numpy as np

from benchmarks import measure
from progguide_jax.diffusion import levels
from progguide_jax.guidance import schedules
from progguide_jax.runtime import sharding
from progguide_jax.systems import drawing, specs, trained

SCHEDULES = ("static", "linear", "cosine", "gn", "interval")


def main(argv=None) -> None:
    parser = measure.arguments(__doc__, rounds=5)
    parser.add_argument("--steps", type=int, default=5, help="S, a multiple of 5")
    args, config = measure.setup(parser, argv)
    module, params = measure.network(config)
    timesteps = levels.timesteps(config.noise.num_timesteps, args.steps)
    full = np.ones(args.steps, np.float32)
    zeros = np.where(np.arange(args.steps) < args.steps // 5, full, 0)

    def programs(mesh):
        """Guided sampling on mesh in both forms, and half its network evaluations."""
        placed = jax.device_put(params, sharding.replicated(mesh))
        data = measure.batch(config, mesh, args.batch)
        forward = measure.forward(module, config, mesh)
        two, double, traced = (
            measure.guided(module, config, mesh, timesteps, **options)
            for options in ({}, {"double_batch": True}, {"trace": True})
        )
        four = measure.four_numbers(module, config, mesh, timesteps)

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
            "four numbers": sample(four, full),
            "trace": sample(traced, full),
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
            "guided / (evaluations x forward)", two / (2 * s["network"]), "<= 1.02"
        ),
        measure.row("matrix / four numbers", two / s["four numbers"], "<= 1.01"),
        measure.row("with trace / without", s["trace"] / two, "<= 1.02"),
        measure.row("omega 0 on 80 % / full", s["80 % zero"] / two, "<= 0.65"),
        measure.row("double batch / two calls", s["double batch"] / two),
        measure.row(
            f"compilations: {len(SCHEDULES)} schedules x ddim, ddpm",
            count_compilations(config, params, args.steps),
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


def count_compilations(config, params, num_steps: int) -> int:
    """How often the program of the loop is compiled for every schedule and every
    solver that remembers nothing, and two settings of the projection."""
    mesh, num_timesteps = sharding.mesh(), config.noise.num_timesteps
    system = trained.of(config, jax.device_put(params, sharding.replicated(mesh)), {})
    shapes = {
        "gn": {"g": np.linspace(1, 2, num_timesteps)},
        "interval": {"t_min": num_timesteps // 4, "t_max": num_timesteps // 2},
    }
    index = np.arange(mesh.size)
    compiled = []

    def listen(event, duration, **kwargs):
        if event == "/jax/core/compile/backend_compile_duration":
            compiled.append(duration)

    grid = levels.timesteps(num_timesteps, num_steps)
    curves = [
        schedules.make(name, 1.0, grid, num_timesteps, **shapes.get(name, {}))
        for name in SCHEDULES
    ]
    chosen = [("ddim", "eta", 0.0), ("ddim", "eta", 0.5), ("ddpm", "variance", "large")]
    jax.monitoring.register_event_duration_secs_listener(listen)
    for solver, setting, value in chosen:
        cell = config.copy_and_resolve_references()
        cell.sample.solver, cell.sample[solver][setting] = solver, value
        cell.guidance.clip.bound = 1.0 if value == 0 else 1.5
        for omega in curves:
            spec = specs.of(cell, {"null": omega}, num_steps=num_steps)
            drawing.draw(system, spec, index, index % config.data.num_classes, mesh)
    longest = max(compiled)  # what is short copies an array
    return sum(duration > longest / 10 for duration in compiled)


if __name__ == "__main__":
    main()
