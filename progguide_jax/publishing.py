"""The rows of a sweep as files: table, CSV, figures and a report page."""

import json
import os
import shlex
import sys

import jax
import numpy as np
from etils import epath

from progguide_jax import sweeping, tabulation
from progguide_jax.metrics import suite
from progguide_jax.plots import strips, style, tradeoff
from progguide_jax.runtime import config as config_lib
from progguide_jax.runtime import files

SHOWN_IMAGES = 10  # of each cell, one a class where there are ten


def publish(config, workdir: str, rows: list[dict]) -> str:
    """Write WORKDIR/FOLDER/{table.md, table.csv, rows.jsonl, report.html, figures/*};
    the path of the page.

    rows: what `sweeping.sweep` returns; FOLDER is experiment.folder. The same rows give
    the same files.
    """
    folder = epath.Path(workdir) / config.experiment.folder
    if jax.process_index() != 0:
        return os.fspath(folder / "report.html")
    label = rows[0]["features"]
    x, y = (suite.public_name(s, label) for s in config.experiment.axes)
    better = {name: suite.better(s) for name, s in _scores(config, label).items()}
    shown = {name: better[name] for name in (y, x)}
    paper = sweeping.paper(config)
    figures = _figures(config, rows, x, y, better)
    for name, (_, content, _) in figures.items():
        files.write(folder / "figures" / f"{name}.png", content)
    lines = [
        json.dumps({k: v for k, v in row.items() if k not in ("terms", "folder")})
        for row in rows
    ]
    files.write(folder / "rows.jsonl", ("\n".join(lines) + "\n").encode())
    files.write(folder / "table.csv", tabulation.csv(rows).encode())
    table = tabulation.table(rows, paper, better)
    table += _pareto(rows, x, y, better)
    files.write(folder / "table.md", table.encode())
    page = tabulation.html(
        f"{config.experiment.folder}: {' and '.join(shown)}",
        [_introduction(config, rows)],
        rows,
        paper,
        shown,
        {heading: (png, words) for heading, png, words in figures.values()},
        style.DPI,
        _facts(config, rows),
    )
    files.write(folder / "report.html", page.encode())
    return os.fspath(folder / "report.html")


def _scores(config, label: str) -> dict[str, str]:
    """{public name: score} of all that eval.metrics gives."""
    every = [s for metric in config.eval.metrics for s in suite.scores_of(metric)]
    return {suite.public_name(s, label): s for s in every}


def _pareto(rows, x: str, y: str, better) -> str:
    """A paragraph for the table: the cells that none beats, where that makes sense."""
    if (better[x], better[y]) != ("higher", "lower"):
        return ""
    kept = tabulation.pareto(rows, y, x)
    cells = ", ".join(f"{cell} ({share:.0%})" for cell, share in kept.items())
    return (
        f"\nPareto set of {y} and {x}, with the probability that a cell stays in it "
        f"when every score moves by its error: {cells}.\n"
    )


def _figures(config, rows, x: str, y: str, better) -> dict[str, tuple]:
    """{file name: (heading, PNG, caption)}."""
    if config.experiment.intervals:
        drawn = _of_intervals(rows, y, better, config.noise.num_timesteps)
    elif config.experiment.num_steps:
        drawn = _of_steps(rows, x, y, better)
    else:
        drawn = _of_scales(rows, x, y, better)
    count = f"{rows[0]['num_images']:,} images a cell; bars are one standard error."
    figures = {
        name: (heading, style.png(figure), f"{words} {count}")
        for name, (heading, figure, words) in drawn.items()
    }
    figures["samples"] = (
        "Samples",
        style.png(strips.strips(_images(rows))),
        "The same starting noise and label in each column.",
    )
    return figures


def _of_intervals(rows, y: str, better, num_timesteps: int) -> dict[str, tuple]:
    """Figure 7b, one for each scale."""
    drawn = {}
    for row in rows:
        if row["interval"] is None:
            same = [r for r in rows if r["scale"] == row["scale"]]
            figure = tradeoff.intervals(same, y, row, better[y], num_timesteps)
            heading = f"No guidance on one interval, ω = {row['scale']:g}"
            words = "The weight is 0 on the interval and ω elsewhere."
            drawn[f"intervals_w{row['scale']:g}"] = heading, figure, words
    return drawn


def _of_steps(rows, x: str, y: str, better) -> dict[str, tuple]:
    """Table 1 as lines."""
    return {
        f"steps_{score}": (
            f"{score} against the number of steps",
            tradeoff.steps(rows, score, better[score]),
            "",
        )
        for score in (y, x)
    }


def _of_scales(rows, x: str, y: str, better) -> dict[str, tuple]:
    """Figure 5 and the paired differences."""
    drawn = {
        "tradeoff": (
            "Trade-off",
            tradeoff.tradeoff(rows, x, y, (better[x], better[y])),
            "A line per schedule over the guidance scales.",
        )
    }
    for score in (y, x):
        if any(score in row["differences"] for row in rows):
            drawn[f"differences_{score}"] = (
                f"{score}: difference to static",
                tradeoff.differences(rows, score, better[score]),
                "Paired: image i of every cell began with the same noise and label.",
            )
    return drawn


def _images(rows) -> dict[str, np.ndarray]:
    """{cell: its first images by label}, those of the largest scale and steps."""
    scale = max(row["scale"] for row in rows)
    num_steps = max(row["num_steps"] for row in rows)
    chosen = [
        row
        for row in rows
        if (row["scale"], row["num_steps"]) == (scale, num_steps) or row["scale"] == 0
    ]
    images = {}
    for row in chosen:
        arrays = files.load_npz(row["folder"] / "samples.npz")
        order = np.argsort(arrays["labels"][:SHOWN_IMAGES], kind="stable")
        images[row["cell"]] = arrays["images"][order]
    return images


def _introduction(config, rows) -> str:
    sample, first = config.sample, rows[0]
    steps = ", ".join(map(str, config.experiment.num_steps or (sample.num_steps,)))
    return (
        f"{len(rows)} cells of {first['num_images']:,} images ({config.data.name}, "
        f"sampled by {sample.solver.upper()} in {steps} steps, seed {sample.seed}) "
        f"from one network, scored with {first['features']} features against the "
        f"{first['split']} split."
    )


def _facts(config, rows) -> dict[str, object]:
    made_by = rows[0]["made_by"]
    checkpoint, reference = made_by["samples"]["checkpoint"], made_by["reference"]
    versions = ", ".join(f"{k} {v}" for k, v in config_lib.versions().items())
    return {
        "command": f"python -m eval.reproduce {shlex.join(sys.argv[1:])}",
        "config": f"digest {config_lib.digest(config)}",
        "checkpoint": f"step {checkpoint['step']}, digest {checkpoint['digest']}",
        "features": f"{made_by['features']['name']}, weights sha256 "
        f"{made_by['features']['weights'] or 'none'}",
        "reference": f"{rows[0]['split']} split, {reference.get('num_images', '?')} "
        f"images, digest {reference.get('images') or reference['moments']}",
        "seeds": f"training {config.seed}, probing {config.probe.seed}, sampling "
        f"{config.sample.seed}, metrics {config.eval.seed}",
        "versions": versions,
    }
