"""The rows of a sweep as a report: tables, figures, statements, provenance."""

import json
import os
import sys
from collections.abc import Mapping, Sequence

import jax
import numpy as np
from etils import epath

from progguide_jax.experiments import document
from progguide_jax.experiments.sweep import pairing, run, score_table, statements
from progguide_jax.metrics import suite
from progguide_jax.plots import cell_scores, strips, style, tradeoff
from progguide_jax.runtime import config as config_lib
from progguide_jax.runtime import files

SHOWN_IMAGES = 10  # of each cell, one a class where there are ten


def report(config, workdir: str, rows: list[dict]) -> str:
    """Write WORKDIR/FOLDER/{report.html, table.md, table.csv, rows.jsonl, figures/*};
    the path of the first.

    rows: what `run.run` returns; FOLDER is experiment.folder. The same rows give the
    same files.
    """
    folder = epath.Path(workdir) / config.experiment.folder
    if jax.process_index() != 0:
        return os.fspath(folder / "report.html")
    lines = [
        json.dumps({k: v for k, v in row.items() if k not in ("terms", "folder")})
        for row in rows
    ]
    files.write(folder / "rows.jsonl", ("\n".join(lines) + "\n").encode())
    x, y = axes(config, rows)
    better = {name: suite.better(s) for name, s in _scores(config, rows).items()}
    paper, pictures = run.paper(config), _pictures(config, rows, x, y, better)
    made = document.Report(
        f"{config.experiment.folder}: {y} and {x}",
        [document.Text(_introduction(config, rows))],
        [
            *sections(rows, paper, {name: better[name] for name in (y, x)}, pictures),
            document.Section("Provenance", [_facts(config, rows)]),
        ],
        tables(rows, paper, better, x, y),
        score_table.flat(rows),
    )
    return document.write(made, folder)


def sections(
    rows: Sequence[Mapping],
    paper: Mapping[str, Mapping[str, float]],
    scores: Mapping[str, str],
    pictures: Mapping[str, document.Picture],
) -> list[document.Section]:
    """What the page says of some scores {name: "lower" or "higher"}; pictures by their
    headings."""
    return [
        document.Section("Scores", score_table.blocks(rows, paper, scores)),
        *(document.Section(words, [picture]) for words, picture in pictures.items()),
        *_orderings(rows, scores),
        *_pareto(rows, scores),
    ]


def tables(
    rows: Sequence[Mapping],
    paper: Mapping[str, Mapping[str, float]],
    scores: Mapping[str, str],
    x: str,
    y: str,
) -> list[document.Table | document.Text]:
    """table.md: every score, and the Pareto set of x and y where they make one."""
    blocks = score_table.blocks(rows, paper, scores)
    if (scores[x], scores[y]) == ("higher", "lower"):
        kept = statements.pareto(rows, y, x)
        cells = ", ".join(f"{cell} ({share:.0%})" for cell, share in kept.items())
        blocks.append(
            document.Text(
                f"Pareto set of {y} and {x}, with the probability that a cell stays in "
                f"it when every score moves by its error: {cells}."
            )
        )
    return blocks


def axes(config, rows) -> tuple[str, str]:
    """Public names of the scores of experiment.sweep.axes: x, y."""
    x, y = config.experiment.sweep.axes
    label = rows[0]["features"]
    return suite.public_name(x, label), suite.public_name(y, label)


def _scores(config, rows) -> dict[str, str]:
    """{public name: score} of all that eval.metrics gives."""
    every = [s for metric in config.eval.metrics for s in suite.scores_of(metric)]
    return {suite.public_name(s, rows[0]["features"]): s for s in every}


def _orderings(rows, scores: dict[str, str]) -> list[document.Section]:
    blocks = []
    for name, better in scores.items():
        if lines := statements.orderings(rows, name):
            blocks.append(document.Text(f"{name} ({better} is better)"))
            blocks.append(document.Items(lines))
    heading = f"Differences to {pairing.against(rows)}"
    return [document.Section(heading, blocks)] if blocks else []


def _pareto(rows, scores: dict[str, str]) -> list[document.Section]:
    """The set of the first score to be low and the first to be high, if there are."""
    first = {better: name for name, better in reversed(scores.items())}
    if len(first) < 2:
        return []
    words = document.Text(
        f"Cells that no other beats in both {first['lower']} (lower is better) and "
        f"{first['higher']} (higher is better), with the probability that they stay so "
        "when every score moves by its error:"
    )
    found = statements.pareto(rows, first["lower"], first["higher"])
    lines = document.Items([f"{cell}: {share:.0%}" for cell, share in found.items()])
    return [document.Section("Pareto set", [words, lines])]


