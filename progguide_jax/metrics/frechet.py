"""The Frechet distance between Gaussians fitted to two sets of features.

    FD = |mu1 - mu2|^2 + tr(S1 + S2 - 2 (S1 S2)^{1/2})       (Heusel et al. 2017, eq. 6)

Float64 NumPy on the host; covariances divide by N - 1, as in torch-fidelity 0.4.0 and
dgm-eval, which take the root of the product S1 S2 by a general eigenvalue routine and
by a Schur method. Here S2 = R R^T, and the trace is the sum of the roots of the
eigenvalues of the symmetric R^T S1 R: faster, never complex, and good for singular
covariances.

FD from N samples is too large by c / N + o(1 / N) on average, so scores of different N
do not compare: `infinity` extrapolates. c depends on the sample's distribution too:
samples of N(0, s^2 I_D) against N(0, I_D) have c = s^2 D + s D (D + 1) / 4. Unless N is
many times D, this bias is far larger than the error of `with_error`.
"""

from typing import NamedTuple

import numpy as np

from progguide_jax.metrics import checks, estimate, tracking

_ROWS = 4096  # rows turned to float64 at a time


class Moments(NamedTuple):
    """count of rows, their mean [D], and scatter [D,D], the sum of the outer products
    of the centred rows; float64."""

    count: int
    mean: np.ndarray
    scatter: np.ndarray


def empty(dim: int) -> Moments:
    """Moments of no rows yet."""
    return Moments(0, np.zeros(dim), np.zeros((dim, dim)))


def update(
    m: Moments, x: np.ndarray, track: tracking.Track = tracking.silent
) -> Moments:
    """The moments with the rows of features x [n,D] added.

    Batches of any size in any order give the same to rounding. Raises ValueError for
    another D, and for a row that is not finite.
    """
    name = f"features after the first {m.count}" if m.count else "features"
    x = checks.check(x, 0, name)
    checks.check_widths(x.shape[1], len(m.mean))
    for i in track(range(0, len(x), _ROWS), "moments"):
        rows = np.asarray(x[i : i + _ROWS], np.float64)
        mean = rows.mean(0)
        rows = rows - mean[None, :]
        m = merge(m, Moments(len(rows), mean, rows.T @ rows))
    return m


def merge(a: Moments, b: Moments) -> Moments:
    """Moments of the rows of both. Chan, Golub and LeVeque 1983."""
    count = a.count + b.count
    if count == 0:
        return a
    shift = b.mean - a.mean
    mean = a.mean + shift * (b.count / count)
    between = np.outer(shift, shift) * (a.count * b.count / count)
    return Moments(count, mean, a.scatter + b.scatter + between)


def of(x: np.ndarray, track: tracking.Track = tracking.silent) -> Moments:
    """Moments of features x [N,D] of any float dtype, a few thousand rows at a time."""
    x = checks.check(x)
    return update(empty(x.shape[1]), x, track)


def covariance(m: Moments) -> np.ndarray:
    """Covariance [D,D], ddof 1; ValueError for fewer than 2 rows."""
    if m.count < 2:
        raise ValueError(f"a covariance needs 2 images or more, got {m.count}")
    return m.scatter / (m.count - 1)


def root(cov: np.ndarray) -> np.ndarray:
    """R [D,D] with R R^T = cov, for many distances from one reference.

    Any such R serves: the Cholesky factor, a tenth of the work, or where the covariance
    is singular its eigenvectors, with eigenvalues that rounding puts below 0 at 0.
    """
    try:
        return np.linalg.cholesky(cov)
    except np.linalg.LinAlgError:
        values, vectors = np.linalg.eigh(cov)
        return vectors * np.sqrt(np.maximum(values, 0))[None, :]


def distance(
    mean1: np.ndarray,
    cov1: np.ndarray,
    mean2: np.ndarray,
    cov2: np.ndarray,
    root2: np.ndarray | None = None,
) -> float:
    """FD of N(mean1, cov1) and N(mean2, cov2); means [D], covariances [D,D].

    root2: root(cov2) where it is at hand. Symmetric in 1 and 2, and at
    least 0, both to rounding: an eigenvalue of 0 comes out near 1e-16 of the largest
    and counts with its root, 1e-8. ValueError where dimensions differ.
    """
    mean1, cov1, mean2, cov2 = _statistics(mean1, cov1, mean2, cov2)
    values = np.linalg.eigvalsh(_product(cov1, root(cov2) if root2 is None else root2))
    return _distance(mean1, cov1, mean2, cov2, values)


