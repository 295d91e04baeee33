"""Scoring samples against a reference: images in, one JSON row out."""

import json
import logging
from typing import Any, NamedTuple

import jax
from etils import epath

from progguide_jax.engine import results
from progguide_jax.metrics import per_class as per_class_lib
from progguide_jax.metrics import suite
from progguide_jax.runtime import config as config_lib
from progguide_jax.runtime import digests, files, locking, sharding, writers
from progguide_jax.scoring import (
    embedding,
    eval_checks,
    extraction,
    sample_sets,
    statistics,
)
from progguide_jax.systems import build, validation


class Judge(NamedTuple):
    """What every set of samples of a run is scored with."""

    extractor: extraction.Extractor
    reference: statistics.RealImages


def evaluate(config, workdir: str) -> None:
    """Write the row of config's samples to WORKDIR/scores and print it."""
    validation.validate(config)
    eval_checks.check_eval(config)
    path = sample_sets.locate(config, workdir)
    config = sample_sets.with_data_of(config, path)
    samples = sample_sets.read(config, path)
    extractor = statistics.load_extractor(config)
    _check_samples(config, extractor, samples)  # a reference may take hours
    judge = Judge(extractor, statistics.find(config, workdir, extractor))
    row, _ = score(config, workdir, judge, samples)
    if jax.process_index() == 0:
        print(json.dumps({k: v for k, v in row.items() if k != "made_by"}, indent=1))


def load_judge(config, workdir: str) -> Judge:
    """The extractor and the reference of config.eval; the latter is made if need be."""
    extractor = statistics.load_extractor(config)
    return Judge(extractor, statistics.find(config, workdir, extractor))


def score(
    config, workdir: str, judge: Judge, samples: sample_sets.Samples
) -> results.Result:
    """The row of these samples and {score: terms [N]}, made or found:
    WORKDIR/scores/NAME.json and .npz. Features that a killed run left are used.

    Terms are the influence of every image on a score that has one, from which paired
    differences get their error.
    """
    made_by = _made_by(config, judge, samples)
    path = _row_path(workdir, judge, samples, made_by)
    _adopt(path, samples, made_by)

    def make():
        _check(config, judge, samples)
        logging.info("scores to %s", path)
        return _computed(config, judge, samples, path)

    result = results.find(path, made_by)
    if result is None:
        with locking.hold(path):
            result = results.find_or_make(path, made_by, make)
    embedding.remove_parts(path)
    return result


def _row_path(
    workdir: str, judge: Judge, samples: sample_sets.Samples, made_by
) -> epath.Path:
    """Named after the main settings, and a digest of all."""
    split = judge.reference.about.get("split", "unknown")
    name = f"{samples.name}_{judge.extractor.name}_{split}_n{len(samples.images)}"
    digest = digests.json_digest(made_by)[:6]
    return epath.Path(workdir) / "scores" / f"{name}_{digest}.json"


def _adopt(path: epath.Path, samples: sample_sets.Samples, made_by: dict) -> None:
    """Take over the first edition's row of samples of ours, whose folder had another
    digest in its name: one of the same images and labels, scored in the same way."""
    ours = len(samples.made_by) > 1  # of others only their images are known
    if ours and jax.process_index() == 0 and not path.exists():
        what = path.stem.removeprefix(samples.name).rpartition("_")[0]
        for old in sorted(path.parent.glob(f"*{what}_*.json")):
            row = _old_row(old)
            there = row.get("made_by", {})
            if there.get("samples", {}).get("images") != samples.made_by["images"]:
                continue
            if any(there.get(k) != made_by[k] for k in made_by if k != "samples"):
                continue
            results.arrays_path(old).replace(results.arrays_path(path))
            row |= {"samples": samples.name, "made_by": there | made_by}
            files.save_json(path, row)
            old.unlink()
            logging.info("%s is now %s", old, path.name)
            break
    sharding.barrier(f"row {path.name}")


def _old_row(path: epath.Path) -> dict:
    """The row at `path` if it is whole and of samples of the first edition, else {}."""
    try:
        row = files.load_json(path)
        old = "checkpoint" in row["made_by"]["samples"]  # today's is in "system"
    except (KeyError, TypeError, ValueError):
        return {}
    return row if old and results.arrays_path(path).exists() else {}


def _made_by(config, judge: Judge, samples: sample_sets.Samples) -> dict[str, Any]:
    """All that a row depends on, as JSON reads it back."""
    evaluation = config.eval
    return {
        "samples": samples.made_by,
        "num_images": len(samples.images),
        "features": judge.extractor.origin,
        "reference": judge.reference.about,
        "metrics": list(evaluation.metrics),
        "definitions": suite.DEFINITIONS,
        "per_class": evaluation.per_class,
        "seed": evaluation.seed,
    }


