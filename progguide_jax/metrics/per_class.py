"""A metric for each class by itself."""

from collections.abc import Callable
from typing import Any

import numpy as np

from progguide_jax.metrics import checks


def for_each_class(
    fn: Callable[..., Any],
    *labels: np.ndarray,
    num_classes: int,
    minimum: int = 1,
) -> dict[int, Any]:
    """{class: fn(rows, ...)} with the indices of the class in each set of labels.

    labels: int [N] of the samples and, for a metric that compares, int [M] of the
    reference; so for_each_class(lambda i, j: fd(x[i], y[j]), labels_x, labels_y, ...).
    ValueError names a class with fewer than `minimum` images in one of the sets.
    """
    sets = ("samples", "reference")[: len(labels)]
    labels = [checks.check_labels(a, len(a), num_classes) for a in labels]
    for name, values in zip(sets, labels, strict=True):
        counts = np.bincount(values, minlength=num_classes)
        if counts.min() < minimum:
            raise ValueError(
                f"class {counts.argmin()} has {counts.min()} images in the {name}: "
                f"this metric needs {minimum} of each of {num_classes} classes"
            )
    return {
        c: fn(*(np.flatnonzero(values == c) for values in labels))
        for c in range(num_classes)
    }
