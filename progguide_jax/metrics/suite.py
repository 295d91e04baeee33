"""Every score of a set of features by name, with its error and its per-image terms."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import numpy as np

from progguide_jax.metrics import (
    alignment,
    diversity,
    estimate,
    frechet,
    inception_score,
    kernel,
    manifold,
    tracking,
    vendi,
)

NEIGHBOURS = {"precision_recall": 3, "density_coverage": 5}  # k of each

# the images that a metric needs; a score that means something needs many more
MINIMUM = {
    "fd": 2,
    "fd_infinity": 20,
    "is": 20,  # two in each of ten splits
    "kd": 1000,  # one subset
    "precision_recall": NEIGHBOURS["precision_recall"] + 1,
    "density_coverage": NEIGHBOURS["density_coverage"] + 1,
    "vendi": 2,
    "diversity": 3,  # of each class
    "accuracy": 2,
}

# what the names above stand for; a row carries it, so a change of it makes rows anew
DEFINITIONS = {
    "covariance": "ddof 1",
    "is": "10 splits, rows shuffled by RandomState(2020)",
    "kd": "(x.y/D + 1)^3, 100 subsets of 1000, RandomState(2020)",
    "precision_recall": "k = 3, d <= r, at most as many samples as reference features",
    "density_coverage": "k = 5, d < r, at most as many samples as reference features",
    "vendi": "cosine kernel, q = 1",
    "diversity": "ddof 1 within a class",
    "version": 1,
}

# what a metric needs beside features, and what is wrong where it lacks
NEEDS = {
    "is": ("logits",),
    "kd": ("reference_features",),
    "precision_recall": ("reference_features",),
    "density_coverage": ("reference_features",),
    "diversity": ("labels",),
    "accuracy": ("logits", "labels"),
}
_LACKS = {
    "logits": "these features come without logits: use a classifier's, or leave it "
    "out of eval.metrics",
    "labels": "the samples have no labels, which this metric needs: leave it out",
    "reference_features": "the reference has moments only and this metric needs its "
    "features: make one with python -m eval.reference",
}


class Sample(NamedTuple):
    """features float32 [N,D]; logits float32 [N,K], labels int32 [N] or None."""

    features: np.ndarray
    logits: np.ndarray | None = None
    labels: np.ndarray | None = None


class Reference(NamedTuple):
    """mean float64 [D] and covariance [D,D] of all images; features float32 [M,D] of
    some, or None where only the moments are known; root: `frechet.root(covariance)`."""

    mean: np.ndarray
    covariance: np.ndarray
    features: np.ndarray | None = None
    root: np.ndarray | None = None


class Score(NamedTuple):
    """value, its standard error, and terms float64 [N] or None: the influence of each
    image, which gives a paired difference its error (`estimate.difference`).

    more: "std" of the splits of "is" and the subsets of "kd"; "all" of "kd", MMD^2 of
    all images, whose error is that of "kd"; "fit_error" of "fd_infinity"; "samples" and
    "reference", the images that precision, recall, density and coverage compared."""

    value: float
    error: float
    terms: np.ndarray | None = None
    more: dict = {}


def names() -> list[str]:
    """The metrics that `score` knows."""
    return list(_METRICS)


def scores_of(metric: str) -> tuple[str, ...]:
    """The scores that a metric gives: two for precision_recall, itself for fd."""
    pairs = ("precision_recall", "density_coverage")
    return tuple(metric.split("_")) if metric in pairs else (metric,)


def better(score: str) -> str:
    """Which values are good: "lower" for distances, "higher" for the rest."""
    return "lower" if score in ("fd", "fd_infinity", "kd") else "higher"


def check_count(
    metrics: Sequence[str], count: int, what: str, num_classes: int = 0
) -> None:
    """ValueError with the number needed if a metric needs more than `count` images,
    drawn in turn from num_classes classes."""
    if "diversity" in metrics and count < 3 * num_classes:
        raise ValueError(
            f"diversity needs 3 images of each of {num_classes} classes and {what} has "
            f"{count}: make {3 * num_classes}, or leave it out of eval.metrics"
        )
    for name in metrics:
        if count < MINIMUM[name]:
            raise ValueError(
                f"{name} needs {MINIMUM[name]} images or more and {what} has {count}: "
                "make more, or leave it out of eval.metrics"
            )


def check(
    metrics: Sequence[str], *, logits: bool, labels: bool, reference_features: bool
) -> None:
    """The ValueError of `score` for a metric that needs what is not there, before the
    features are."""
    there = {
        "logits": logits,
        "labels": labels,
        "reference_features": reference_features,
    }
    for name in metrics:
        for need in NEEDS.get(name, ()):
            if not there[need]:
                raise ValueError(f"{name}: {_LACKS[need]}")


class _Task(NamedTuple):
    sample: Sample
    reference: Reference
    seed: int
    sharding: jax.sharding.NamedSharding | None
    track: tracking.Track
    found: dict[str, Score]  # so far: two metrics share one eigenvalue problem


def score(
    metrics: Sequence[str],
    sample: Sample,
    reference: Reference,
    *,
    seed: int = 0,
    sharding: jax.sharding.NamedSharding | None = None,
    track: tracking.Track = tracking.silent,
) -> dict[str, Score]:
    """{score: Score}; "precision_recall" gives two scores, the others one.

    seed: of subsets; sharding: for the rows of pairwise distances; track: what long
    loops are wrapped in. ValueError names the metric and what it lacks: logits, labels,
    reference features or images.
    """
    check(
        metrics,
        logits=sample.logits is not None,
        labels=sample.labels is not None,
        reference_features=reference.features is not None,
    )
    task = _Task(sample, reference, seed, sharding, track, {})
    for name in metrics:
        try:
            task.found.update(_METRICS[name](task))
        except ValueError as error:
            raise ValueError(f"{name}: {error}") from error
    return {s: task.found[s] for name in metrics for s in scores_of(name)}


def public_name(score: str, features: str) -> str:
    """FID, IS and KID are names of the 2015 Inception's scores only: "fid", "is",
    "kid"; of any other features "fd_resnet56", "is_resnet56", ..."""
    if features == "inception" and score in _PUBLIC:
        return _PUBLIC[score]
    return f"{score}_{features}"


_PUBLIC = {"fd": "fid", "fd_infinity": "fid_infinity", "is": "is", "kd": "kid"}


def _fd(task):
    if "fd" in task.found:
        return {}
    x, ref = task.sample.features, task.reference
    m = frechet.of(x, task.track)
    value, terms = frechet.value_and_influence(
        x, m, ref.mean, ref.covariance, ref.root, task.track
    )
    return {"fd": Score(*estimate.from_terms(value, terms), terms)}


def _fd_infinity(task):
    x, ref = task.sample.features, task.reference
    fit = frechet.infinity(
        x, ref.mean, ref.covariance, ref.root, seed=task.seed, track=task.track
    )
    # the fit's subsets share their images: what other images would change comes on top
    task.found.update(_fd(task))
    error = float(np.hypot(fit.error, task.found["fd"].error))
    more = {"fit_error": fit.error}
    return {"fd_infinity": Score(fit.value, error, more=more)}


def _is(task):
    result, terms = inception_score.score_and_terms(task.sample.logits)
    return {"is": Score(result.mean, result.error, terms, {"std": result.std})}


def _kd(task):
    """The value is the mean over KID's subsets. The error is that of all images ("all",
    the same quantity without subsets), not of the subsets, whose drawing
    adds less."""
    real = task.reference.features
    result = kernel.kid(task.sample.features, real, track=task.track)
    whole = kernel.mmd2(_as_many(task), real, task.track)
    more = {"std": result.std, "all": whole.value}
    return {"kd": Score(result.mean, whole.error, more=more)}


def _precision_recall(task):
    k = NEIGHBOURS["precision_recall"]
    terms = manifold.precision_recall_terms(
        task.reference.features, _as_many(task), k, task.sharding, task.track
    )
    return _shares(("precision", "recall"), terms)


def _density_coverage(task):
    k = NEIGHBOURS["density_coverage"]
    terms = manifold.density_coverage_terms(
        task.reference.features, _as_many(task), k, task.sharding, task.track
    )
    return _shares(("density", "coverage"), terms)


def _shares(names, terms):
    """Means over the images of the sample and of the reference. Terms of the second
    belong to real images, so they say nothing of a paired difference: none are kept."""
    more = dict(zip(("samples", "reference"), map(len, terms), strict=True))
    first, second = (estimate.from_terms(np.mean(part), part) for part in terms)
    return {
        names[0]: Score(*first, terms[0], more),
        names[1]: Score(*second, None, more),
    }


def _vendi(task):
    value, terms = vendi.value_and_influence(task.sample.features, track=task.track)
    return {"vendi": Score(*estimate.from_terms(value, terms), terms)}


def _diversity(task):
    sample = task.sample
    value, terms = diversity.value_and_influence(sample.features, sample.labels)
    return {"diversity": Score(*estimate.from_terms(value, terms), terms)}


def _accuracy(task):
    terms = alignment.correct(task.sample.logits, task.sample.labels)
    return {"accuracy": Score(*estimate.from_terms(np.mean(terms), terms), terms)}


def _as_many(task):
    """At most as many rows as the reference has: recall and coverage grow with them."""
    features, most = task.sample.features, len(task.reference.features)
    if len(features) <= most:
        return features
    return features[subset(len(features), most, task.seed)]


def subset(count: int, size: int, seed: int) -> np.ndarray:
    """`size` of the rows 0 ... count-1, ascending; a function of the three numbers."""
    order = np.random.Generator(np.random.Philox(seed)).permutation(count)
    return np.sort(order[:size])


_METRICS: dict[str, Callable[..., dict[str, Score]]] = {
    "fd": _fd,
    "fd_infinity": _fd_infinity,
    "is": _is,
    "kd": _kd,
    "precision_recall": _precision_recall,
    "density_coverage": _density_coverage,
    "vendi": _vendi,
    "diversity": _diversity,
    "accuracy": _accuracy,
}
