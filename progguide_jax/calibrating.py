"""Scores of real images against real images, clean and under noise: what a score of a
model means, for each feature extractor."""

import os

import jax
import numpy as np
from etils import epath

from progguide_jax import data, evaluation, features, tabulation
from progguide_jax.data import corruption, image_sets
from progguide_jax.metrics import suite
from progguide_jax.plots import style, tradeoff
from progguide_jax.runtime import files, sharding, validation, writers

_OTHER = {"train": "test", "test": "train"}


def calibrate(config, workdir: str) -> str:
    """Write WORKDIR/FOLDER/{table.md, rows.json, SCORE.png}; the path of the table.

    Every extractor of experiment.features scores the images of the split that is not
    the reference's (eval.split), with Gaussian noise of each standard deviation of
    experiment.noise (grey levels) on them. What is done is found again.
    """
    check(config)
    other = _OTHER[config.eval.split]
    settings = {k: v for k, v in config.data.items() if k != "flip"}
    dataset = data.load(**settings, split=other)
    count = config.eval.num_images or len(dataset.labels)
    if count > len(dataset.labels):
        raise ValueError(
            f"eval.num_images is {count} and the {other} split has "
            f"{len(dataset.labels)} images: score fewer"
        )
    images, labels = dataset.images[:count], dataset.labels[:count]
    for name in config.experiment.features:  # before hours of work: are they there?
        features.load(name, sharding.mesh(), config.eval.weights)
    rows = []
    for name in writers.progress(config.experiment.features, "extractors"):
        cell = _cell(config, name)
        judge = evaluation.load_judge(cell, workdir)
        for std in config.experiment.noise:
            noisy = corruption.add_noise(images, std, config.eval.seed)
            digest = image_sets.digest(noisy, labels)
            made_by = {"split": other, "noise": std, "images": digest}
            title = f"{config.data.name}_{other}_noise{std:g}"
            samples = evaluation.Samples(title, noisy, labels, made_by)
            row, _ = evaluation.score(cell, workdir, judge, samples)
            rows.append({"features": name, "noise": std} | row)
    folder = epath.Path(workdir) / config.experiment.folder
    if jax.process_index() == 0:
        _publish(config, folder, rows)
    return os.fspath(folder / "table.md")


def check(config) -> None:
    """ValueError if config is no calibration that can be run here."""
    validation.validate(config)
    if not config.experiment.features or not config.experiment.noise:
        raise ValueError("experiment.features and experiment.noise must not be empty")
    for name in config.experiment.features:
        if not _cell(config, name).eval.metrics:
            raise ValueError(
                f"eval.metrics holds nothing that {name} can give: add fd, or leave "
                f"{name} out of experiment.features"
            )
    if config.data.name == "two_gaussians":
        raise ValueError("a calibration takes images: two_gaussians has floats")


def _cell(config, name: str):
    """The config for one extractor, without metrics for which it has no logits, or not
    those of the data's classes."""
    cell = config.copy_and_resolve_references()
    cell.eval.features = name
    if not name.startswith("resnet"):
        drop = ("accuracy",) if name == "inception" else ("accuracy", "is")
        cell.eval.metrics = tuple(m for m in cell.eval.metrics if m not in drop)
    return cell


def _publish(config, folder, rows) -> None:
    files.save_json(folder / "rows.json", rows)
    parts = []
    for metric in config.eval.metrics:
        for score in suite.scores_of(metric):
            curves = _curves(rows, score)
            if curves:
                figure = tradeoff.calibration(curves, suite.better(score))
                files.write(folder / f"{score}.png", style.png(figure))
                parts.append(_table(curves))
    files.write(folder / "table.md", "\n\n".join(parts).encode() + b"\n")


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


def _table(curves) -> str:
    """Markdown: a line per score, a column per noise level."""
    noise = next(iter(curves.values()))["noise"]
    lines = [["noise (grey levels)", *(f"{std:g}" for std in noise)]]
    lines.append([":--", *["--:"] * len(noise)])
    for name, curve in curves.items():
        pairs = zip(curve["value"], curve["error"], strict=True)
        lines.append([name, *(tabulation.plus_minus(*pair) for pair in pairs)])
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
