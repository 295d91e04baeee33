"""The one sampling loop: a `lax.scan` over the rows of a solver's plan.

It never learns the name of a schedule, a solver or a weight: those are arrays, so one
compiled program serves every curve, every solver of one length and memory, and every
setting of a rule. What it guarantees, whatever the rule: an image of omega = 0 gets the
conditional prediction, and a step that has omega = 0 for the whole batch evaluates the
conditional branch only.
"""

import functools
import logging
from collections.abc import Callable, Iterable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from progguide_jax.diffusion import asking, noise, plans, prediction, process, tracing
from progguide_jax.guidance import projections, rules

_log = logging.getLogger(__name__)


class Rows(NamedTuple):
    """What the loop scans over, [N] each: plan, with the matrix in the dtype of x and
    the rest at least in float32; omega {reference: [N] or [N,B]}."""

    index: np.ndarray
    plan: plans.Plan
    omega: dict[str, jax.Array]


def rows(
    plan: plans.Plan,
    branches: dict[str, prediction.Branch],
    omega: jax.Array | dict[str, jax.Array],
    rule: rules.Rule,
    x: jax.Array | jax.ShapeDtypeStruct,
) -> Rows:
    """The plan and the weights as the loop takes them, for states like x [B,...].

    ValueError if the weights, the rule and the plan do not go together.
    """
    num_steps, batch = int(plan.omega.max()) + 1, x.shape[0]
    references = [name for name in branches if name != "cond"]
    if "cond" not in branches or not references:
        raise ValueError(
            f'branches are {", ".join(branches) or "none"}: name one "cond", and at '
            "least one to guide against"
        )
    if not isinstance(omega, dict):
        omega = dict.fromkeys(references, omega)
        if len(references) > 1:
            raise ValueError(
                f"there are several references ({', '.join(references)}): give omega "
                "as a dict by branch"
            )
    if set(omega) != set(references):
        raise ValueError(
            f"omega is for {', '.join(omega)} and the references are "
            f"{', '.join(references)}: name the same"
        )
    rule.check_references(references)
    omega = {name: jnp.asarray(omega[name], x.dtype) for name in references}
    traced = [isinstance(values, jax.core.Tracer) for values in omega.values()]
    for values, unknown in zip(omega.values(), traced, strict=True):
        if not unknown:
            _check_values(np.asarray(values, np.float32), rule)
        if values.shape not in ((num_steps,), (num_steps, batch)):
            table = values.ndim == 2 and values.shape[1] == num_steps
            hint = "; of a table [K,S] pass table[labels].T" if table else ""
            raise ValueError(
                f"omega has shape {values.shape}: expected [S] = ({num_steps},) or "
                f"[S,B] = ({num_steps}, {batch}){hint}"
            )
    if not any(traced):
        rule.check_signs(map(np.asarray, omega.values()))
    check(plan, rule, [branch.predicts for branch in branches.values()])
    wide = jnp.promote_types(x.dtype, jnp.float32)
    arrays = {
        name: column.astype(wide) if column.dtype == np.float64 else column
        for name, column in plan._replace(levels=None)._asdict().items()
        if column is not None
    }
    arrays["matrix"] = plan.matrix.astype(x.dtype)
    return Rows(
        np.arange(len(plan.t), dtype=np.int32),
        plans.Plan(**arrays),
        {name: values[plan.omega] for name, values in omega.items()},
    )


def _check_values(omega: np.ndarray, rule: rules.Rule) -> None:
    if not np.all(np.isfinite(omega)):
        raise ValueError("omega has entries that are not finite")
    lowest, highest = rule.omegas
    if omega.min() < lowest or omega.max() > highest:
        raise ValueError(
            f"omega is {omega.min():.4g} ... {omega.max():.4g} and this rule takes "
            f"{lowest:g} ... {highest:g}: scale it into that, or use another rule"
        )
    if rule.remembers() and omega.min() < 0 < omega.max():
        _log.warning(
            "omega changes its sign and the rule remembers earlier steps, which it saw "
            "with the other sign: use a rule without a memory, or one sign"
        )


def check(plan: plans.Plan, rule: rules.Rule, predicts: Iterable[str]) -> None:
    """ValueError if the solver cannot go with the rule or with these networks."""
    if not (rule.consistent or plan.renoises):
        raise ValueError(
            "this rule denoises with one prediction and adds the noise of another, and "
            "the solver does not take every step so: use ddim or euler with it"
        )
    if np.any(plan.alpha == 0) and "eps" in predicts:
        raise ValueError(
            "the first level is pure noise (alpha = 0), from which an eps-network "
            "cannot start: use a network that predicts v or x0, or another grid"
        )


