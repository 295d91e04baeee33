"""A sweep: each of its cells sampled from one trained workdir and scored, or found."""

import itertools
import logging

from progguide_jax.engine import sampling
from progguide_jax.experiments import cells as cells_lib
from progguide_jax.experiments import settings
from progguide_jax.metrics import estimate, suite
from progguide_jax.runtime import writers
from progguide_jax.scoring import eval_checks, evaluation, sample_sets

DEFAULTS = {
    "num_steps": (),
    "num_intervals": 0,
    "intervals": (),
    "axes": ("is", "fd"),
    "paper": (),
}


def check(config) -> None:
    """ValueError if config is no sweep that can be run to its end here."""
    settings.check(config)
    eval_checks.check_eval(config)
    _check_section(config)
    if config.experiment.cells:
        for key in ("num_steps", "num_intervals", "intervals"):
            if config.experiment.sweep[key]:
                raise ValueError(
                    f"experiment.cells and experiment.sweep.{key} are both set: cells "
                    "stand instead of schedules x scales, leave one out"
                )
    else:
        settings.check_grid(config)
    every = cells(config)
    for cell in every:
        if cell.config.sample.name:
            raise ValueError(
                f"sample.name is {cell.config.sample.name!r}: the cells of a sweep "
                "need a folder each, leave it empty"
            )
    settings.check_cells(config, every)
    counts = {cell.config.eval.num_images for cell in every}
    if len(counts) > 1:
        raise ValueError(
            f"experiment.cells: sample.num_images differs ({sorted(counts)}), and "
            "scores compare at one number of images only"
        )
    if config.eval.samples:
        raise ValueError("eval.samples is set: a sweep scores the samples of its cells")
    count = counts.pop()
    for cell in every:
        if count > cell.config.sample.num_images:
            raise ValueError(
                f"eval.num_images is {count} and sample.num_images "
                f"{cell.config.sample.num_images}: sample more, or score fewer"
            )
    classes = config.data.num_classes
    suite.check_count(config.eval.metrics, count, "sample.num_images", classes)
    scored = [s for metric in config.eval.metrics for s in suite.scores_of(metric)]
    for score in config.experiment.sweep.axes:
        if score not in scored:
            raise ValueError(
                f"experiment.sweep.axes holds {score!r}, which eval.metrics does not "
                f"give: use two of {', '.join(scored)}"
            )


def unread(config) -> dict[str, str]:
    """What the cells set instead of the config around them."""
    sweep, found = config.experiment.sweep, settings.set_by_cells(config, cells(config))
    if not config.experiment.cells:
        if sweep.num_steps:
            found["sample.num_steps"] = "experiment.sweep.num_steps"
        if sweep.intervals:
            found["experiment.sweep.num_intervals"] = "experiment.sweep.intervals"
        if windows(config) and "neg_perturb" not in config.experiment.schedules:
            instead = "intervals" if sweep.intervals else "num_intervals"
            found["guidance.neg_perturb"] = f"experiment.sweep.{instead}"
    return found if needs_curve(config) else found | {"probe": ""}


def needs_curve(config) -> bool:
    """Whether the schedule of a cell reads the curve of the workdir."""
    return settings.needs_curve(cells(config))


def prepare(config, workdir: str) -> evaluation.Judge:
    """The extractor and the reference, before hours of training."""
    return evaluation.load_judge(config, workdir)


def run(config, workdir: str, judge: evaluation.Judge) -> list[dict]:
    """The row of every cell, in order, as `pairing` describes it, with its terms
    {score: [N]} and the folder of its samples.

    Needs a trained workdir, probed for gn. Samples go to WORKDIR/samples and scores to
    WORKDIR/scores, where a cell that is finished is found again, also by another sweep:
    a killed run costs one cell.
    """
    rows, every = [], cells(config)
    pairs = list(zip(every, cells_lib.models(every, workdir), strict=True))
    for cell, model in writers.progress(pairs, "cells"):
        folder = sampling.generate(cell.config, workdir, model)
        samples = sample_sets.made_samples(cell.config, folder)
        row, terms = evaluation.score(cell.config, workdir, judge, samples)
        rows.append(_about(cell) | row | {"terms": terms, "folder": folder})
        logging.info("%s: %s", cell.name, _short(row))
    for row in rows:
        baseline = _baseline(row, rows)
        row["baseline"] = baseline["cell"] if baseline else None
        row["differences"] = differences(row, baseline) if baseline else {}
    return rows


