"""The statistics of a split, made: its images embedded, and moments."""

import hashlib
import json
import logging
from typing import Any

import numpy as np

from progguide_jax import data
from progguide_jax.engine import results
from progguide_jax.metrics import frechet, suite
from progguide_jax.runtime import config as config_lib
from progguide_jax.runtime import writers
from progguide_jax.scoring import embedding
from progguide_jax.systems import build, pictures


def make(config, extractor, settings: dict[str, Any], path) -> results.Result:
    """The record and the arrays of the reference at `path` (NAME.npz), as
    `statistics.refer` describes them; settings: those that it depends on."""
    dataset = build.load_data(config, config.eval.split)
    _announce(config, extractor, len(dataset.labels), path)
    about = settings | {
        "num_images": len(dataset.labels),
        "images": hashlib.sha256(np.ascontiguousarray(dataset.images)).hexdigest()[:16],
        "versions": config_lib.versions(),
    }
    images, split = _as_uint8(dataset.images), config.eval.split
    size = config.eval.batch_size
    values, _ = embedding.embed(extractor, images, size, split, path, about, False)
    moments = frechet.of(values, writers.progress)
    kept = _kept(config, dataset.labels, dataset.num_classes)
    arrays = {"mu": moments.mean, "sigma": frechet.covariance(moments)}
    if config.eval.per_class:
        classes = writers.progress(range(dataset.num_classes), "moments of classes")
        each = [frechet.of(values[dataset.labels == c]) for c in classes]
        arrays["class_mu"] = np.stack([m.mean for m in each])
        arrays["class_sigma"] = np.stack([frechet.covariance(m) for m in each])
    arrays |= {
        "features": values[kept],
        "labels": dataset.labels[kept],
        # in the file too, which goes its own way
        "about": np.array(json.dumps(about)),
    }
    return results.Result({"made_by": about}, arrays)


def _announce(config, extractor, count: int, path) -> None:
    """What is about to be made, and the cheaper ways, before it takes its time."""
    ways = "--config.eval.reference=FILE takes statistics that are there"
    test = data.count(config.data.name, config.data.dir, config.data.num_examples)
    if config.eval.split == "train" and test is not None and test < count:
        ways = f"--config.eval.split=test takes {test} images, {ways}"
    logging.info(
        "statistics of the %s split of %s: %d images are embedded by %s, once: %s is "
        "found again (cheaper: %s)",
        config.eval.split,
        config.data.name,
        count,
        extractor.name,
        path,
        ways,
    )


def _kept(config, labels: np.ndarray, num_classes: int) -> np.ndarray:
    """Rows of the images whose features stay: as many of each class as there are."""
    most, seed = config.eval.reference_features, config.eval.seed
    if most >= len(labels):
        return np.arange(len(labels))
    rows = [np.flatnonzero(labels == c) for c in range(num_classes)]
    share = np.diff(np.linspace(0, most, num_classes + 1).astype(int))
    some = [
        each[suite.subset(len(each), n, seed)]
        for each, n in zip(rows, share, strict=True)
    ]
    return np.sort(np.concatenate(some))


def _as_uint8(images: np.ndarray) -> np.ndarray:
    """Real images as samples are: two_gaussians has floats in [-1, 1]."""
    return images if images.dtype == np.uint8 else pictures.to_uint8(images)