def _statistics(*arrays):
    arrays = [np.asarray(a, np.float64) for a in arrays]
    for mean, cov in (arrays[:2], arrays[2:]):
        if mean.ndim != 1 or cov.shape != 2 * mean.shape:
            raise ValueError(
                f"statistics do not fit: a mean {mean.shape} and a covariance "
                f"{cov.shape}, expected [D] and [D,D]: make them anew"
            )
    checks.check_widths(len(arrays[0]), len(arrays[2]))
    if not all(np.all(np.isfinite(a)) for a in arrays):
        raise ValueError("statistics have values that are not finite: make them anew")
    return arrays


def _product(cov1, root2):
    """R^T S1 R, whose eigenvalues are those of S1 S2."""
    product = root2.T @ cov1 @ root2
    return (product + product.T) / 2


def _distance(mean1, cov1, mean2, cov2, values):
    trace = np.sum(np.sqrt(np.maximum(values, 0)))
    shift = mean1 - mean2
    return float(shift @ shift + np.trace(cov1) + np.trace(cov2) - 2 * trace)


def value_and_influence(
    x: np.ndarray,
    m: Moments,
    mean_ref: np.ndarray,
    cov_ref: np.ndarray,
    root_ref: np.ndarray | None = None,
    track: tracking.Track = tracking.silent,
) -> tuple[float, np.ndarray]:
    """FD of the sample with moments m from the reference, and `influence`, for one
    eigenvalue problem once root_ref is at hand.

    `estimate.from_terms` makes of the two what `with_error` gives: its docstring says
    what this error is, and where it is too large.
    """
    mean, cov, mean_ref, cov_ref = _statistics(m.mean, covariance(m), mean_ref, cov_ref)
    x = checks.check(x)
    checks.check_widths(x.shape[1], len(mean))
    root_ref = root(cov_ref) if root_ref is None else root_ref
    values, vectors = np.linalg.eigh(_product(cov, root_ref))
    value = _distance(mean, cov, mean_ref, cov_ref, values)
    # T = R (R^T S1 R)^{-1/2} R^T = G G^T, without the directions of rounding alone
    kept = values > len(values) * np.finfo(np.float64).eps * values[-1]
    g = root_ref @ (vectors[:, kept] * values[kept][None, :] ** -0.25)
    constant = np.trace(cov) - np.sum(np.sqrt(values[kept]))  # tr((I - T) S1)
    unbiased = m.count / (m.count - 1)  # of the covariance, ddof 1
    terms = np.empty(len(x))
    for i in track(range(0, len(x), _ROWS), "influence of images on FD"):
        rows = np.asarray(x[i : i + _ROWS], np.float64) - mean[None, :]
        quadratic = np.sum(rows**2, 1) - np.sum((rows @ g) ** 2, 1)
        linear = 2 * rows @ (mean - mean_ref)
        terms[i : i + _ROWS] = linear + unbiased * quadratic - constant
    return value, terms


def influence(
    x: np.ndarray,
    m: Moments,
    mean_ref: np.ndarray,
    cov_ref: np.ndarray,
    root_ref: np.ndarray | None = None,
) -> np.ndarray:
    """Influence [N] of each row of features x [N,D] on the FD of their moments m.

    d FD / d eps where the row gains the weight eps and all rows lose eps / N each:

        2 (mu1 - mu2)^T y + y^T (I - T) y - tr((I - T) S1),      y = row - mu1,

    with the optimal transport map T = S2^{1/2} (S2^{1/2} S1 S2^{1/2})^{-1/2} S2^{1/2}
    from N(0, S1) to N(0, S2), a pseudo-inverse where N < D: d tr (S1 S2)^{1/2} =
    tr(T dS1) / 2. Here y y^T is multiplied by N / (N - 1), for covariances of ddof 1,
    and the sum over the sample is 0. An error made of these is first order: see
    `with_error`.
    """
    return value_and_influence(x, m, mean_ref, cov_ref, root_ref)[1]