def cells(config) -> list[cells_lib.Cell]:
    """Those of experiment.cells, or schedules x scales with the steps and intervals of
    experiment.sweep."""
    if config.experiment.cells:
        every = cells_lib.given(config)
    else:
        num_steps = config.experiment.sweep.num_steps
        every = cells_lib.product(config, num_steps, windows(config), True)
    for cell in every:  # a folder may hold more images, from a larger sweep
        cell.config.eval.num_images = (
            config.eval.num_images or cell.config.sample.num_images
        )
    return every


def windows(config) -> tuple[tuple[int, int], ...]:
    """(t_min, t_max), both inclusive: experiment.sweep.intervals, or so many as
    num_intervals says, which share the timesteps equally."""
    sweep, num_timesteps = config.experiment.sweep, config.noise.num_timesteps
    if sweep.intervals:
        return sweep.intervals
    count = sweep.num_intervals
    first = [i * num_timesteps // count for i in range(count)]
    return tuple((a, b - 1) for a, b in itertools.pairwise([*first, num_timesteps]))


def paper(config) -> dict[str, dict[str, float]]:
    """{cell: {score: number}} of experiment.sweep.paper."""
    numbers: dict[str, dict[str, float]] = {}
    for cell, score, value in config.experiment.sweep.paper:
        numbers.setdefault(cell, {})[score] = value
    return numbers


def _check_section(config) -> None:
    sweep, most = config.experiment.sweep, config.noise.num_timesteps
    for num_steps in sweep.num_steps:
        key = "experiment.sweep.num_steps"
        settings.check_count(key, num_steps, most, "noise.num_timesteps")
    if sweep.num_intervals != 0:
        key = "experiment.sweep.num_intervals"
        settings.check_count(key, sweep.num_intervals, most, "noise.num_timesteps")
    for window in sweep.intervals:
        pair = isinstance(window, tuple) and len(window) == 2
        if not pair or not 0 <= window[0] <= window[1]:
            raise ValueError(
                f"experiment.sweep.intervals holds {window}: use pairs "
                "0 <= t_min <= t_max"
            )
    if windows(config) and len(sweep.num_steps) > 1:
        raise ValueError(
            "experiment.sweep.intervals with several num_steps: a figure has one"
        )
    if len(set(sweep.axes)) != 2 or len(sweep.axes) != 2:
        raise ValueError(f"experiment.sweep.axes is {sweep.axes}: name two scores")
    for row in sweep.paper:
        triple = isinstance(row, tuple) and len(row) == 3
        if not triple or not isinstance(row[0], str) or not isinstance(row[1], str):
            raise ValueError(
                f"experiment.sweep.paper holds {row}: use (cell, score, printed number)"
            )


def _about(cell: cells_lib.Cell) -> dict:
    return {
        "cell": cell.name,
        "schedule": cell.config.guidance.schedule,
        "scale": cell.config.guidance.scale,
        "num_steps": cell.config.sample.num_steps,
        "interval": list(cell.interval) if cell.interval else None,
        "variant": cell.variant,
    }


def _baseline(row: dict, rows: list[dict]) -> dict | None:
    """What the differences of a row are to: static at the same scale and steps; of
    cells of experiment.cells the first one. None for the baseline itself."""
    if row["variant"] is not None:
        found = rows[:1]
    else:
        keys = ("scale", "num_steps")
        found = [
            other
            for other in rows
            if other["schedule"] == "static" and all(other[k] == row[k] for k in keys)
        ]
    return None if not found or found[0] is row else found[0]


def differences(row: dict, baseline: dict) -> dict[str, dict[str, float]]:
    """{score: value and error} of row - baseline, paired image by image."""
    result = {}
    for score, terms in row["terms"].items():
        a, b = (
            estimate.Estimate(r["scores"][score]["value"], r["scores"][score]["error"])
            for r in (row, baseline)
        )
        paired = estimate.difference(a, b, terms, baseline["terms"][score])
        result[score] = paired._asdict()
    return result


def _short(row: dict) -> str:
    scores = row["scores"].items()
    return ", ".join(f"{k} {v['value']:.4g} ± {v['error']:.2g}" for k, v in scores)
