"""Guided sampling beside google/hackable_diffusion's sampler, one network in both.

    python -m benchmarks.against_hackable --checkout=PATH

PATH is a checkout of github.com/google/hackable_diffusion; what it imports (jaxtyping,
typeguard, kauldron) must be installed. Both run DDIM on one grid from one noise, in one
process, and must agree to 1e-3 before anything is timed: with guidance at every step,
and on a fifth of them, which theirs evaluates without a condition at every step all the
same. Theirs is timed on one device, as it comes, and split over the devices as ours is.
"""

import sys

import jax
import numpy as np

from benchmarks import measure
from progguide_jax.diffusion import levels, prediction, process, samplers, solvers
from progguide_jax.runtime import sharding
from progguide_jax.systems import build

SCALE = 1.0


def main(argv=None) -> None:
    parser = measure.arguments(__doc__, rounds=5)
    parser.add_argument("--steps", type=int, default=10, help="S, a multiple of 5")
    parser.add_argument("--checkout", required=True, help="of hackable_diffusion")
    args, config = measure.setup(parser, argv)
    sys.path.insert(0, args.checkout)
    module, params = measure.network(config)
    mesh = sharding.mesh()
    their_schedule, sampler = hackable(args.steps)
    times = np.linspace(1 - 1e-6, 1e-6, args.steps + 1)
    grid = levels.Levels(
        times * 1000,
        *(
            np.asarray(face(jax.numpy.float32(times)), np.float64)
            for face in (their_schedule.alpha, their_schedule.sigma)
        ),
        at=None,  # it is for levels off the grid
    )
    first, last = 2 * args.steps // 5, 3 * args.steps // 5
    inside = (np.arange(args.steps) >= first) & (np.arange(args.steps) < last)
    between = [float(times[k - 1 : k + 1].mean()) for k in (last, first)]
    omega = {"every step": np.full(args.steps, SCALE), "a fifth": SCALE * inside}
    limits = {"every step": (0.0, 1.0), "a fifth": between}

    calls = {}
    for name in omega:
        for where, devices in (("", mesh), (", one device", measure.one_device())):
            placed = jax.device_put(params, sharding.replicated(devices))
            data = measure.batch(config, devices, args.batch)
            own = (placed, data["eps"], data["label"])
            theirs = sampler(module, config, their_schedule, limits[name], devices)
            calls[f"theirs, {name}{where}"] = bound(theirs, own)
            if not where:
                our = ours(module, config, grid, omega[name], devices)
                calls[f"ours, {name}"] = bound(our, own)
    rows = [
        parity(name, calls[f"ours, {name}"](), calls[f"theirs, {name}"]())
        for name in omega
    ]
    s = measure.rounds(calls, args.rounds)
    for name, target in (("every step", ">= 1.4"), ("a fifth", ">= 2.3")):
        mine = s[f"ours, {name}"]
        alone, split = (s[f"theirs, {name}{where}"] for where in (", one device", ""))
        what = f"images/s, ours / theirs, guided at {name}"
        rows.append(measure.row(what, alone / mine, target))
        rows.append(measure.row(f"{what}, theirs split too", split / mine))
    measure.report("against_hackable", rows, args, steps=args.steps)


def bound(fn, args):
    return lambda: fn(*args)


def ours(module, config, grid, omega, mesh):
    """(params, x_T, label) -> x_0 by our loop."""
    plan, null = solvers.ddim()(grid), config.data.num_classes

    def run(params, x_T, label):
        fn = jax.tree_util.Partial(build.raw_of_label(module), params)
        branches = {
            "cond": prediction.Branch(fn, label),
            "null": prediction.Branch(fn, jax.numpy.full_like(label, null)),
        }
        return samplers.solve(branches, x_T, plan, omega=omega)

    return compiled(run, mesh)


def compiled(run, mesh):
    repl, split = sharding.replicated(mesh), sharding.batch(mesh)
    return jax.jit(run, in_shardings=(repl, split, split), out_shardings=split)


def hackable(num_steps: int):
    """(their noise schedule, a function that makes their sampler)."""
    from hackable_diffusion.lib.corruption import gaussian, schedules
    from hackable_diffusion.lib.inference import diffusion_inference, guidance
    from hackable_diffusion.lib.sampling import (
        gaussian_step_sampler,
        sampling,
        time_scheduling,
    )

    schedule = schedules.LinearDiffusionSchedule()
    loop = sampling.DiffusionSampler(
        time_schedule=time_scheduling.UniformTimeSchedule(),
        stepper=gaussian_step_sampler.DDIMStep(
            corruption_process=gaussian.GaussianProcess(schedule=schedule),
            stoch_coeff=0.0,
        ),
        num_steps=num_steps + 1,  # theirs counts the levels
    )

    def sampler(module, config, schedule, limits, mesh):
        null = config.data.num_classes

        def run(params, x_T, label):
            def network(time, xt, conditioning):
                t = jax.numpy.broadcast_to(time.reshape(-1), len(xt))
                level = process.Level(t * 1000, schedule.alpha(t), schedule.sigma(t))
                chosen = jax.numpy.full_like(label, null)
                if conditioning is not None:
                    chosen = conditioning["label"]
                eps = build.raw_of_label(module)(params, xt, level, chosen)
                return {"epsilon": eps}

            guided = diffusion_inference.GuidedDiffusionInferenceFn(
                base_inference_fn=network,
                guidance_fn=guidance.LimitedIntervalGuidanceFn(
                    guidance=SCALE, lower=limits[0], upper=limits[1]
                ),
            )
            last, _ = loop(
                inference_fn=guided,
                rng=jax.random.key(0),
                initial_noise=x_T,
                conditioning={"label": label},
            )
            return last.xt

        return compiled(run, mesh)

    return schedule, sampler


def parity(name: str, mine, theirs) -> dict:
    """The largest difference, relative to the largest value."""
    mine, theirs = np.asarray(mine), np.asarray(theirs)
    error = np.abs(mine - theirs).max() / np.abs(theirs).max()
    row = measure.row(f"parity: error of x_0, guided at {name}", error, "<= 1e-3")
    if not row["met"]:
        sys.exit(f"error: x_0 differs from theirs by {error:.1e}: not comparable")
    return row


if __name__ == "__main__":
    main()