def with_error(
    x: np.ndarray,
    mean_ref: np.ndarray,
    cov_ref: np.ndarray,
    root_ref: np.ndarray | None = None,
    x_ref: np.ndarray | None = None,
) -> estimate.Estimate:
    """FD of features x [N,D] from a reference, with its standard error.

    The error is the spread of this estimate over other draws of N samples, to first
    order. It is no distance from the truth: the bias c / N is not in it, and dominates
    unless N is many times D. Near the reference the first order vanishes and it is too
    large: over draws of Gaussians (D = 16, 32) within a tenth of the reference's spread
    it was 1.1 to 1.75 times the spread at N / D = .5 to 4, still 1.1 to 1.3 times at
    20; for samples of the reference itself about sqrt(2) at any N. Far from it, and
    with N / D of 20 or more, it is right to a tenth.

    With x_ref [M,D], of which the reference is made, drawing those anew counts
    too; scores that share a reference share that part.
    """
    m = of(x)
    value, terms = value_and_influence(x, m, mean_ref, cov_ref, root_ref)
    result = estimate.from_terms(value, terms)
    if x_ref is None:
        return result
    terms = influence(x_ref, of(x_ref), m.mean, covariance(m))
    error = np.hypot(result.error, estimate.from_terms(value, terms).error)
    return estimate.Estimate(result.value, float(error))


def infinity(
    x: np.ndarray,
    mean_ref: np.ndarray,
    cov_ref: np.ndarray,
    root_ref: np.ndarray | None = None,
    num_points: int = 15,
    seed: int = 0,
    track: tracking.Track = tracking.silent,
) -> estimate.Estimate:
    """FD extrapolated to infinitely many samples. Chong and Forsyth 2020.

    FD of random subsets without replacement, of num_points sizes n evenly from
    min(5000, max(N // 10, 2)) to N, is fitted by a line in 1 / n; its value at
    1 / n = 0 is the result, as in dgm-eval (which draws with a generator seeded by
    nothing). Chong and Forsyth's own code begins at 5000 images always, and its
    generator draws from a Sobol sequence. The bias of a finite reference remains.

    Subsets of few more than D images do not lie on the line, so below about 10 D images
    the result is off, mostly too small: where FD is .132 (D = 32, two Gaussians with
    covariance I) N / D = 5, 10, 20, 40, 80 gave -.95, -.23, .05, .11, .12 on average;
    .11, .12, .13, .13, .13 where standard deviations fall as 1 / i.

    The error is that of the fit. The subsets share their images, so it leaves out what
    another N samples would change: add the error of `with_error` in quadrature.
    ValueError for fewer than 20 images.
    """
    x = checks.check(x)
    count = len(x)
    if count < 20 or num_points < 3:
        raise ValueError(
            f"FD at infinity needs 20 images and 3 points or more, got {count} and "
            f"{num_points}"
        )
    mean_ref, cov_ref, *_ = _statistics(mean_ref, cov_ref, mean_ref, cov_ref)
    root_ref = root(cov_ref) if root_ref is None else root_ref
    sizes = np.linspace(min(5000, max(count // 10, 2)), count, num_points).astype(int)
    bits = np.random.default_rng(seed)
    values = []
    for size in track(sizes, "FD of subsets"):
        chosen = bits.choice(count, size, replace=False)
        m = empty(x.shape[1])
        for i in range(0, size, _ROWS):  # or a second copy of the features
            m = update(m, x[chosen[i : i + _ROWS]])
        values.append(distance(m.mean, covariance(m), mean_ref, cov_ref, root_ref))
    return _intercept(1 / sizes, np.array(values))


def _intercept(x, y):
    """The least-squares line's value at x = 0 and its standard error."""
    spread = np.sum((x - x.mean()) ** 2)
    slope = np.sum((x - x.mean()) * (y - y.mean())) / spread
    value = y.mean() - slope * x.mean()
    variance = np.sum((y - value - slope * x) ** 2) / (len(x) - 2)
    error = np.sqrt(variance * (1 / len(x) + x.mean() ** 2 / spread))
    return estimate.Estimate(float(value), float(error))