def _pictures(config, rows, x: str, y: str, better) -> dict[str, document.Picture]:
    """{heading: picture}."""
    if pairing.is_free(rows):
        drawn = _of_cells(rows, x, y, better)
    elif any(row["interval"] for row in rows):
        drawn = _of_intervals(rows, y, better, config.noise.num_timesteps)
    elif config.experiment.sweep.num_steps:
        drawn = _of_steps(rows, x, y, better)
    else:
        drawn = _of_scales(rows, x, y, better)
    count = f"{rows[0]['num_images']:,} images a cell; bars are one standard error."
    pictures = {
        heading: document.Picture(name, style.png(figure), f"{words} {count}".strip())
        for name, (heading, figure, words) in drawn.items()
    }
    images = style.png(strips.strips(_images(rows)))
    words = "The same starting noise and label in each column."
    if pairing.is_free(rows):  # a cell may have another seed
        words = "The same images by number in each column."
    return pictures | {"Samples": document.Picture("samples", images, words)}


def _of_cells(rows, x: str, y: str, better) -> dict[str, tuple]:
    """Cells of experiment.cells, by name."""
    words = f"Differences are to {rows[0]['cell']}, paired image by image."
    return {
        f"cells_{score}": (
            f"{score} of each cell",
            cell_scores.cells(rows, score, better[score]),
            words,
        )
        for score in (y, x)
    }


def _of_intervals(rows, y: str, better, num_timesteps: int) -> dict[str, tuple]:
    """Figure 7b, one for each scale."""
    drawn = {}
    for row in rows:
        if row["interval"] is None:
            same = [r for r in rows if r["scale"] == row["scale"]]
            figure = cell_scores.intervals(same, y, row, better[y], num_timesteps)
            heading = f"No guidance on one interval, ω = {row['scale']:g}"
            words = "The weight is 0 on the interval and ω elsewhere."
            drawn[f"intervals_w{row['scale']:g}"] = heading, figure, words
    return drawn


def _of_steps(rows, x: str, y: str, better) -> dict[str, tuple]:
    """Table 1 as lines."""
    return {
        f"steps_{score}": (
            f"{score} against the number of steps",
            cell_scores.steps(rows, score, better[score]),
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
    """{cell: its first images by label}: of free cells all, else those of the largest
    scale and steps."""
    scale = max(row["scale"] for row in rows)
    num_steps = max(row["num_steps"] for row in rows)
    chosen = [
        row
        for row in rows
        if (row["scale"], row["num_steps"]) == (scale, num_steps)
        or row["scale"] == 0
        or row["variant"] is not None
    ]
    images = {}
    for row in chosen:
        arrays = files.load_npz(row["folder"] / "samples.npz")
        order = np.argsort(arrays["labels"][:SHOWN_IMAGES], kind="stable")
        images[row["cell"]] = arrays["images"][order]
    return images


def _introduction(config, rows) -> str:
    sample, first = config.sample, rows[0]
    if pairing.is_free(rows):
        how = "each sampled as its name says"
    else:
        steps = ", ".join(dict.fromkeys(str(row["num_steps"]) for row in rows))
        how = f"sampled by {sample.solver.upper()} in {steps} steps"
    return (
        f"{len(rows)} cells of {first['num_images']:,} images ({config.data.name}, "
        f"{how}, seed {sample.seed}) from one network, scored with {first['features']} "
        f"features against the {first['split']} split."
    )


def _facts(config, rows) -> document.Facts:
    made_by = rows[0]["made_by"]
    checkpoint, reference = (
        made_by["samples"]["system"]["checkpoint"],
        made_by["reference"],
    )
    facts = {
        "checkpoint": f"step {checkpoint['step']}, digest {checkpoint['digest']}",
        "features": f"{made_by['features']['name']}, weights sha256 "
        f"{made_by['features']['weights'] or 'none'}",
        "reference": f"{rows[0]['split']} split, {reference.get('num_images', '?')} "
        f"images, digest {reference.get('images') or reference['moments']}",
        "seeds": f"training {config.seed}, probing {config.probe.seed}, sampling "
        f"{config.sample.seed}, metrics {config.eval.seed}",
    }
    return document.provenance(config, sys.argv, config_lib.versions(), facts)
