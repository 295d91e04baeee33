"""Sampling: `sample`, the short form for notebooks, and `solve`, the general one.

Both run the loop of `diffusion.loop`.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from progguide_jax.diffusion import (
    arguments,
    asking,
    closures,
    faults,
    loop,
    noise,
    plans,
    prediction,
    process,
    solvers,
    system,
)
from progguide_jax.diffusion import levels as levels_lib
from progguide_jax.guidance import projections, rules

timesteps = levels_lib.timesteps
ddim, ddpm = solvers.ddim, solvers.ddpm
image_keys, fold_in = noise.image_keys, noise.fold_in
initial_noise = noise.initial_noise


def _scan(*args, **kwargs):
    """What `loop.scan` gives, and which images x_0 are finite [B]."""
    result = loop.scan(*args, **kwargs)
    return result, faults.are_finite(result[0])


_jitted = jax.jit(_scan, static_argnames=("view", "trace", "double_batch"))


def sample(
    eps_fn,
    x_T: jax.Array,
    *,
    params=None,
    cond,
    null_cond,
    noise_schedule: process.NoiseSchedule,
    timesteps: np.ndarray,
    omega: jax.Array,
    labels: jax.Array | None = None,
    solver: plans.Solver | None = None,
    rule: rules.Rule | None = None,
    key: jax.Array | None = None,
    clip_x0: float | None = None,
    projection: projections.Projection | None = None,
    trajectory: bool = False,
    trace: bool = False,
    double_batch: bool = False,
):
    """Sample from x_T [B,...] against the null condition; the short form of `solve`.

    eps_fn(params, x_t [B,...], t int32 [B], cond) -> eps [B,...], with params any
    pytree: an argument of the compiled program, so that other parameters need no other
    one, and neither does the same eps_fn made anew, such as a lambda in the call.
    Without params it is eps_fn(x_t, t, cond), which is traced at every call, to see
    whether the arrays that it reads have changed. cond: any pytree with leading axis B;
    null_cond: the same tree for "no condition", each leaf with the axis B or without.
    timesteps: int [S],
    strictly falling, on the host. omega: as in `solve`, or [K,S] with labels int [B].
    key: one key, or one per image [B]; solvers that add noise need it. clip_x0: bound
    on |x0|, short for projection=projections.clip(bound).

    Returns what `solve` returns.
    """
    if clip_x0 is not None:
        if projection is not None:
            raise ValueError("clip_x0 and projection are both given: leave one out")
        if isinstance(clip_x0, bool | str) or not clip_x0 > 0:
            raise ValueError(
                f"clip_x0 is a bound on |x0| and must be positive: {clip_x0}"
            )
        projection = projections.clip(clip_x0)
    levels = levels_lib.from_timesteps(noise_schedule, timesteps)
    x_T = arguments.start(x_T)
    cond = arguments.conditions(cond, x_T)
    arguments.check_model(eps_fn, params)
    arguments.check_weights(omega)
    if params is not None:
        eps_fn = jax.tree_util.Partial(eps_fn, params)
    elif not isinstance(eps_fn, jax.tree_util.Partial):
        t = jnp.full(len(x_T), timesteps[0], jnp.int32)
        eps_fn = jax.tree_util.Partial(closures.by_trace(eps_fn, x_T, t, cond))
    if labels is not None:
        omega = arguments.of_labels(omega, labels, len(timesteps), len(x_T))
        omega = {"null": omega}
    fn = jax.tree_util.Partial(_at_timestep, eps_fn)
    if any(solver is entry.make for entry in solvers.SOLVERS.values()):
        raise ValueError(
            f"solver is the factory {solver.__name__}: call it, {solver.__name__}()"
        )
    if isinstance(solver, str):
        raise ValueError(f"solver is {solver!r}: pass solvers.make({solver!r})")
    if isinstance(solver, plans.Plan):
        raise ValueError(
            "solver is a plan, which has its grid: pass the solver alone, such as "
            "solvers.ddim(), or hand the plan to solve"
        )
    plan = (solver or solvers.ddim())(levels)
    if np.any(plan.t % 1):
        raise ValueError(
            "this solver goes to levels between the timesteps and eps_fn takes an int "
            "t: use solve, whose branches take a level, or leave out the churn"
        )
    null_cond = system.null_like(null_cond, cond)
    if getattr(cond, "ndim", 0) == 1:
        arguments.check_labels(cond, null_cond)
    branches = {
        "cond": prediction.Branch(fn, cond),
        "null": prediction.Branch(fn, null_cond),
    }
    return solve(
        branches,
        x_T,
        plan,
        omega=omega,
        rule=rule,
        projection=projection,
        key=key,
        trajectory=trajectory,
        trace=trace,
        double_batch=double_batch,
    )


def _at_timestep(eps_fn, x, level, cond):
    return eps_fn(x, level.t.astype(jnp.int32), cond)


def solve(
    branches: dict[str, prediction.Branch],
    x_T: jax.Array,
    plan: plans.Plan,
    *,
    omega: jax.Array | dict[str, jax.Array],
    rule: rules.Rule | None = None,
    projection: projections.Projection | None = None,
    key: jax.Array | None = None,
    trajectory: bool = False,
    trace: bool = False,
    double_batch: bool = False,
):
    """Sample from x_T [B,...] at the plan's first level.

    branches: "cond", and the references that `rule` (default cfg) guides against.
    plan: solver(levels). omega: [S] or [S,B] on the grid, or {branch: [S] or [S,B]},
    as it must be with several references. key: one key, or one per image [B].
    projection: moves x0, and eps is derived from it again. double_batch: branches of
    one function in one forward pass.

    Returns x_0 [B,...] in the dtype of x_T; with trajectory also x at every grid level
    [S+1,B,...] from x_T to x_0; with trace also a `tracing.Trace`. Logs a warning where
    x_0 is not finite, with the evaluation and the branch that began it.
    """
    x_T = arguments.start(x_T)
    arguments.check_plan(plan)
    rule = rules.of(rule or rules.cfg()).on(plan)
    arguments.check_branches(branches, x_T)
    arguments.check_weights(omega)
    arguments.check_axes(omega, plan, branches, x_T)
    if plan.stochastic and key is None:
        raise ValueError("this solver adds noise: pass key=jax.random.key(seed)")
    drawing = [name for name, branch in branches.items() if branch.random]
    if drawing and key is None:
        raise ValueError(
            f"the branch {drawing[0]!r} draws noise: pass key=jax.random.key(seed)"
        )
    rows, keys = (
        loop.rows(plan, branches, omega, rule, x_T),
        arguments.keys(key, len(x_T)),
    )
    projection = projections.of(projection)
    result, finite = _jitted(
        asking.share(branches), x_T, rows, keys, rule, projection,
        view=jnp.asarray if trajectory else None, trace=trace,
        double_batch=double_batch,
    )  # fmt: skip
    faults.warn(
        finite,
        functools.partial(faults.of_image, branches, x_T, rows, keys, rule, projection),
    )
    if not (trajectory or trace):
        return result[0]
    x_0, *rest = result
    if trajectory:
        rest[0] = jnp.concatenate([x_T[None], rest[0][np.flatnonzero(plan.on_grid)]])
    return x_0, *rest
