"""The inception score: exp of the mean KL(p(y|x) || p(y)). Salimans et al. 2016.

p(y|x) is the softmax of a classifier's logits, p(y) its mean over the images. Rows,
splits and ddof are those of torch-fidelity 0.4.0, in float64. Other codes differ:
dgm-eval drops the N % splits last images; without the shuffle a split of images that
are ordered by class holds one class, and its score says nothing.
"""

from typing import NamedTuple

import numpy as np

from progguide_jax.metrics import checks, estimate

_ROWS = 4096  # rows turned to probabilities at a time


class InceptionScore(NamedTuple):
    """mean and std (ddof 0) over the splits; error, the standard error of mean. std is
    the spread of scores of N / splits images."""

    mean: float
    std: float
    error: float


def score(
    logits: np.ndarray, splits: int = 10, shuffle_seed: int = 2020
) -> InceptionScore:
    """The score of logits [N,K], without or with bias as they are.

    The rows are shuffled by NumPy's RandomState(shuffle_seed).permutation(N), then
    split i has the rows i N // splits ... (i + 1) N // splits - 1: each image is in one
    split. ValueError for fewer than 2 images a split (one image alone scores 1).
    """
    return score_and_terms(logits, splits, shuffle_seed)[0]


def score_and_terms(
    logits: np.ndarray, splits: int = 10, shuffle_seed: int = 2020
) -> tuple[InceptionScore, np.ndarray]:
    """`score`, and the influence float64 [N] of each image on its mean over splits:

        N / (n splits) IS (KL_i - mean KL)       of the image's split of n images.

    KL_i is that of p(y|x_i) from the split's own p(y). That p(y) moves with the image
    adds nothing: sum_y p(y) d log p(y) = 0. The error is first order: over draws of
    normal logits .7 to .8 of the spread where a split has fewer images than classes,
    1.05 to 1.1 of it with two images a class and more.
    """
    logits = checks.check(logits, name="logits")
    count = len(logits)
    if splits < 1 or count < 2 * splits:
        raise ValueError(
            f"an inception score of {splits} splits needs {max(2 * splits, 2)} images "
            f"or more and 1 split or more, got {count} images"
        )
    order = np.random.RandomState(shuffle_seed).permutation(count)
    edges = [i * count // splits for i in range(splits + 1)]
    values, terms = [], np.empty(count)
    for a, b in zip(edges[:-1], edges[1:], strict=True):
        rows = order[a:b]
        kl = _divergences(logits, rows)
        values.append(np.exp(kl.mean()))
        terms[rows] = count / (len(rows) * splits) * values[-1] * (kl - kl.mean())
    mean, error = estimate.from_terms(np.mean(values), terms)
    return InceptionScore(mean, float(np.std(values)), error), terms


def _divergences(logits, rows):
    """KL [n] of p(y|x) of each of the rows from their p(y)."""
    entropy, marginal = _sums(logits, rows)
    log_marginal = _log(marginal)
    kl = -entropy
    for i in range(0, len(rows), _ROWS):
        p, _ = _softmax(logits[rows[i : i + _ROWS]])
        kl[i : i + _ROWS] -= p @ log_marginal
    return kl


def _sums(logits, rows):
    """Entropy of p(y|x) [n] and p(y) [K] of the rows."""
    entropy, total = np.empty(len(rows)), np.zeros(logits.shape[1])
    for i in range(0, len(rows), _ROWS):
        p, log_p = _softmax(logits[rows[i : i + _ROWS]])
        entropy[i : i + _ROWS] = -np.sum(p * log_p, 1)
        total += p.sum(0)
    return entropy, total / len(rows)


def _softmax(logits):
    logits = np.asarray(logits, np.float64)
    logits = logits - logits.max(1, keepdims=True)
    log_p = logits - np.log(np.sum(np.exp(logits), 1, keepdims=True))
    return np.exp(log_p), log_p


def _log(p):
    """log p, and 0 where p underflowed to 0 and counts with p log p = 0."""
    return np.log(np.where(p > 0, p, 1))
