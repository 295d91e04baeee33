"""What each solver costs an evaluation, beside DDIM's.

    python -m benchmarks.solvers

Guided sampling of --steps steps with every solver of the registry; wall time over the
evaluations that its plan makes (Heun 2 S - 1), as a ratio to that of DDIM.
"""

import jax
import numpy as np

from benchmarks import measure
from progguide_jax.diffusion import levels, prediction, samplers, solvers
from progguide_jax.runtime import sharding
from progguide_jax.systems import build


def main(argv=None) -> None:
    parser = measure.arguments(__doc__, rounds=5)
    parser.add_argument("--steps", type=int, default=6, help="S")
    args, config = measure.setup(parser, argv)
    mesh = sharding.mesh()
    module, params = measure.network(config)
    placed = jax.device_put(params, sharding.replicated(mesh))
    data = measure.batch(config, mesh, args.batch)
    timesteps = levels.timesteps(config.noise.num_timesteps, args.steps)
    grid = levels.from_timesteps(build.noise_schedule(config), timesteps)
    plans = {name: solvers.make(name)(grid) for name in solvers.names()}
    calls = {
        name: bound(guided(module, config, plan, mesh), placed, data)
        for name, plan in plans.items()
    }
    s = measure.rounds(calls, args.rounds)
    each = {name: seconds / len(plans[name].t) for name, seconds in s.items()}
    rows = [
        measure.row(
            f"{name} / ddim, an evaluation", each[name] / each["ddim"], "<= 1.05"
        )
        for name in plans
        if name != "ddim"
    ]
    measure.report("solvers", rows, args, steps=args.steps)


def bound(run, params, data):
    return lambda: run(params, data["eps"], data["label"])


def guided(module, config, plan, mesh):
    """(params, x_T, label) -> x_0 by the plan, omega 1."""
    null, omega = config.data.num_classes, np.ones(int(plan.omega.max()) + 1)

    def run(params, x_T, label):
        fn = jax.tree_util.Partial(build.raw_of_label(module), params)
        branches = {
            "cond": prediction.Branch(fn, label),
            "null": prediction.Branch(fn, jax.numpy.full_like(label, null)),
        }
        key = jax.random.key(0)
        return samplers.solve(branches, x_T, plan, omega=omega, key=key)

    repl, split = sharding.replicated(mesh), sharding.batch(mesh)
    return jax.jit(run, in_shardings=(repl, split, split), out_shardings=split)


if __name__ == "__main__":
    main()
