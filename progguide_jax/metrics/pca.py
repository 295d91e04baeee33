"""The plane in which trajectories are drawn: two principal axes of real data.

Fit it once on real images and use it for every weight and schedule (paper, section 3),
or pictures of different runs cannot be compared.
"""

from typing import NamedTuple

import numpy as np

_ROWS = 4096  # rows turned to float64 at a time


class Plane(NamedTuple):
    """mean [*shape] and two orthonormal directions [2,*shape], the largest variance
    first, with those variances [2]; all float64."""

    mean: np.ndarray
    directions: np.ndarray
    variances: np.ndarray


def fit(x: np.ndarray) -> Plane:
    """The plane of images x [N,*shape], N >= 3, of two pixels or more.

    The sign of a direction makes its largest component positive, so the axis between
    dark and bright images points to bright. Variances divide by N.
    """
    x = np.asarray(x)
    shape = x.shape[1:]
    rows = x.reshape(len(x), -1)
    if rows.shape[0] < 3 or rows.shape[1] < 2:
        raise ValueError(
            f"a plane needs 3 images of 2 pixels or more, got an array {x.shape}"
        )
    mean = rows.mean(0, dtype=np.float64)
    covariance = np.zeros((rows.shape[1], rows.shape[1]))
    for i in range(0, len(rows), _ROWS):
        centred = rows[i : i + _ROWS] - mean
        covariance += centred.T @ centred
    values, vectors = np.linalg.eigh(covariance / len(rows))
    directions = vectors[:, :-3:-1].T
    largest = np.argmax(np.abs(directions), axis=1)
    directions *= np.sign(directions[np.arange(2), largest])[:, None]
    return Plane(mean.reshape(shape), directions.reshape(2, *shape), values[:-3:-1])


def project(plane: Plane, x: np.ndarray) -> np.ndarray:
    """Coordinates float64 [...,2] of images or trajectories x [...,*shape]."""
    x = np.asarray(x)
    lead = x.shape[: x.ndim - plane.mean.ndim]
    directions = plane.directions.reshape(2, -1)
    rows = x.reshape(-1, directions.shape[1])
    # in the dtype of x, or a float32 trajectory would be copied to float64 first
    dtype = np.result_type(x.dtype, np.float32)
    coordinates = rows @ directions.T.astype(dtype) - directions @ plane.mean.ravel()
    return coordinates.reshape(*lead, 2)
