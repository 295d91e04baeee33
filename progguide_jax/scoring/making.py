"""The statistics of a split, made: its images embedded, kept on the way, and moments.

Until a reference is whole its features lie in the folder NAME.parts beside it, so that
the same command goes on where it was killed.
"""

import contextlib
import hashlib
import json
import logging
import time
from typing import Any

import jax
import numpy as np
from etils import epath

from progguide_jax import data
from progguide_jax.engine import results
from progguide_jax.metrics import frechet, suite
from progguide_jax.runtime import config as config_lib
from progguide_jax.runtime import files, sharding, stopping, writers
from progguide_jax.scoring import extraction
from progguide_jax.systems import build, pictures

_SECONDS = 30.0  # of work, the most that a kill costs


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
    values = _embedded(config, extractor, _as_uint8(dataset.images), about, path)
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


def remove_parts(path: epath.Path) -> None:
    """What `make` kept on the way, once the reference at `path` is whole."""
    if jax.process_index() == 0:
        _folder(path).rmtree(missing_ok=True)


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


def _embedded(config, extractor, images, made_by: dict, path) -> np.ndarray:
    """Features float32 [N,D] of all images, on every host; those that a killed run of
    the same made_by left are not made again."""
    extraction.check_images(extractor, images, config.eval.split)
    dim, _ = extraction.widths(extractor, images.shape[1:])
    values = np.empty((len(images), dim), np.float32)
    host, folder = jax.process_index() == 0, _folder(path)
    made_by = json.dumps(made_by, sort_keys=True)
    there = _fill(values, folder, made_by) if host else 0
    there = int(sharding.from_host_0(np.array(there)))
    if there:
        values[:there] = sharding.from_host_0(values[:there])
        logging.info("the features of %d images are there: going on", there)
    saved, since = there, time.monotonic()
    stream = extraction.extract(
        extractor, images, config.eval.batch_size, config.eval.split, there
    )
    with stopping.Stop() as stop, contextlib.closing(stream):
        for rows, batch, _ in stream:
            values[rows] = batch
            stopped = stop.asked(rows.stop)
            if host and (stopped or time.monotonic() - since >= _SECONDS):
                part = {"features": values[saved : rows.stop], "made_by": made_by}
                files.save_npz(folder / f"{saved:08d}.npz", **part)
                saved, since = rows.stop, time.monotonic()
            if stopped:
                raise stopping.interrupted(f"{rows.stop} of {len(images)} images")
    return values


def _fill(values: np.ndarray, folder: epath.Path, made_by: str) -> int:
    """Fill the first rows from the parts in `folder`, as far as they have no gap; how
    many. A part that is damaged or was made by another is none."""
    end = 0
    for path in sorted(folder.glob("*.npz")):
        try:
            part = files.load_npz(path)
        except files.Damaged as error:
            files.set_aside(error)
            continue
        if int(path.stem) == end and str(part["made_by"]) == made_by:
            rows = part["features"]
            values[end : end + len(rows)] = rows
            end += len(rows)
    return end


def _folder(path) -> epath.Path:
    return epath.Path(path).with_suffix(".parts")


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
