"""What every metric asks of its input: rows of finite numbers, enough of them."""

import numpy as np

_ROWS = 8192  # rows examined at a time: a mask of all features would be large


def check(features: np.ndarray, minimum: int = 1, name: str = "features") -> np.ndarray:
    """The array [N,D] itself.

    ValueError unless it has two axes, `minimum` rows or more, and finite numbers only:
    the message names the first row that has not.
    """
    features = np.asarray(features)
    if features.ndim != 2:
        raise ValueError(f"{name} has shape {features.shape}: expected [N,D]")
    if len(features) < minimum:
        raise ValueError(
            f"{name} has {len(features)} rows: this metric needs {minimum} or more"
        )
    for i in range(0, len(features), _ROWS):
        bad = ~np.isfinite(features[i : i + _ROWS]).all(1)
        if bad.any():
            row = i + int(bad.argmax())
            raise ValueError(f"{name} is not finite in row {row}: leave it out")
    return features


def check_widths(first: int, second: int) -> None:
    """ValueError unless two sets of features have the same D."""
    if first != second:
        raise ValueError(
            f"features have {first} and {second} dimensions: use one feature extractor "
            "for both"
        )


def check_labels(labels: np.ndarray, count: int, num_classes: int | None = None):
    """int labels [N] of `count` images, in [0, num_classes) where that is given.

    ValueError naming the first label that is not.
    """
    labels = np.asarray(labels)
    if labels.shape != (count,) or not np.issubdtype(labels.dtype, np.integer):
        raise ValueError(
            f"labels are {labels.dtype} of shape {labels.shape}: expected integers "
            f"[{count}], one an image"
        )
    if num_classes is not None:
        bad = (labels < 0) | (labels >= num_classes)
        if bad.any():
            row = int(bad.argmax())
            raise ValueError(
                f"label {labels[row]} in row {row}: expected 0 ... {num_classes - 1}"
            )
    return labels
