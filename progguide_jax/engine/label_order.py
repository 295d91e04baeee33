"""Which image gets which label."""

import functools

import numpy as np

from progguide_jax.data import batches

LABEL_STREAM = 5  # of `batches.philox`


def balanced(index: np.ndarray, num_classes: int, seed: int) -> np.ndarray:
    """int32 labels of images `index`: every block of K images holds each class once,
    in an order that is a function of (seed, block)."""

    @functools.cache
    def order(block):
        bits = batches.philox(seed, LABEL_STREAM, block).random_raw(num_classes)
        return np.argsort(bits, kind="stable")

    pairs = (divmod(int(i), num_classes) for i in index)
    return np.array([order(block)[rank] for block, rank in pairs], np.int32)


def about(num_classes: int, seed: int) -> str:
    """What the provenance of images says of `balanced`."""
    return f"each of {num_classes} once a block, seed {seed}"
