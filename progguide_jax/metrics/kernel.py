"""The kernel distance (KID): unbiased MMD^2 with the kernel (x^T y / D + 1)^3.

Binkowski et al. 2018, with the subsets and draws of torch-fidelity 0.4.0. All sums are
in float64; torch-fidelity multiplies float32 features in float32, which moves its score
by about 1e-6 of the kernel's values.
"""

from typing import NamedTuple

import numpy as np

from progguide_jax.metrics import checks, estimate, tracking

_ROWS = 2048  # rows and columns of a block of the kernel's matrix


class KID(NamedTuple):
    """mean and std (ddof 0) over the subsets."""

    mean: float
    std: float


def kid(
    a: np.ndarray,
    b: np.ndarray,
    subsets: int = 100,
    subset_size: int = 1000,
    seed: int = 2020,
    track: tracking.Track = tracking.silent,
) -> KID:
    """MMD^2 averaged over random subsets of features a [N,D] and b [M,D].

    Subset after subset, subset_size rows of a and then of b are drawn without
    replacement from NumPy's RandomState(seed). std is the spread of scores of
    subset_size images; it is no error of the mean, nor is std / sqrt(subsets), for the
    subsets share their images: `mmd2` has one. ValueError where either set is smaller
    than a subset.
    """
    a, b = _check(a, b)
    if subsets < 1 or subset_size < 2:
        raise ValueError(
            f"KID needs 1 subset of 2 images or more, got {subsets} of {subset_size}"
        )
    if min(len(a), len(b)) < subset_size:
        raise ValueError(
            f"KID needs {subset_size} images in both sets, got {len(a)} and {len(b)}: "
            "take more images or a smaller subset_size"
        )
    bits = np.random.RandomState(seed)
    values = []
    for _ in track(range(subsets), "KID of subsets"):
        x = a[bits.choice(len(a), subset_size, replace=False)]
        y = b[bits.choice(len(b), subset_size, replace=False)]
        within_x, within_y, between, _ = _row_sums(x, y)
        values.append(_mmd2(within_x.sum(), within_y.sum(), between.sum(), x, y))
    return KID(float(np.mean(values)), float(np.std(values)))


def mmd2(
    a: np.ndarray, b: np.ndarray, track: tracking.Track = tracking.silent
) -> estimate.Estimate:
    """Unbiased MMD^2 of all rows of features a [N,D] and b [M,D], N, M >= 3.

    It can be below 0. `kid` estimates the same from subsets; this takes (N + M)^2 D / 2
    multiplications. The error is the jackknife's over the images of both sets (Arvesen
    1969): on average not too small (Efron and Stein 1981), for two samples of one
    distribution up to sqrt(2) too large.
    """
    a, b = _check(a, b)
    if min(len(a), len(b)) < 3:
        raise ValueError(
            f"MMD with its error needs 3 images in both sets, got {len(a)} and {len(b)}"
        )
    within_a, within_b, of_a, of_b = _row_sums(a, b, track)
    sums = within_a.sum(), within_b.sum(), of_a.sum()
    # each image left out in turn: its row and its column leave the sum within its set
    without_a = _mmd2(sums[0] - 2 * within_a, sums[1], sums[2] - of_a, a[1:], b)
    without_b = _mmd2(sums[0], sums[1] - 2 * within_b, sums[2] - of_b, a, b[1:])
    variance = sum((len(u) - 1) * np.var(u) for u in (without_a, without_b))
    return estimate.Estimate(float(_mmd2(*sums, a, b)), float(np.sqrt(variance)))


def _check(a, b):
    a = checks.check(a, name="the first set of features")
    b = checks.check(b, name="the second set of features")
    checks.check_widths(a.shape[1], b.shape[1])
    return a, b


def _mmd2(within_a, within_b, between, a, b):
    """From sums of the kernel over pairs of different rows of a [n,D], of b [m,D], and
    over all pairs of both."""
    n, m = len(a), len(b)
    within = within_a / (n * (n - 1)) + within_b / (m * (m - 1))
    return within - 2 * between / (n * m)


def _row_sums(a, b, track=tracking.silent):
    """Sums of the kernel for each row: of a over the other rows of a [n], of b over the
    other rows of b [m], of a over b [n], of b over a [m]."""
    of_a, of_b = _blocks(a, b, track)
    return _within(a, track), _within(b, track), of_a, of_b


def _within(x, track):
    sums = np.zeros(len(x))
    for i in track(range(0, len(x), _ROWS), "kernel within a set"):
        rows = slice(i, i + _ROWS)
        block = _kernel(x[rows], x[rows])
        sums[rows] += block.sum(1) - np.diagonal(block)
        for j in range(i + _ROWS, len(x), _ROWS):
            columns = slice(j, j + _ROWS)
            block = _kernel(x[rows], x[columns])
            sums[rows] += block.sum(1)
            sums[columns] += block.sum(0)
    return sums


def _blocks(a, b, track):
    of_a, of_b = np.zeros(len(a)), np.zeros(len(b))
    for i in track(range(0, len(a), _ROWS), "kernel between the sets"):
        for j in range(0, len(b), _ROWS):
            block = _kernel(a[i : i + _ROWS], b[j : j + _ROWS])
            of_a[i : i + _ROWS] += block.sum(1)
            of_b[j : j + _ROWS] += block.sum(0)
    return of_a, of_b


def _kernel(x, y):
    x, y = np.asarray(x, np.float64), np.asarray(y, np.float64)
    base = x @ y.T / x.shape[1] + 1
    return base * base * base
