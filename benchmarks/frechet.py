"""The Frechet distance between 2048-dimensional features, against SciPy's matrix root.

    python -m benchmarks.frechet

Means and covariances of --batch rows each, with a spectrum that falls as the square of
the rank; the product's root by scipy.linalg.sqrtm, as in pytorch-fid and dgm-eval.
"""

import numpy as np
import scipy
import scipy.linalg

from benchmarks import measure
from progguide_jax.metrics import frechet


def statistics(seed: int, count: int, dim: int) -> tuple[np.ndarray, np.ndarray]:
    """Mean [D] and covariance [D,D] of `count` random rows."""
    bits = np.random.default_rng(seed)
    rotation = np.linalg.qr(np.random.default_rng(0).standard_normal((dim, dim)))[0]
    spread = (1 + np.arange(dim)) ** -1.0 * (1 + 0.2 * bits.random(dim))
    rows = bits.standard_normal((count, dim)) * spread[None, :]
    moments = frechet.of(rows @ rotation + 0.01 * seed)
    return moments.mean, frechet.covariance(moments)


def by_sqrtm(mean1, cov1, mean2, cov2) -> float:
    """The Frechet distance by the root of the product."""
    shift = mean1 - mean2
    trace = np.trace(scipy.linalg.sqrtm(cov1 @ cov2)).real
    return float(shift @ shift + np.trace(cov1) + np.trace(cov2) - 2 * trace)


def main(argv=None) -> None:
    parser = measure.arguments(__doc__, variant="none", batch=3000, rounds=3)
    parser.add_argument("--dim", type=int, default=2048, help="of the features")
    args = parser.parse_args(argv)
    if args.smoke:
        args.batch, args.rounds, args.dim = 100, 2, 64
    both = *statistics(1, args.batch, args.dim), *statistics(2, args.batch, args.dim)
    root = frechet.root(both[3])
    values = frechet.distance(*both), by_sqrtm(*both)

    s = measure.rounds(
        {
            "scipy.linalg.sqrtm": lambda: by_sqrtm(*both),
            "distance": lambda: frechet.distance(*both),
            "distance, root kept": lambda: frechet.distance(*both, root),
        },
        args.rounds,
    )
    slow = s["scipy.linalg.sqrtm"]
    rows = [
        measure.row("sqrtm / distance", slow / s["distance"], ">= 8"),
        measure.row("sqrtm / distance, root kept", slow / s["distance, root kept"]),
    ]
    rows += [measure.row(f"seconds, {name}", taken) for name, taken in s.items()]
    measure.report(
        "frechet",
        rows,
        args,
        dim=args.dim,
        distance=values[0],
        relative_difference=values[0] / values[1] - 1,
        numpy=np.__version__,
        scipy=scipy.__version__,
    )


if __name__ == "__main__":
    main()
