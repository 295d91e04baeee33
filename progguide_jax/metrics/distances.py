"""Nearest neighbours and balls among features [N,D], decided as in float64.

Which side of a radius a pair is on is decided in float64, so block sizes, devices and
the rounding of matrix products do not change a result: products in float32 settle all
pairs but those within their rounding error of the radius, and these few, N of 10^4 or
so, are settled from the differences of their features.
"""

import functools
from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from progguide_jax.metrics import tracking

_BLOCK = 1024  # rows of either set in one matrix of distances
_SPARE = 4  # neighbours beyond the k-th whose distance is computed exactly
_PAIR_NUMBERS = 1 << 21  # float64 numbers at a time in exact distances
_INFINITY = np.float32(np.inf)


class _Layout(NamedTuple):
    centre: np.ndarray  # [D], taken from both sets: products lose fewer digits
    block: int
    sharding: jax.sharding.NamedSharding | None
    track: tracking.Track


class Balls(NamedTuple):
    """Balls around one of two sets of features, points and centres."""

    limit: np.ndarray  # squared radii float64, [N] of points or [M] of centres
    of_points: bool
    strict: bool  # d < r rather than d <= r


def plan(a, b, sharding=None, track=tracking.silent):
    """How the pairs of two sets are gone through: what the functions below take."""
    centre = (a.sum(0, dtype=np.float64) + b.sum(0, dtype=np.float64)) / (
        len(a) + len(b)
    )
    # a power of two: few block shapes over many sets, so few compilations
    block = min(_BLOCK, 1 << (max(len(a), len(b)) - 1).bit_length())
    devices = 1 if sharding is None else sharding.mesh.size
    return _Layout(centre, -(-block // devices) * devices, sharding, track)


def _blocks(x, plan, spec=None, track=tracking.silent, what=""):
    """(first row, rows, array [block,D]) of x, centred, float32, padded with zeros."""
    for first in track(range(0, len(x), plan.block), what):
        rows = x[first : first + plan.block]
        padded = np.zeros((plan.block, x.shape[1]), np.float32)
        padded[: len(rows)] = rows - plan.centre
        yield first, len(rows), _place(padded, plan, spec)


def _place(x, plan, spec=None):
    """x on the devices: split along its rows with spec="rows", else whole on each."""
    if plan.sharding is None:
        return jnp.asarray(x)
    sharding = plan.sharding if spec == "rows" else _whole(plan)
    return jax.make_array_from_callback(x.shape, sharding, lambda index: x[index])


def _whole(plan):
    if plan.sharding is None:
        return None
    spec = jax.sharding.PartitionSpec()
    return jax.sharding.NamedSharding(plan.sharding.mesh, spec)


def _distances(query, keys, rows, columns):
    """Squared distances [B,B] and a bound of their error; inf in rows and columns of
    padding, beyond `rows` and `columns`."""
    product = jnp.matmul(query, keys.T, precision=jax.lax.Precision.HIGHEST)
    norms = jnp.sum(query**2, 1)[:, None] + jnp.sum(keys**2, 1)[None, :]
    own = (jnp.arange(len(query)) < rows)[:, None]
    other = (jnp.arange(len(keys)) < columns)[None, :]
    squared = jnp.where(own & other, norms - 2 * product, _INFINITY)
    # a sum of D products errs by about sqrt(D) roundings; the largest error seen was a
    # third of this at D = 1, a twentieth at D = 2048
    share = np.float32((8 + 2 * np.sqrt(query.shape[1])) * np.finfo(np.float32).eps)
    return squared, share * norms


@functools.partial(jax.jit, static_argnames="whole")
def _merge(best, index, query, keys, corner, sizes, whole):
    """The smallest lower bounds of distances so far, [B,C], and whose they are."""
    squared, error = _distances(query, keys, *sizes)
    row = corner[0] + jnp.arange(len(query), dtype=jnp.int32)
    column = corner[1] + jnp.arange(len(keys), dtype=jnp.int32)
    lower = jnp.where(row[:, None] == column[None, :], _INFINITY, squared - error)
    column = jnp.broadcast_to(column[None, :], lower.shape)
    best = jnp.concatenate([best, lower], 1)
    index = jnp.concatenate([index, column], 1)
    negative, place = jax.lax.top_k(-best, best.shape[1] - len(keys))
    return _gather((-negative, jnp.take_along_axis(index, place, 1)), whole)


def _gather(x, whole):
    return x if whole is None else jax.lax.with_sharding_constraint(x, whole)


def nearest(x, k, plan):
    """Squared distances float64 [N,k] of each row to its k nearest others, ascending.

    The devices find candidates, the rows with the smallest lower bounds of distance.
    Their exact distances are final where the k-th is below the last of these bounds.
    """
    candidates = k + _SPARE
    near = np.empty((len(x), k))
    for i, rows, query in _blocks(x, plan, "rows", plan.track, "neighbours"):
        bound = _place(np.full((plan.block, candidates), _INFINITY), plan)
        index = _place(np.zeros((plan.block, candidates), np.int32), plan)
        for j, columns, keys in _blocks(x, plan):
            corner, sizes = np.array([i, j], np.int32), (rows, columns)
            bound, index = _merge(
                bound, index, query, keys, corner, np.int32(sizes), _whole(plan)
            )
            index.block_until_ready()  # or all keys would wait in memory
        bound = np.asarray(bound)[:rows].astype(np.float64)
        row = np.repeat(np.arange(i, i + rows), candidates)
        exact = _exact(x, row, x, np.asarray(index)[:rows].ravel())
        exact = np.where(np.isinf(bound), np.inf, exact.reshape(bound.shape))
        near[i : i + rows] = np.sort(exact, 1)[:, :k]
        # a distance of 0 cannot be beaten, however large the error of the bounds
        unsure = near[i : i + rows, -1] > np.maximum(bound[:, -1], 0)
        for row in i + np.nonzero(unsure)[0]:
            others = np.delete(np.arange(len(x)), row)
            exact = _exact(x, np.full(len(others), row), x, others)
            near[row] = np.sort(exact)[:k]
    return near


@functools.partial(jax.jit, static_argnames="whole")
def _compare(query, keys, limits, sizes, whole):
    """For each limit [B,1] or [1,B] of squared distance: how many pairs are surely
    within it by row and by column, and the pairs [B,B] too close to call."""
    squared, error = _distances(query, keys, *sizes)
    out = []
    for limit in limits:
        sure = squared < limit - error
        doubt = jnp.abs(squared - limit) <= error
        out.append((jnp.sum(sure, 1), jnp.sum(sure, 0), doubt))
    return _gather(out, whole)


def count(points, centres, families: Sequence[Balls], plan):
    """For each family of balls: in how many pairs with d < r or d <= r each of points
    [N,D] and each of centres [M,D] is, as int arrays [N], [M]."""
    counts = [
        (np.zeros(len(points), int), np.zeros(len(centres), int)) for _ in families
    ]
    for i, rows, query in _blocks(points, plan, "rows", plan.track, "balls"):
        for j, columns, keys in _blocks(centres, plan):
            limits = [_limit(balls, i, j, plan) for balls in families]
            sizes = np.int32((rows, columns))
            found = _compare(query, keys, limits, sizes, _whole(plan))
            for balls, (own, other), result in zip(
                families, counts, found, strict=True
            ):
                by_row, by_column, doubt = map(np.asarray, result)
                own[i : i + rows] += by_row[:rows]
                other[j : j + columns] += by_column[:columns]
                row, column = np.nonzero(doubt)
                row, column = _settle(points, i + row, centres, j + column, balls)
                np.add.at(own, row, 1)
                np.add.at(other, column, 1)
    return counts


def _limit(balls, i, j, plan):
    """float32 [B,1] for balls of points from row i, [1,B] for centres from row j."""
    first = i if balls.of_points else j
    limit = np.zeros(plan.block, np.float32)
    part = balls.limit[first : first + plan.block]
    limit[: len(part)] = part
    return _place(limit[:, None] if balls.of_points else limit[None, :], plan)


def _settle(points, row, centres, column, balls):
    """Those of the pairs (row, column) that are within the limit."""
    squared = _exact(points, row, centres, column)
    limit = balls.limit[row if balls.of_points else column]
    inside = squared < limit if balls.strict else squared <= limit
    return row[inside], column[inside]


def _exact(a, i, b, j):
    """Squared distances float64 [P] of the rows a[i] and b[j]."""
    step = max(1, _PAIR_NUMBERS // a.shape[1])
    squared = np.empty(len(i))
    for s in range(0, len(i), step):
        gap = np.subtract(a[i[s : s + step]], b[j[s : s + step]], dtype=np.float64)
        squared[s : s + step] = np.sum(gap**2, 1)
    return squared
