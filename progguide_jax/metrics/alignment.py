"""Does a sample show its condition: CLIP score, classifier accuracy, motion distances.

CLIP score here is the raw mean cosine, about .25 to .28 as in the paper's tables.
Others multiply: Hessel et al. (2021) report 2.5 max(cos, 0), torchmetrics 100 times the
cosine, and no less than 0.

Motion metrics are those of Guo et al. (2022) as the motion diffusion model computes
them (GuyTevet/motion-diffusion-model, data_loaders/humanml/utils/metrics.py), indices
included: a seed gives the index draws that np.random.seed(seed) gives there.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from progguide_jax.metrics import checks, estimate


class Repeated(NamedTuple):
    """Mean of repetitions and half the width of its 95 % confidence interval."""

    mean: float
    interval: float


def cosines(image: np.ndarray, text: np.ndarray) -> np.ndarray:
    """Cosine float64 [N] of matched image and text embeddings, both [N,D]."""
    image, text = _matched(image, text, "image embeddings", "text embeddings")
    length = np.linalg.norm(image, axis=1) * np.linalg.norm(text, axis=1)
    if not length.all():
        raise ValueError(f"an embedding is all 0 in row {int(np.argmin(length))}")
    return np.sum(image * text, 1) / length


def clip_score(image: np.ndarray, text: np.ndarray) -> estimate.Estimate:
    """Mean cosine of matched CLIP embeddings [N,D], of any length."""
    values = cosines(image, text)
    return estimate.from_terms(values.mean(), values)


def correct(
    logits: np.ndarray, labels: np.ndarray, num_classes: int | None = None
) -> np.ndarray:
    """1. where the largest of logits [N,K] is the label's, 0. elsewhere: float64 [N].

    ValueError unless the labels [N] are in [0, K) and K is num_classes, where that is
    given. Of equal logits the first counts.
    """
    logits = checks.check(logits, name="logits")
    if num_classes is not None and logits.shape[1] != num_classes:
        raise ValueError(
            f"logits of {logits.shape[1]} classes for samples of {num_classes}: the "
            "classifier knows other classes"
        )
    labels = checks.check_labels(labels, *logits.shape)
    return np.float64(logits.argmax(1) == labels)


def accuracy(
    logits: np.ndarray, labels: np.ndarray, num_classes: int | None = None
) -> estimate.Estimate:
    """Share of samples that a classifier finds to be of their label; binomial error."""
    values = correct(logits, labels, num_classes)
    return estimate.from_terms(values.mean(), values)


def mm_dist(text: np.ndarray, motion: np.ndarray) -> estimate.Estimate:
    """MM-Dist: mean Euclidean distance of matched text and motion embeddings [N,D]."""
    text, motion = _matched(text, motion, "text embeddings", "motion embeddings")
    distance = np.linalg.norm(text - motion, axis=1)
    return estimate.from_terms(distance.mean(), distance)


def multimodality(
    embeddings: np.ndarray, draws: int = 10, seed: int = 0
) -> estimate.Estimate:
    """MultiModality: mean distance between motions [texts,repeats,D] of one text.

    Two draws of `draws` of the repeats without replacement, the same for all texts;
    motion i of the first is compared with motion i of the second, which may be itself,
    at distance 0. The error is that over texts. ValueError unless repeats > draws.
    """
    embeddings = np.asarray(embeddings)
    if embeddings.ndim != 3:
        raise ValueError(
            f"embeddings have shape {embeddings.shape}: expected [texts,repeats,D]"
        )
    texts, repeats, width = embeddings.shape
    checks.check(embeddings.reshape(texts * repeats, width), name="embeddings")
    first, second = _two_draws(repeats, draws, seed, "repeats of a text")
    gap = np.subtract(embeddings[:, first], embeddings[:, second], dtype=np.float64)
    distance = np.linalg.norm(gap, axis=2).mean(1)
    return estimate.from_terms(distance.mean(), distance)


def motion_diversity(
    embeddings: np.ndarray, pairs: int = 300, seed: int = 0
) -> estimate.Estimate:
    """Diversity of motion papers: mean distance of `pairs` random pairs of embeddings
    [N,D], drawn as in `multimodality`. The error is that over pairs."""
    embeddings = checks.check(embeddings, name="embeddings")
    first, second = _two_draws(len(embeddings), pairs, seed, "motions")
    gap = np.subtract(embeddings[first], embeddings[second], dtype=np.float64)
    distance = np.linalg.norm(gap, axis=1)
    return estimate.from_terms(distance.mean(), distance)


def repeated(fn: Callable[[int], float], seeds: Sequence[int] = range(20)) -> Repeated:
    """fn(seed) over seeds: mean and 1.96 std / sqrt(number), std with ddof 0, as tables
    of motion papers report it."""
    values = np.array([fn(seed) for seed in seeds], np.float64)
    if len(values) < 2:
        raise ValueError(f"a confidence interval needs 2 seeds, got {len(values)}")
    interval = 1.96 * values.std() / np.sqrt(len(values))
    return Repeated(float(values.mean()), float(interval))


def _two_draws(number, draws, seed, what):
    if draws >= number:
        raise ValueError(f"{draws} draws need {draws + 1} {what}, got {number}")
    # the legacy generator: the reference draws from numpy's global one
    generator = np.random.RandomState(seed)
    first = generator.choice(number, draws, replace=False)
    return first, generator.choice(number, draws, replace=False)


def _matched(a, b, name_a, name_b):
    a, b = checks.check(a, name=name_a), checks.check(b, name=name_b)
    if a.shape != b.shape:
        raise ValueError(
            f"{name_a} {a.shape} and {name_b} {b.shape}: expected row i of one to "
            "belong to row i of the other"
        )
    return a.astype(np.float64), b.astype(np.float64)
