"""A sweep over schedule x scale x steps: each cell sampled and scored, or found."""

import logging

from progguide_jax import evaluation, generation
from progguide_jax.metrics import estimate, suite
from progguide_jax.runtime import validation, writers


def sweep(config, workdir: str, judge: evaluation.Judge) -> list[dict]:
    """The row of every cell of config.experiment, in order, as `tabulation` takes them,
    with its terms {score: [N]} and the folder of its samples.

    Needs a trained workdir, probed for gn. Samples go to WORKDIR/samples and scores to
    WORKDIR/scores, where a cell that is finished is found again, also by another sweep:
    a killed run costs one cell.
    """
    check(config)
    model = generation.load(config, workdir)
    rows = []
    for cell in writers.progress(cells(config), "cells"):
        folder = generation.generate(cell, workdir, model)
        samples = evaluation.made_samples(cell, folder)
        row, terms = evaluation.score(cell, workdir, judge, samples)
        rows.append(_about(config, cell) | row | {"terms": terms, "folder": folder})
        logging.info("%s: %s", cell_name(config, cell), _short(row))
    baselines = {_place(row): row for row in rows if _is_baseline(row)}
    for row in rows:
        baseline = baselines.get(_place(row))
        row["differences"] = _differences(row, baseline)
    return rows


def check(config) -> None:
    """ValueError if config is no sweep that can be run to its end here."""
    validation.validate(config)
    experiment = config.experiment
    if not experiment.schedules or not experiment.scales:
        raise ValueError("experiment.schedules and experiment.scales must not be empty")
    every = cells(config)
    for cell in every:
        validation.validate(cell)
    names = [cell_name(config, cell) for cell in every]
    if len(set(names)) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"experiment: two cells have the name {twice}: leave one out")
    if config.sample.name:
        raise ValueError(
            f"sample.name is {config.sample.name!r}: the cells of a sweep need a "
            "folder each, leave it empty"
        )
    if config.eval.samples:
        raise ValueError("eval.samples is set: a sweep scores the samples of its cells")
    count = config.eval.num_images or config.sample.num_images
    suite.check_count(config.eval.metrics, count, "sample.num_images")
    if experiment.intervals and len(experiment.num_steps) > 1:
        raise ValueError(
            "experiment.intervals with several experiment.num_steps: a figure has one"
        )
    if experiment.folder in ("", "samples", "scores", "references", "checkpoints"):
        raise ValueError(
            f"experiment.folder is {experiment.folder!r}: name a folder of its own"
        )
    scored = [s for metric in config.eval.metrics for s in suite.scores_of(metric)]
    for metric in experiment.axes:
        if metric not in scored:
            raise ValueError(
                f"experiment.axes holds {metric!r}, which eval.metrics does not give: "
                f"use two of {', '.join(scored)}"
            )


def cells(config) -> list:
    """One config for each number of steps, schedule and scale; with intervals, for each
    of them under neg_perturb as well. Scale 0, plain conditional sampling under every
    schedule, comes once."""
    experiment, sample, result = config.experiment, config.sample, []
    windows = [(name, None) for name in experiment.schedules]
    windows += [("neg_perturb", tuple(window)) for window in experiment.intervals]
    for num_steps in experiment.num_steps or (sample.num_steps,):
        for schedule, window in windows:
            for scale in experiment.scales:
                if scale == 0 and (schedule, window) != windows[0]:
                    continue
                cell = config.copy_and_resolve_references()
                cell.sample.num_steps = num_steps
                # a folder may hold more, from a larger sweep
                cell.eval.num_images = config.eval.num_images or sample.num_images
                cell.guidance.schedule = schedule if scale else "static"
                cell.guidance.scale = float(scale)
                if window:
                    cell.guidance.t_min, cell.guidance.t_max = window
                result.append(cell)
    return result


def cell_name(config, cell) -> str:
    """static_w0.15, with _t100-149 for an interval and _s50 where steps vary."""
    guidance = cell.guidance
    name = f"{guidance.schedule}_w{guidance.scale:g}"
    if guidance.schedule == "neg_perturb":
        name += f"_t{guidance.t_min}-{guidance.t_max}"
    if len(config.experiment.num_steps) > 1:
        name += f"_s{cell.sample.num_steps}"
    return name


def paper(config) -> dict[str, dict[str, float]]:
    """{cell: {score: number}} of experiment.paper."""
    numbers: dict[str, dict[str, float]] = {}
    for cell, score, value in config.experiment.paper:
        numbers.setdefault(cell, {})[score] = value
    return numbers


def _about(config, cell) -> dict:
    guidance = cell.guidance
    interval = None
    if guidance.schedule == "neg_perturb":
        interval = [guidance.t_min, guidance.t_max]
    return {
        "cell": cell_name(config, cell),
        "schedule": guidance.schedule,
        "scale": guidance.scale,
        "num_steps": cell.sample.num_steps,
        "interval": interval,
    }


def _place(row) -> tuple:
    return row["scale"], row["num_steps"]


def _is_baseline(row) -> bool:
    return row["schedule"] == "static"


def _differences(row, baseline) -> dict[str, dict[str, float]]:
    """{score: value and error} of row - baseline, paired image by image; {} for the
    baseline itself and where there is none."""
    if baseline is None or row is baseline:
        return {}
    result = {}
    for score, terms in row["terms"].items():
        a, b = (
            estimate.Estimate(r["scores"][score]["value"], r["scores"][score]["error"])
            for r in (row, baseline)
        )
        paired = estimate.difference(a, b, terms, baseline["terms"][score])
        result[score] = paired._asdict()
    return result


def _short(row) -> str:
    scores = row["scores"].items()
    return ", ".join(f"{k} {v['value']:.4g} ± {v['error']:.2g}" for k, v in scores)