def _computed(
    config, judge: Judge, samples: sample_sets.Samples, path: epath.Path
) -> results.Result:
    """The row of `path`, and its terms by public name."""
    scores, per_class = _scores(config, judge, samples, path)
    about = {
        "config": config_lib.digest(config),
        "versions": config_lib.versions(),
        "devices": [device.device_kind for device in jax.devices()],
    }
    row = {
        "samples": samples.name,
        "num_images": len(samples.images),
        "features": judge.extractor.name,
        "split": judge.reference.about.get("split", "unknown"),
        "scores": _public(scores, judge),
    }
    if per_class:
        row["per_class"] = {str(c): _public(s, judge) for c, s in per_class.items()}
    terms = {
        suite.public_name(name, judge.extractor.name): score.terms
        for name, score in scores.items()
        if score.terms is not None
    }
    return results.Result(row | {"made_by": about}, terms)


def _check_samples(config, extractor, samples: sample_sets.Samples) -> None:
    """ValueError if a score will be missing something, as far as it is known without
    the reference."""
    metrics, what = config.eval.metrics, samples.name
    suite.check_count(metrics, len(samples.images), what)
    if not config.eval.reference:
        _check_kept(config, config.eval.reference_features)
    extraction.check_images(extractor, samples.images, what)
    shape, expected = samples.images.shape[1:], build.image_shape(config)
    if extractor.origin["name"] == "pixels" and shape != expected:
        raise ValueError(
            f"{what}: images are {shape}, the reference {expected}: pixels compare "
            "only at one size"
        )
    if config.eval.per_class:
        _check_classes(config, samples)
    _, width = extraction.widths(extractor, shape)
    num_classes = config.data.num_classes
    if "accuracy" in metrics and width != num_classes:
        raise ValueError(
            f"accuracy: {extractor.name} has {width or 'no'} logits and the data "
            f"{num_classes} classes: leave accuracy out of eval.metrics"
        )
    suite.check(
        metrics,
        logits=width is not None,
        labels=samples.labels is not None,
        reference_features=True,
    )


def _check(config, judge: Judge, samples: sample_sets.Samples) -> None:
    """ValueError if a score will be missing something: before the long work."""
    _check_samples(config, judge.extractor, samples)
    real = judge.reference.statistics.features
    suite.check(
        config.eval.metrics,
        logits=True,
        labels=True,
        reference_features=real is not None,
    )
    if real is not None:
        _check_kept(config, len(real))
    if config.eval.per_class:
        _check_classes(config, samples, judge.reference.labels)
    dim, _ = extraction.widths(judge.extractor, samples.images.shape[1:])
    if len(samples.images) < 10 * dim:
        logging.warning(
            "%d images of %d features: their Fréchet distance is largely the bias of "
            "so few, compare it at this number only (%d or more are better)",
            len(samples.images),
            dim,
            10 * dim,
        )


_KEPT = "the reference (eval.reference_features)"


def _check_kept(config, count: int) -> None:
    suite.check_count(config.eval.metrics, count, _KEPT)


def _check_classes(config, samples: sample_sets.Samples, *reference) -> None:
    """ValueError unless every class has what its scores need; reference: the labels of
    its features, where they are known."""
    if samples.labels is None:
        raise ValueError(
            f"{samples.name}: scores per class need labels, there are none"
        )
    try:
        counts = per_class_lib.for_each_class(
            lambda *rows: [len(each) for each in rows],
            samples.labels,
            *reference,
            num_classes=config.data.num_classes,
            minimum=2,
        )
    except ValueError as error:
        raise ValueError(f"{samples.name}: {error}") from error
    for c, each in counts.items():
        for count, what in zip(each, (samples.name, _KEPT), strict=False):
            suite.check_count(config.eval.metrics, count, f"class {c} of {what}")


def _scores(config, judge: Judge, samples: sample_sets.Samples, path: epath.Path):
    """({score: Score}, {class: {score: Score}} or {})."""
    labels, metrics = samples.labels, config.eval.metrics
    depends_on = {
        "samples": samples.made_by,
        "num_images": len(samples.images),
        "features": judge.extractor.origin,
        "versions": config_lib.versions(),
    }
    size, what = config.eval.batch_size, samples.name
    values, logits = embedding.embed(
        judge.extractor, samples.images, size, what, path, depends_on
    )
    whole = suite.Sample(values, logits, labels)
    options = {
        "seed": config.eval.seed,
        "sharding": sharding.batch(judge.extractor.mesh),
        "track": writers.progress,
    }
    scores = suite.score(metrics, whole, judge.reference.statistics, **options)
    if not config.eval.per_class:
        return scores, {}

    per_class = {}
    for c, reference in enumerate(judge.reference.per_class):
        rows = labels == c
        part = suite.Sample(
            values[rows], None if logits is None else logits[rows], labels[rows]
        )
        try:
            per_class[c] = suite.score(metrics, part, reference, **options)
        except ValueError as error:
            raise ValueError(f"class {c}: {error}") from error
    return scores, per_class


def _public(scores: dict[str, suite.Score], judge: Judge) -> dict[str, dict]:
    """Scores as JSON, under their public names."""
    return {
        suite.public_name(name, judge.extractor.name): {
            "value": s.value,
            "error": s.error,
            **s.more,
        }
        for name, s in scores.items()
    }
