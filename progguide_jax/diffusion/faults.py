"""Where an image that is not finite went astray."""

import dataclasses
import functools
import logging
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from progguide_jax.diffusion import asking, loop, prediction

_log = logging.getLogger(__name__)


def warn(finite: np.ndarray, why: Callable[[int], str]) -> None:
    """Log a warning unless all images are finite [B]; why(i): where image i went
    astray. Nothing while they are traced."""
    if isinstance(finite, jax.core.Tracer) or np.all(finite):
        return
    lost = np.flatnonzero(~np.asarray(finite))
    _log.warning(
        "x_0 is not finite in %d of %d images, the first one %s",
        len(lost), len(finite), why(lost[0]),
    )  # fmt: skip


def are_finite(x: jax.Array) -> jax.Array:
    """Which images of [B,...] are finite, [B]."""
    return jnp.isfinite(x).all(axis=tuple(range(1, x.ndim)))


def some(
    branches: dict[str, prediction.Branch], part: slice
) -> dict[str, prediction.Branch]:
    """The branches of these images of the batch."""
    return {
        name: dataclasses.replace(
            branch, cond=jax.tree.map(lambda c: c[part], branch.cond)
        )
        for name, branch in branches.items()
    }


def first(branches: asking.Branches, states: np.ndarray, rows: loop.Rows, keys) -> str:
    """The evaluation after which x is not finite, and the branch whose prediction was
    not; "" where all of x is finite.

    states [N+1,B,...]: x_T, and x after each row. keys: those of `loop.scan`.
    """
    lost = ~np.isfinite(states).all(axis=tuple(range(1, states.ndim)))
    if not lost.any():
        return ""
    row = int(np.flatnonzero(lost)[0]) - 1
    if row < 0:
        return "in x_T"
    where = (
        f"after evaluation {row + 1} of {len(rows.index)} (t = {rows.plan.t[row]:g})"
    )
    one = jax.tree.map(lambda values: values[row], rows)
    _, evaluate = loop.at_row(branches, jnp.asarray(states[row]), one, keys)
    for name in branches.conds:
        (found,) = evaluate(name)
        if not np.isfinite(np.asarray(found.x0)).all():
            return f"{where}: the prediction of the branch {name!r} is not finite there"
    return f"{where}: all predictions are finite, the rule or the step is too large"


def of_image(
    branches: dict[str, prediction.Branch],
    x_T,
    rows: loop.Rows,
    keys,
    rule,
    projection,
    index: int,
) -> str:
    """The same of one image of a batch, which is drawn once more."""
    one = slice(index, index + 1)
    shared = asking.share(some(branches, one))
    omega = {n: v[:, one] if v.ndim == 2 else v for n, v in rows.omega.items()}
    rows = rows._replace(omega=omega)
    again = jax.jit(functools.partial(loop.scan, view=jnp.asarray))
    _, states = again(shared, x_T[one], rows, keys[one], rule, projection)
    states = np.concatenate([np.asarray(x_T[one])[None], np.asarray(states)])
    return first(shared, states, rows, keys[one])
