"""What a finished run on two Gaussians left in its workdir, read for the report."""

import json
import os
import shlex
from typing import Any, NamedTuple

import numpy as np
from etils import epath

from progguide_jax.experiments import cells as cells_lib
from progguide_jax.runtime import files


class Finished(NamedTuple):
    """cells, rows: (schedule, scale) -> arrays and JSON."""

    cells: dict[tuple[str, float], dict[str, np.ndarray]]
    rows: dict[tuple[str, float], dict[str, Any]]
    data: dict[str, np.ndarray]
    closeness: dict[str, np.ndarray]
    curve: dict[str, np.ndarray]
    metrics: list[dict]
    environment: dict
    checkpoint: dict


def read(config, workdir: str) -> Finished:
    """All of it; a ValueError names what is missing and the command that makes it.

    ValueError if two results come from different checkpoints.
    """
    top = epath.Path(workdir)
    folder = top / config.experiment.folder

    def existing(path):
        if not path.exists():
            raise ValueError(f"{path} is missing: {_advice(workdir)}")
        return path

    def load(path):
        return files.load_npz(existing(path))

    cells, rows = {}, {}
    for cell in cells_lib.product(config):
        key = cell.config.guidance.schedule, cell.config.guidance.scale
        path = folder / "cells" / cell.name
        record = existing(path.with_name(f"{path.name}.json"))
        rows[key] = files.load_json(record)
        cells[key] = load(path.with_name(f"{path.name}.npz"))
    metrics = existing(top / "metrics.jsonl").read_text().splitlines()
    closeness = files.load_json(existing(folder / "closeness.json"))
    curve = files.load_json(existing(top / "probe" / "curve.json"))
    made_by = [row["made_by"] for row in rows.values()]
    made_by.append(closeness["made_by"])
    # a curve of an earlier version has these entries beside the rest
    made_by.append(curve["made_by"] if "made_by" in curve else curve)
    return Finished(
        cells,
        rows,
        load(folder / "data.npz"),
        load(folder / "closeness.npz"),
        load(top / "probe" / "curve.npz"),
        [json.loads(line) for line in metrics if line],
        files.load_json(existing(top / "env.json")),
        _one_checkpoint(top, made_by),
    )


def _advice(workdir) -> str:
    return (
        "run python -m eval.reproduce --config=... "
        f"--workdir={shlex.quote(os.fspath(workdir))}"
    )


def _one_checkpoint(workdir, made_by: list[dict]) -> dict:
    """{"step", "digest"}, after a check that everything was made with the same."""
    used = [_checkpoint(made) for made in made_by]
    found = {(checkpoint["step"], checkpoint["digest"]) for checkpoint in used}
    if len(found) > 1:
        steps = ", ".join(f"step {step} ({digest})" for step, digest in sorted(found))
        raise ValueError(
            f"the results in {workdir} come from several checkpoints, {steps}: "
            f"{_advice(workdir)}"
        )
    return used[0]


def _checkpoint(made_by: dict) -> dict:
    """That of a cell, of the closeness or of a curve."""
    for model in ("system", "network"):
        if model in made_by:
            return made_by[model]["checkpoint"]
    return made_by["checkpoint"]
