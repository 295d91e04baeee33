"""A few cells from one trained workdir and the same noises, each beside the first."""

import logging

import ml_collections
import numpy as np

from progguide_jax.engine import sampling
from progguide_jax.experiments import cells as cells_lib
from progguide_jax.experiments import settings
from progguide_jax.experiments.sweep import run as sweep
from progguide_jax.metrics import suite
from progguide_jax.runtime import config as config_lib
from progguide_jax.runtime import files, writers
from progguide_jax.scoring import eval_checks, evaluation, sample_sets

DEFAULTS = {"num_images": 100}
_DEFAULT_FEATURES = "inception"


def begin(config: ml_collections.ConfigDict, given, defaults) -> None:
    """Make of any config that of a comparison: the keys of experiment that were not
    typed (given) become `defaults`, those of configs/base.py, but for the name, the
    folder and the scales, which are the one of guidance; metrics that were not typed
    are those that the features can give."""
    held = config_lib.flat(defaults.experiment.to_dict())
    held |= {"folder": "compare", "scales": (config.guidance.scale,)}
    held = {f"experiment.{key}": value for key, value in held.items()}
    changes = {key: value for key, value in held.items() if key not in given}
    config.update_from_flattened_dict(changes | {"experiment.name": "compare"})
    eval_checks.leave_out_impossible(config, given)


def check(config) -> None:
    """ValueError if config is no comparison that can be run to its end here."""
    settings.check(config)
    section = config.experiment.compare
    settings.check_count("experiment.compare.num_images", section.num_images)
    if not config.experiment.cells:
        settings.check_grid(config)
    if config.eval.metrics:
        eval_checks.check_eval(config)
        key = "experiment.compare.num_images"
        classes = config.data.num_classes
        suite.check_count(config.eval.metrics, section.num_images, key, classes)
    if config.eval.samples or config.sample.name:
        raise ValueError(
            "eval.samples and sample.name must be empty: a comparison makes its samples"
        )
    settings.check_cells(config, cells(config))


def unread(config) -> dict[str, str]:
    """What the cells set instead of the config around them."""
    instead = "experiment.compare.num_images"
    counts = {"sample.num_images": instead, "eval.num_images": instead}
    kept = ("train", "probe", "model", "noise", "data.digest")
    return (
        settings.set_by_cells(config, cells(config)) | counts | dict.fromkeys(kept, "")
    )


def needs_curve(config) -> bool:
    """Nothing is made but samples: `prepare` asks for the curves that cells need."""
    return False


def cells(config) -> list[cells_lib.Cell]:
    """Those of experiment.cells, or schedules x scales."""
    if config.experiment.cells:
        every = cells_lib.given(config)
    else:
        every = cells_lib.product(config, plain_once=True)
    for cell in every:
        count = config.experiment.compare.num_images
        cell.config.sample.num_images = cell.config.eval.num_images = count
    return every


def prepare(config, workdir: str) -> evaluation.Judge | None:
    """The extractor and the reference; None where no metrics are asked for, and, with a
    line that says so, where nothing but the default features was and they are not here.
    FileNotFoundError before that without a curve that a cell needs.
    """
    settings.check_curves(cells(config), workdir)
    if not config.eval.metrics:
        return None
    try:
        return evaluation.load_judge(config, workdir)
    except OSError as error:
        if config.eval.weights or config.eval.features != _DEFAULT_FEATURES:
            raise
        logging.warning("no scores, pictures only: %s", error)
        return None


def run(config, workdir: str, judge: evaluation.Judge | None) -> list[dict]:
    """A row for each cell: cell, images and labels, the mean difference of its images
    to those of the first in grey levels, and its scores with their differences."""
    every, rows = cells(config), []
    count = config.experiment.compare.num_images
    pairs = list(zip(every, cells_lib.models(every, workdir), strict=True))
    for cell, model in writers.progress(pairs, "cells"):
        folder = sampling.generate(cell.config, workdir, model)
        arrays = files.load_npz(folder / "samples.npz")
        row = {name: arrays[name][:count] for name in ("images", "labels")}
        row |= {"cell": cell.name, "scores": {}, "differences": {}, "terms": {}}
        if judge is not None:
            samples = sample_sets.made_samples(cell.config, folder)
            scored, row["terms"] = evaluation.score(
                cell.config, workdir, judge, samples
            )
            row |= scored
        rows.append(row | {"folder": folder})
    for row in rows:
        both = (r["images"].astype(np.float64) for r in (row, rows[0]))
        row["moved"] = float(np.mean(np.abs(np.subtract(*both))))
        if row is not rows[0]:
            row["differences"] = sweep.differences(row, rows[0])
    return rows
