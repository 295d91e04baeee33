"""The rows of a calibration as a report: a table and a figure for each score."""

import os
import sys

import jax
import numpy as np
from etils import epath

from progguide_jax.experiments import document
from progguide_jax.metrics import suite
from progguide_jax.plots import noise_levels, style
from progguide_jax.runtime import config as config_lib
from progguide_jax.runtime import files

_TITLE = "What a score means: real images against real images"
_CAPTION = "The score of each extractor against the noise; bars are one standard error."


def report(config, workdir: str, rows: list[dict]) -> str:
    """Write WORKDIR/FOLDER/{report.html, table.md, table.csv, rows.json, SCORE.png};
    the path of the first."""
    folder = epath.Path(workdir) / config.experiment.folder
    if jax.process_index() != 0:
        return os.fspath(folder / "report.html")
    files.save_json(folder / "rows.json", rows)
    return document.write(_report(config, rows), folder, figures="")


def _report(config, rows) -> document.Report:
    sections, tables = [], []
    for metric in config.eval.metrics:
        for score in suite.scores_of(metric):
            if curves := _curves(rows, score):
                better = suite.better(score)
                png = style.png(noise_levels.calibration(curves, better))
                table = _table(curves)
                picture = document.Picture(score, png, _CAPTION)
                heading = f"{score} ({better} is better)"
                sections.append(document.Section(heading, [table, picture]))
                tables.append(table)
    sections.append(document.Section("Provenance", [_facts(config, rows)]))
    return document.Report(
        _TITLE, [_introduction(config, rows)], sections, tables, _flat(rows)
    )


def _curves(rows, score: str) -> dict[str, dict[str, np.ndarray]]:
    """{public name: {"noise", "value", "error"} [n]} of the extractors that have it."""
    curves: dict[str, dict] = {}
    for row in rows:
        name = suite.public_name(score, row["features"])
        if name in row["scores"]:
            curve = curves.setdefault(name, {"noise": [], "value": [], "error": []})
            curve["noise"].append(row["noise"])
            for key in ("value", "error"):
                curve[key].append(row["scores"][name][key])
    return {
        name: {k: np.array(v, np.float64) for k, v in curve.items()}
        for name, curve in curves.items()
    }


def _table(curves) -> document.Table:
    """A line per score, a column per noise level."""
    levels = next(iter(curves.values()))["noise"]
    lines = []
    for name, curve in curves.items():
        pairs = zip(curve["value"], curve["error"], strict=True)
        entries = [document.Entry(document.plus_minus(*pair)) for pair in pairs]
        lines.append(document.Line([name], entries))
    groups = [(f"{std:g}", [""]) for std in levels]
    return document.Table(["noise (grey levels)"], groups, lines)


def _introduction(config, rows) -> document.Text:
    first = rows[0]
    return document.Text(
        f"{first['num_images']:,} images of the {first['made_by']['samples']['split']} "
        f"split of {config.data.name} scored against its {first['split']} split, clean "
        "and under Gaussian pixel noise (standard deviation in grey levels of 0 ... "
        "255). At noise 0 stands what a perfect model would score with as many "
        "images; errors are one standard error."
    )


def _flat(rows) -> list[dict]:
    """A line for each score of each extractor at each level of noise."""
    table = []
    for row in rows:
        for name, entry in row["scores"].items():
            about = {k: row[k] for k in ("features", "noise", "num_images", "split")}
            table.append(about | {"score": name} | entry)
    return table


def _facts(config, rows) -> document.Facts:
    weights = {
        made["features"]["name"]: made["features"]["weights"] or "none"
        for made in (row["made_by"] for row in rows)
    }
    facts = {
        f"weights of {name}": f"sha256 {digest}" for name, digest in weights.items()
    }
    facts["seeds"] = f"noise and metrics {config.eval.seed}"
    versions = config_lib.versions()
    return document.provenance(config, sys.argv, versions, facts)
