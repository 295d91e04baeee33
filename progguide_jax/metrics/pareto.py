"""The Pareto set of a trade-off: the settings that no other setting beats."""

from collections.abc import Sequence

import numpy as np

_SIGN = {"lower": 1.0, "higher": -1.0}


def front(
    points: np.ndarray, better: Sequence[str] = ("lower", "higher")
) -> np.ndarray:
    """bool [N]: which points [N,M] no other point dominates.

    better: per column, whether "lower" or "higher" is better; the default is for FID
    and IS. A point dominates another when it is no worse in every column and better in
    one; so of equal points both stay. ValueError for columns that do not match or a
    value that is nan.
    """
    points = np.asarray(points, np.float64)
    unknown = set(better) - set(_SIGN)
    if unknown:
        raise ValueError(f'better = {tuple(better)}: expected "lower" or "higher"')
    if points.ndim != 2 or points.shape[1] != len(better):
        raise ValueError(
            f"points have shape {points.shape}: expected [N,{len(better)}], a column "
            "for each direction"
        )
    if np.isnan(points).any():
        row = int(np.isnan(points).any(1).argmax())
        raise ValueError(f"point {row} is not a number: it cannot be compared")
    cost = points * np.array([_SIGN[b] for b in better])[None, :]
    no_worse = np.all(cost[:, None] <= cost[None, :], 2)
    somewhere = np.any(cost[:, None] < cost[None, :], 2)
    return ~np.any(no_worse & somewhere, 0)
