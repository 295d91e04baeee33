"""Cells side by side: what is compared, how far apart it is, and its page."""

import csv
import pathlib

import numpy as np
import pytest

from configs import base
from configs.paper import table2
from progguide_jax.experiments import reproduce
from progguide_jax.experiments.compare import report, run
from progguide_jax.runtime import files


@pytest.fixture
def config(tiny):
    """A comparison as eval.compare makes it of the config of a workdir."""
    run.begin(tiny, ["experiment.schedules"], base.get_config())
    tiny.experiment.schedules = ("static", "linear")
    tiny.experiment.compare.num_images = 40
    tiny.eval.features, tiny.eval.batch_size = "pixels", 16
    tiny.eval.metrics, tiny.eval.reference_features = ("fd", "diversity"), 96
    return tiny


def compared(config, workdir):
    return run.run(config, workdir, run.prepare(config, workdir))


def test_a_comparison_of_any_config_begins_with_its_guidance():
    """Of an experiment's too, whose own cells are not those of the comparison."""
    config = table2.get_config("smoke")
    run.begin(config, ["experiment.schedules"], base.get_config())
    assert (config.experiment.name, config.experiment.folder) == ("compare", "compare")
    assert config.experiment.scales == (config.guidance.scale,)
    assert config.experiment.schedules == table2.SCHEDULES  # these were typed
    assert config.experiment.sweep.axes == base.get_config().experiment.sweep.axes
    reproduce.check(config, ["experiment.schedules"])


def test_rows_are_the_images_and_scores_of_the_cells(config, sampled, workdir_copy):
    """Against the files that sampling and scoring leave."""
    workdir = workdir_copy(sampled)
    rows = compared(config, workdir)
    assert [row["cell"] for row in rows] == ["static_w1", "linear_w1"]
    images = [
        files.load_npz(row["folder"] / "samples.npz")["images"].astype(float)
        for row in rows
    ]
    assert rows[0]["moved"] == 0 and rows[0]["differences"] == {}
    moved = np.abs(images[1] - images[0]).mean()
    assert rows[1]["moved"] == pytest.approx(moved) and moved > 0
    scored = [files.load_json(p) for p in pathlib.Path(workdir).glob("scores/*")
              if p.suffix == ".json"]  # fmt: skip
    values = {s["samples"]: s["scores"]["fd_pixels"]["value"] for s in scored}
    first, second = (values[row["folder"].name] for row in rows)
    difference = rows[1]["differences"]["fd_pixels"]
    assert difference["value"] == pytest.approx(second - first)
    path = pathlib.Path(report.report(config, workdir, rows))
    assert path.read_text().count("data:image/png;base64,") == 1
    (_, line) = csv.DictReader((path.parent / "table.csv").read_text().splitlines())
    assert float(line["images_moved"]) == pytest.approx(moved)
    assert float(line["fd_pixels_minus_first"]) == pytest.approx(second - first)


def test_a_curve_that_is_missing_is_said_first(config, trained, caplog):
    config.experiment.schedules = ("static", "gn")
    config.eval.features = "inception"  # whose weights are not here
    with pytest.raises(FileNotFoundError, match="no gradient-norm curve at .*probe.py"):
        run.prepare(config, trained)
    assert not caplog.text


def test_without_weights_there_is_a_picture(config, sampled, workdir_copy, caplog):
    config.eval.features, config.eval.metrics = "inception", ("fd",)
    workdir = workdir_copy(sampled)
    assert run.prepare(config, workdir) is None
    assert "no scores, pictures only: no weights" in caplog.text
    rows = run.run(config, workdir, None)
    path = pathlib.Path(report.report(config, workdir, rows))
    assert (path.parent / "figures" / "samples.png").stat().st_size > 500
    config.eval.weights = "/nowhere.pth"  # named, and not there
    with pytest.raises(OSError, match="nowhere.pth"):
        run.prepare(config, workdir)


@pytest.mark.parametrize(
    "values, given, words",
    [
        (
            {},
            ["guidance.schedule"],
            "takes guidance.schedule from experiment.schedules",
        ),
        ({}, ["sample.num_images"], "from experiment.compare.num_images"),
        ({}, ["train.num_steps"], "does not read train.num_steps"),
        ({"experiment.compare.num_images": 0}, [], "num_images holds 0: use 1 or more"),
        ({"sample.name": "mine"}, [], "must be empty"),
        ({"experiment.schedules": ()}, [], "must not be empty"),
    ],
)
def test_what_a_comparison_does_not_take(config, values, given, words):
    config.update_from_flattened_dict(values)
    with pytest.raises(ValueError, match=words):
        reproduce.check(config, given)
