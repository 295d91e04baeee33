"""Precision and recall, density and coverage: balls around images as a manifold.

The ball of an image reaches to its k-th nearest neighbour among the other images of its
own set (features [N,D], Euclidean distance).

precision   share of fake images inside a ball of a real one, d <= r, k = 3
recall      share of real images inside a ball of a fake one, d <= r, k = 3
            (Kynkaanniemi et al. 2019, eq. 1 and 2; torch-fidelity)
density     balls of real images around a fake one, d < r, over k; mean, k = 5
coverage    share of real images with a fake one inside their ball, d < r, k = 5
            (Naeem et al. 2020; the prdc package)

Duplicates: an image with k copies in its set has radius 0. With <= its ball still holds
further copies; with < it holds nothing, so in density and coverage copies never count.
(prdc computes precision and recall with < too: there they differ from these.)

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

from progguide_jax.metrics import estimate, features

_BLOCK = 1024  # rows of either set in one matrix of distances
_SPARE = 4  # neighbours beyond the k-th whose distance is computed exactly
_PAIR_NUMBERS = 1 << 21  # float64 numbers at a time in exact distances
_INFINITY = np.float32(np.inf)


class _Plan(NamedTuple):
    centre: np.ndarray  # [D], taken from both sets: products lose fewer digits
    block: int
    sharding: jax.sharding.NamedSharding | None


class _Balls(NamedTuple):
    limit: np.ndarray  # squared radii float64, [N] of points or [M] of centres
    of_points: bool
    strict: bool  # d < r rather than d <= r


def radii(
    x: np.ndarray, k: int, sharding: jax.sharding.NamedSharding | None = None
) -> np.ndarray:
    """Distance float64 [N] of each row of x [N,D] to its k-th nearest other row."""
    _check_k(k)
    x = features.check(x, k + 1)
    return np.sqrt(_nearest(x, k, _plan(x, x, sharding))[:, -1])


def precision_recall(
    real: np.ndarray,
    fake: np.ndarray,
    k: int = 3,
    sharding: jax.sharding.NamedSharding | None = None,
) -> tuple[estimate.Estimate, estimate.Estimate]:
    """Precision and recall of fake [M,D] for real [N,D], with binomial errors.

    The error is that of drawing the images whose share it is, for given balls. The
    balls come from images too, and that part is left out: over fresh pairs of sets the
    four scores of this module spread 1.0 to 1.7 times as much (clusters in 16
    dimensions, 350 to 3000 images). Resampling both sets is no remedy: copies shrink
    the balls, scores fall by a tenth or more and spread 1.2 to 2.6 times as much.

    Recall and coverage are shares of the real images, so theirs is the error of drawing
    the real images: that of drawing the fake ones is left out. With 400 images of
    either in 8 dimensions recall had an error of .024 and over fresh sets spread by up
    to .034, a difference of two paired samples .021 and .028.
    """
    return _means(precision_recall_terms(real, fake, k, sharding))


def density_coverage(
    real: np.ndarray,
    fake: np.ndarray,
    k: int = 5,
    sharding: jax.sharding.NamedSharding | None = None,
) -> tuple[estimate.Estimate, estimate.Estimate]:
    """Density and coverage of fake [M,D] for real [N,D]; errors for given balls, as in
    `precision_recall`."""
    return _means(density_coverage_terms(real, fake, k, sharding))


def precision_recall_terms(
    real: np.ndarray,
    fake: np.ndarray,
    k: int = 3,
    sharding: jax.sharding.NamedSharding | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """1. or 0. for each fake image [M] (precision) and for each real one [N] (recall).

    The second are per real image: they say nothing of how the fake ones were drawn.
    With `sharding`, of an axis 0, rows are split over its devices. ValueError for k or
    fewer images of a set, or features that are not finite.
    """
    real, fake = _check(real, fake, k, k + 1)
    plan = _plan(real, fake, sharding)
    balls = [
        _Balls(_nearest(real, k, plan)[:, -1], of_points=False, strict=False),
        _Balls(_nearest(fake, k, plan)[:, -1], of_points=True, strict=False),
    ]
    (precise, _), (_, recalled) = _count(fake, real, balls, plan)
    return np.float64(precise > 0), np.float64(recalled > 0)


def density_coverage_terms(
    real: np.ndarray,
    fake: np.ndarray,
    k: int = 5,
    sharding: jax.sharding.NamedSharding | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """Balls it is in over k for each fake image [M] (density), 1. or 0. for each real
    one [N] (coverage), which says nothing of how the fake ones were drawn. As
    `precision_recall_terms`; one fake image is enough."""
    real, fake = _check(real, fake, k, 1)
    plan = _plan(real, fake, sharding)
    balls = _Balls(_nearest(real, k, plan)[:, -1], of_points=False, strict=True)
    ((dense, covered),) = _count(fake, real, [balls], plan)
    return dense / k, np.float64(covered > 0)


def _means(terms):
    first, second = terms
    return (
        estimate.from_terms(np.mean(first), first),
        estimate.from_terms(np.mean(second), second),
    )


def _check(real, fake, k, fakes):
    _check_k(k)
    real = features.check(real, k + 1, "features of real images")
    fake = features.check(fake, fakes, "features of fake images")
    features.check_widths(real.shape[1], fake.shape[1])
    return real, fake


def _check_k(k):
    if k < 1:
        raise ValueError(f"k = {k}: a ball needs its 1st neighbour or a later one")


def _plan(a, b, sharding):
    centre = (a.sum(0, dtype=np.float64) + b.sum(0, dtype=np.float64)) / (
        len(a) + len(b)
    )
    # a power of two: few block shapes over many sets, so few compilations
    block = min(_BLOCK, 1 << (max(len(a), len(b)) - 1).bit_length())
    devices = 1 if sharding is None else sharding.mesh.size
    return _Plan(centre, -(-block // devices) * devices, sharding)


def _blocks(x, plan, spec=None):
    """(first row, rows, array [block,D]) of x, centred, float32, padded with zeros."""
    for first in range(0, len(x), plan.block):
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


def _nearest(x, k, plan):
    """Squared distances float64 [N,k] of each row to its k nearest others, ascending.

    The devices find candidates, the rows with the smallest lower bounds of distance.
    Their exact distances are final where the k-th is below the last of these bounds.
    """
    candidates = k + _SPARE
    near = np.empty((len(x), k))
    for i, rows, query in _blocks(x, plan, "rows"):
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


def _count(points, centres, families: Sequence[_Balls], plan):
    """For each family of balls: in how many pairs with d < r or d <= r each of points
    [N,D] and each of centres [M,D] is, as int arrays [N], [M]."""
    counts = [
        (np.zeros(len(points), int), np.zeros(len(centres), int)) for _ in families
    ]
    for i, rows, query in _blocks(points, plan, "rows"):
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
