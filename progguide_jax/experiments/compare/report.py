"""The cells of a comparison as a page: their images, how far apart they are, scores."""

import os
import sys

import jax
import numpy as np
from etils import epath

from progguide_jax.experiments import document
from progguide_jax.plots import strips, style
from progguide_jax.runtime import config as config_lib

SHOWN_IMAGES = 10  # of each cell


def report(config, workdir: str, rows: list[dict]) -> str:
    """Write WORKDIR/FOLDER/{report.html, table.md, table.csv, figures/samples.png}; the
    path of the first. rows: what `run.run` returns."""
    folder = epath.Path(workdir) / config.experiment.folder
    if jax.process_index() != 0:
        return os.fspath(folder / "report.html")
    images = {row["cell"]: row["images"][_order(row)] for row in rows}
    picture = document.Picture(
        "samples",
        style.png(strips.strips(images)),
        "The same starting noise and label in each column.",
    )
    count = len(rows[0]["images"])
    words = document.Text(
        f"{count:,} images a cell, differences to {rows[0]['cell']}: of images, the "
        "mean over pixels in grey levels; of scores, paired image by image, with one "
        "standard error."
    )
    table, folders = _table(rows), {r["cell"]: os.fspath(r["folder"]) for r in rows}
    made = document.Report(
        f"{len(rows)} cells side by side",
        [words],
        [
            document.Section("Samples", [picture]),
            document.Section("Differences", [table]),
            document.Section("Folders", [document.Facts(folders)]),
            document.Section(
                "Provenance",
                [document.provenance(config, sys.argv, config_lib.versions(), {})],
            ),
        ],
        [words, table],
        [_flat(row) for row in rows],
    )
    return document.write(made, folder)


def _order(row: dict) -> np.ndarray:
    """The first images by their labels."""
    return np.argsort(row["labels"][:SHOWN_IMAGES], kind="stable")


def _table(rows: list[dict]) -> document.Table:
    names = list(rows[0]["scores"])
    groups = [("images moved", [""])] + [(n, ["score", "− first"]) for n in names]
    lines = []
    for row in rows:
        entries = [document.Entry(f"{row['moved']:.2f}")]
        for name in names:
            score, change = row["scores"][name], row["differences"].get(name)
            entries.append(document.Entry(_number(score)))
            text = _number(change, signed=True) if change else document.NONE
            entries.append(document.Entry(text))
        lines.append(document.Line([row["cell"]], entries))
    return document.Table(["cell"], groups, lines)


def _number(estimate: dict, signed: bool = False) -> str:
    return document.plus_minus(estimate["value"], estimate["error"], signed)


def _flat(row: dict) -> dict:
    flat = {"cell": row["cell"], "images_moved": row["moved"]}
    for kind, suffix in (("scores", ""), ("differences", "_minus_first")):
        for name, estimate in row[kind].items():
            flat[f"{name}{suffix}"] = estimate["value"]
            flat[f"{name}{suffix}_error"] = estimate["error"]
    return flat
