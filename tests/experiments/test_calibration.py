"""Real images against real ones: more noise is a larger distance."""

import json
import pathlib

import numpy as np
import pytest

from progguide_jax.experiments.calibration import report, run
from progguide_jax.systems import build


@pytest.fixture
def config(tiny):
    tiny.data.num_examples = 240
    tiny.eval.features, tiny.eval.batch_size = "pixels", 16
    tiny.eval.metrics = ("fd", "precision_recall", "is", "accuracy")
    tiny.experiment.name, tiny.experiment.folder = "calibration", "real"
    section = tiny.experiment.calibration
    section.features, section.noise = ("pixels",), (0.0, 20.0, 60.0)
    return tiny


def test_scores_of_real_images_under_noise(config, tmp_path):
    page = report.report(config, str(tmp_path), run.run(config, str(tmp_path)))
    folder = tmp_path / "real"
    assert pathlib.Path(page) == folder / "report.html"
    rows = json.loads((folder / "rows.json").read_text())
    assert [row["noise"] for row in rows] == [0, 20, 60]
    fd = [row["scores"]["fd_pixels"]["value"] for row in rows]
    assert fd[0] < fd[1] < fd[2]
    # white noise adds its variance to each eigenvalue, less what clipping takes away
    x = build.load_data(config).images.reshape(240, -1) / 127.5 - 1
    values = np.linalg.eigvalsh(np.cov(x, rowvar=False)).clip(0)
    added = np.sum((np.sqrt(values + (60 / 127.5) ** 2) - np.sqrt(values)) ** 2)
    assert 0.5 * added < fd[2] - fd[0] < 1.1 * added
    # no logits: these two metrics are left out, not made up
    assert set(rows[0]["scores"]) == {"fd_pixels", "precision_pixels", "recall_pixels"}
    figures = {"fd.png", "precision.png", "recall.png"}
    tables = {"table.md", "table.csv", "rows.json", "report.html"}
    assert {p.name for p in folder.iterdir()} == figures | tables
    lines = (folder / "table.md").read_text().splitlines()
    assert lines[0] == "| noise (grey levels) | 0 | 20 | 60 |"
    scores = sorted((tmp_path / "scores").iterdir())
    before = [path.stat().st_mtime_ns for path in scores]
    run.run(config, str(tmp_path))
    assert [path.stat().st_mtime_ns for path in scores] == before


def test_rows_say_that_they_are_real_images(config, tmp_path):
    config.experiment.calibration.noise = (0.0,)
    config.eval.num_images = 50
    (row,) = run.run(config, str(tmp_path))
    assert row["made_by"]["samples"]["split"] == "test" and row["num_images"] == 50
    assert row["split"] == "train"


@pytest.mark.parametrize(
    "key, value, words",
    [
        ("noise", (), "must not be empty"),
        ("noise", (-1.0,), "noise holds -1.0: use grey levels"),
        ("features", ("inceptio",), "did you mean 'inception'"),
    ],
)
def test_a_calibration_that_cannot_run_is_refused(config, key, value, words):
    config.experiment.calibration[key] = value
    with pytest.raises(ValueError, match=words):
        run.check(config)