def scan(
    branches: asking.Branches,
    x_T: jax.Array,
    rows: Rows,
    keys: jax.Array,
    rule: rules.Rule,
    projection: projections.Projection | None,
    *,
    view: Callable | None = None,
    trace: bool = False,
    double_batch: bool = False,
):
    """The loop, to be called under jit: (x_0, then view(x [B,...]) of every row, with a
    leading axis [N], and a `tracing.Trace`, each only if it is asked for). keys: one an
    image [B]."""
    batch, dtype = x_T.shape[0], x_T.dtype
    memory = rows.plan.matrix.shape[1] - 1

    def body(state, row: Rows):
        x, remembered, carry = state
        x = jax.lax.cond(
            row.plan.kick != 0,
            lambda x: _kicked(x, row, noise.fold_in(noise.fold_in(keys, row.index), 1)),
            lambda x: x,
            x,
        )
        step, evaluate = at_row(branches, x, row, keys, double_batch)
        if not double_batch:
            # outside of the choice below: an image of omega = 0 gets these very bits
            evaluate("cond")
        on = functools.reduce(
            jnp.logical_or, [weight != 0 for weight in row.omega.values()]
        )
        if rule.active is not None:
            on = on & rule.active(carry)

        def guided(carry):
            asked = evaluate.branch()
            result = rule(asked, step, carry)
            found, new_carry = _checked(result, x, carry)
            if on.ndim:  # else omega is not 0 for any image here
                found = _choose(on, found, asked("cond")[0])
                new_carry = _choose(on, new_carry, carry)
            seen = tracing.measure(found, asked, step) if trace else None
            return found, new_carry, seen

        def conditional(carry):
            (c,) = evaluate.branch()("cond")
            seen = tracing.unguided(step) if trace else None
            return c, carry, seen

        found, carry, seen = jax.lax.cond(jnp.any(on), guided, conditional, carry)
        if projection is not None:
            moved = step.from_x0(projection(found.x0, step).astype(dtype))
            if not rule.consistent:
                kept = prediction.Prediction(moved.x0, found.eps)
                moved = _choose(on, kept, moved)
            found = moved
        z = jax.lax.cond(
            jnp.any(row.plan.matrix[:, plans.Z] != 0),
            lambda: noise.initial_noise(
                noise.fold_in(keys, row.index), x.shape[1:], dtype
            ),
            lambda: jnp.zeros_like(x),
        )
        known = (found.x0, found.eps, x, z, *remembered)
        x, *remembered = (
            sum(row.plan.matrix[i, j] * value for j, value in enumerate(known))
            for i in range(1 + memory)
        )
        return (x, remembered, carry), (None if view is None else view(x), seen)

    carry = None if rule.init is None else rule.init(x_T)
    _check_carry(carry, batch)
    state = (x_T, [jnp.zeros_like(x_T)] * memory, carry)
    (x_0, _, _), (path, seen) = jax.lax.scan(body, state, rows)
    return x_0, *(found for found in (path, seen) if found is not None)


def at_row(
    branches: asking.Branches, x: jax.Array, row: Rows, keys, double_batch: bool = False
) -> tuple[prediction.Step, asking.Evaluate]:
    """What a rule is given at one row of `Rows`."""
    step = _step(x, row, keys, branches.predicts)
    plan = row.plan
    level = process.Level(
        *(jnp.full(len(x), value) for value in (plan.t, plan.alpha, plan.sigma))
    )
    return step, asking.Evaluate(branches, x, level, step, double_batch)


def _step(x, row: Rows, keys, predicts: str) -> prediction.Step:
    def scalar(value):
        return value.astype(x.dtype)

    return prediction.Step(
        x=x,
        t=row.plan.t,
        alpha=scalar(row.plan.alpha),
        sigma=scalar(row.plan.sigma),
        alpha_next=scalar(row.plan.alpha_next),
        sigma_next=scalar(row.plan.sigma_next),
        weights={n: prediction.per_image(w, x) for n, w in row.omega.items()},
        index=row.index,
        keys=noise.fold_in(noise.fold_in(keys, row.index), 2),
        predicts=predicts,
    )


def _kicked(x, row: Rows, keys):
    z = noise.initial_noise(keys, x.shape[1:], x.dtype)
    return (row.plan.gain * x + row.plan.kick * z).astype(x.dtype)


def _choose(on: jax.Array, new, old):
    """new where omega is not 0, leaf by leaf; on: [B] or a scalar."""
    return jax.tree.map(
        lambda a, b: jnp.where(prediction.per_image(on, a), a, b), new, old
    )


def _checked(result, x, carry):
    """What a rule returned for x, in its dtype; ValueError if it is something else."""
    pair = isinstance(result, tuple) and len(result) == 2
    if not pair or not isinstance(result[0], prediction.Prediction):
        parts = [type(part).__name__ for part in (result if pair else [result])]
        raise ValueError(
            "a rule must return (Prediction(x0, eps), carry), such as "
            f"step.from_eps(eps), carry: got {', '.join(parts)}"
        )
    found, new_carry = result
    shapes = [np.shape(face) for face in found]
    if shapes != [x.shape] * 2:
        raise ValueError(
            f"a rule returned x0 of shape {shapes[0]} and eps of shape {shapes[1]} for "
            f"x of shape {x.shape}: both must have the shape of x"
        )
    if carry is None and new_carry is not None:
        raise ValueError(
            "a rule returned a carry and does not say what the first one is: set its "
            "attribute init, a function of x_T, such as rule.init = jnp.zeros_like"
        )
    if jax.tree.structure(new_carry) != jax.tree.structure(carry):
        raise ValueError(
            "a rule must return its carry in the form in which it got it: it got "
            f"{jax.tree.structure(carry)} and returned {jax.tree.structure(new_carry)}"
        )
    for new, old in zip(*map(jax.tree.leaves, (new_carry, carry)), strict=True):
        if np.shape(new) != np.shape(old):
            raise ValueError(
                f"a rule returned a carry of shape {np.shape(new)} and got one of "
                f"shape {np.shape(old)}: keep its shape"
            )
    return jax.tree.map(lambda a: jnp.asarray(a, x.dtype), found), new_carry


def _check_carry(carry, batch: int) -> None:
    for leaf in jax.tree.leaves(carry):
        if jnp.shape(leaf)[:1] != (batch,):
            raise ValueError(
                f"the carry of a rule has a leaf of shape {jnp.shape(leaf)}: its first "
                f"axis must be the batch, {batch}, so that each image has its own"
            )
