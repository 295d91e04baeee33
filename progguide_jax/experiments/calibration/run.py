"""Scores of real images against real images, clean and under noise: what a score of a
model means, for each feature extractor."""

import math

import ml_collections

from progguide_jax import registry
from progguide_jax.data import corruption, image_sets
from progguide_jax.experiments import cells as cells_lib
from progguide_jax.experiments import settings
from progguide_jax.runtime import sharding, writers
from progguide_jax.scoring import eval_checks, evaluation, extraction, sample_sets
from progguide_jax.systems import build, validation

DEFAULTS = {
    "features": ("inception",),
    "noise": (0.0, 1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0),
}
_OTHER = {"train": "test", "test": "train"}


def check(config) -> None:
    """ValueError if config is no calibration that can be run here."""
    settings.check(config)
    validation.validate(config)
    eval_checks.check_eval(config)
    settings.check_no_cells(config)
    _check_section(config.experiment.calibration)
    for name in config.experiment.calibration.features:
        if not _cell(config, name).eval.metrics:
            raise ValueError(
                f"eval.metrics holds nothing that {name} can give: add fd, or leave "
                f"{name} out of experiment.calibration.features"
            )
    if config.data.name == "two_gaussians":
        raise ValueError("a calibration takes images: two_gaussians has floats")


def cells(config) -> list[cells_lib.Cell]:
    """Nothing is sampled."""
    return []


def unread(config) -> dict[str, str]:
    """All that makes a model or its samples."""
    rest = "noise model train checkpoint probe guidance sample eval.samples"
    found = dict.fromkeys([*rest.split(), "experiment.schedules"], "")
    features = {"eval.features": "experiment.calibration.features"}
    return found | {"experiment.scales": ""} | features


def needs_curve(config) -> bool:
    """Nothing is probed."""
    return False


def prepare(config, workdir: str) -> None:
    """FileNotFoundError if the weights of an extractor are not there."""
    for name in config.experiment.calibration.features:
        extraction.load(name, sharding.mesh(), config.eval.weights)


def run(config, workdir: str, prepared: None = None) -> list[dict]:
    """A row of scores for each extractor and level of noise, made or found.

    Every extractor of experiment.calibration.features scores the images of the split
    that is not the reference's (eval.split), with Gaussian noise of each standard
    deviation of experiment.calibration.noise (grey levels) on them.
    """
    other = _OTHER[config.eval.split]
    dataset = build.load_data(config, other)
    count = config.eval.num_images or len(dataset.labels)
    if count > len(dataset.labels):
        raise ValueError(
            f"eval.num_images is {count} and the {other} split has "
            f"{len(dataset.labels)} images: score fewer"
        )
    images, labels = dataset.images[:count], dataset.labels[:count]
    rows = []
    for name in writers.progress(config.experiment.calibration.features, "extractors"):
        cell = _cell(config, name)
        judge = evaluation.load_judge(cell, workdir)
        for std in config.experiment.calibration.noise:
            noisy = corruption.add_noise(images, std, config.eval.seed)
            digest = image_sets.digest(noisy, labels)
            made_by = {"split": other, "noise": std, "images": digest}
            title = f"{config.data.name}_{other}_noise{std:g}"
            samples = sample_sets.Samples(title, noisy, labels, made_by)
            row, _ = evaluation.score(cell, workdir, judge, samples)
            rows.append({"features": name, "noise": std} | row)
    return rows


def _check_section(section: ml_collections.ConfigDict) -> None:
    if not section.features or not section.noise:
        raise ValueError("experiment.calibration: features and noise must not be empty")
    for name in section.features:
        key = "experiment.calibration.features"
        registry.check(key, name, extraction.NAMES)
    for std in section.noise:
        if not isinstance(std, int | float) or not 0 <= std < math.inf:
            raise ValueError(
                f"experiment.calibration.noise holds {std!r}: use grey levels, finite, "
                "at least 0"
            )


def _cell(config, name: str):
    """The config for one extractor, without metrics for which it has no logits, or not
    those of the data's classes."""
    cell = config.copy_and_resolve_references()
    cell.eval.features = name
    if not name.startswith("resnet"):
        drop = ("accuracy",) if name == "inception" else ("accuracy", "is")
        cell.eval.metrics = tuple(m for m in cell.eval.metrics if m not in drop)
    return cell
