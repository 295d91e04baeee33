"""A score with its error, from per-image terms."""

from typing import NamedTuple

import numpy as np


class Estimate(NamedTuple):
    """value and its standard error (one sigma)."""

    value: float
    error: float


def from_terms(value: float, terms: np.ndarray) -> Estimate:
    """The error of a statistic from the influence [N] of each image on it.

    A statistic T of N independent images is, to first order, T + mean of its influence
    function, so its standard error is the standard deviation of that over sqrt(N)
    (Efron and Tibshirani 1993; the delta method). For a mean the terms are the values
    themselves.
    """
    terms = np.asarray(terms, np.float64)
    if len(terms) < 2:
        raise ValueError(f"an error bar needs 2 images or more, got {len(terms)}")
    return Estimate(float(value), float(terms.std(ddof=1) / np.sqrt(len(terms))))


def difference(a: Estimate, b: Estimate, terms_a, terms_b) -> Estimate:
    """a - b with the error of a paired comparison: image i of both started from the
    same noise and label, so what they share drops out of terms_a - terms_b [N].

    Terms of recall and coverage are per image of the reference instead: what is paired
    is the reference, the same images in the same order for both. The error is then that
    of drawing these, for the two sets of generated images as they are; what other
    generated images would change is left out (`manifold.precision_recall` has numbers).
    """
    terms = np.asarray(terms_a, np.float64) - np.asarray(terms_b, np.float64)
    return from_terms(a.value - b.value, terms)
