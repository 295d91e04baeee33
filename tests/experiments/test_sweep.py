"""A sweep: its cells, what a kill costs, its paired differences, its files."""

import csv
import json
import pathlib

import numpy as np
import pytest

from progguide_jax.engine import sampling
from progguide_jax.experiments.sweep import report, run


@pytest.fixture
def config(tiny):
    tiny.eval.features, tiny.eval.batch_size = "pixels", 16
    tiny.eval.metrics, tiny.eval.reference_features = ("fd", "precision_recall"), 96
    tiny.experiment.name, tiny.experiment.folder = "sweep", "table"
    tiny.experiment.schedules = ("static", "linear", "gn_all")
    tiny.experiment.scales = (0.0, 3.0)
    tiny.experiment.sweep.axes = ("recall", "fd")
    return tiny


@pytest.fixture
def workdir(probed, workdir_copy):
    return workdir_copy(probed)


def sweep(config, workdir):
    return run.run(config, workdir, run.prepare(config, workdir))


def changed(workdir):
    """{path: time of the last change} of samples and scores."""
    found = [*pathlib.Path(workdir).glob("samples/*/*")]
    found += pathlib.Path(workdir).glob("scores/*")
    return {str(path): path.stat().st_mtime_ns for path in found}


def test_a_killed_sweep_costs_one_cell_and_a_finished_one_nothing(
    config, workdir, monkeypatch
):
    generate, calls = sampling.generate, []

    def dies(cell, *rest):
        calls.append((cell.guidance.schedule, cell.guidance.scale))
        if len(calls) == 3:
            raise KeyboardInterrupt
        return generate(cell, *rest)

    monkeypatch.setattr(sampling, "generate", dies)
    with pytest.raises(KeyboardInterrupt):
        sweep(config, workdir)
    assert calls == [("static", 0), ("static", 3), ("linear", 3)]
    half = changed(workdir)
    monkeypatch.setattr(sampling, "generate", generate)
    rows = sweep(config, workdir)
    whole = changed(workdir)
    assert {k: v for k, v in whole.items() if k in half} == half
    assert [row["cell"] for row in rows] == [
        "static_w0",
        "static_w3",
        "linear_w3",
        "gn_all_w3",
    ]
    again = sweep(config, workdir)
    assert changed(workdir) == whole
    assert [row["scores"] for row in again] == [row["scores"] for row in rows]


def test_differences_to_static_are_paired_image_by_image(config, workdir):
    rows = {row["cell"]: row for row in sweep(config, workdir)}
    assert rows["static_w0"]["differences"] == rows["static_w3"]["differences"] == {}
    row, static = rows["linear_w3"], rows["static_w3"]
    found = row["differences"]["fd_pixels"]
    fd = [r["scores"]["fd_pixels"] for r in (row, static)]
    assert found["value"] == pytest.approx(fd[0]["value"] - fd[1]["value"])
    # the same images under another weight: far less noise than two independent sets
    assert 0 < found["error"] < 0.5 * np.hypot(fd[0]["error"], fd[1]["error"])
    terms = row["terms"]["fd_pixels"] - static["terms"]["fd_pixels"]
    assert found["error"] == pytest.approx(terms.std(ddof=1) / np.sqrt(40))


def test_cells_of_steps_and_intervals(config, workdir):
    config.experiment.schedules, config.experiment.scales = ("static",), (3.0,)
    config.experiment.sweep.intervals = ((0, 9), (10, 19))
    names = ["static_w3", "neg_perturb_w3_t0-9", "neg_perturb_w3_t10-19"]
    rows = sweep(config, workdir)
    assert [row["cell"] for row in rows] == names
    assert rows[1]["interval"] == [0, 9] and rows[0]["interval"] is None
    images = [np.load(row["folder"] / "samples.npz")["images"] for row in rows]
    assert all(np.any(images[0] != other) for other in images[1:])
    fd = [row["scores"]["fd_pixels"]["value"] for row in rows]
    for k in (1, 2):  # each against static of the same scale
        found = rows[k]["differences"]["fd_pixels"]["value"]
        assert found == pytest.approx(fd[k] - fd[0])
    config.experiment.sweep.num_steps = (2, 4)
    found = [cell.name for cell in run.cells(config)]
    assert found == [f"{name}_s{n}" for n in (2, 4) for name in names]
    with pytest.raises(ValueError, match="intervals with several"):
        run.check(config)


def test_what_a_sweep_leaves(config, workdir):
    config.experiment.sweep.paper = (
        ("static_w3", "fid", 2.5),
        ("linear_w3", "fid", 2.25),
    )
    rows = sweep(config, workdir)
    page = pathlib.Path(report.report(config, workdir, rows))
    folder = pathlib.Path(workdir, "table")
    assert page == folder / "report.html"
    text = page.read_text()
    for words in ("Trade-off", "linear − static", "Pareto set", "step 6", "2.25"):
        assert words in text
    assert "http" not in text.replace("http://www.w3.org", "")
    with (folder / "table.csv").open() as file:
        table = list(csv.DictReader(file))
    assert [line["cell"] for line in table] == [row["cell"] for row in rows]
    for line, row in zip(table, rows, strict=True):
        assert float(line["fd_pixels"]) == row["scores"]["fd_pixels"]["value"]
    lines = (folder / "rows.jsonl").read_text().splitlines()
    assert json.loads(lines[1])["scores"] == rows[1]["scores"]
    assert "2.25" in (folder / "table.md").read_text()
    figures = sorted(path.stem for path in (folder / "figures").iterdir())
    assert figures == [
        "differences_fd_pixels",
        "samples",
        "tradeoff",
    ]
    before = page.read_bytes()
    report.report(config, workdir, sweep(config, workdir))
    assert page.read_bytes() == before


@pytest.mark.parametrize(
    "cells, error, words",
    [
        (("guidance.scale=1", "checkpoint.step=999"), FileNotFoundError, "step 999"),
        (("guidance.scale=1", "guidance.schedule=gn checkpoint.step=4"), ValueError,
         "probed on another checkpoint"),
        (("guidance.scale=1", "guidance.schedule=table guidance.table.file=no.npy"),
         FileNotFoundError, "no.npy"),
    ],
)  # fmt: skip
def test_what_a_cell_lacks_is_told_before_the_first_is_sampled(
    config, workdir, cells, error, words
):
    config.experiment.cells = cells
    run.check(config)
    with pytest.raises(error, match=words):
        sweep(config, workdir)
    assert not pathlib.Path(workdir, "samples").exists()


def test_no_more_images_are_scored_than_sampled(config):
    config.eval.num_images = 4000
    with pytest.raises(ValueError, match="eval.num_images is 4000 .*num_images 40"):
        run.check(config)
    config.eval.num_images = 40
    run.check(config)


@pytest.mark.parametrize(
    "num_timesteps, count, windows",
    [
        (20, 2, ((0, 9), (10, 19))),
        (20, 3, ((0, 5), (6, 12), (13, 19))),  # as equal as they can be
        (3, 3, ((0, 0), (1, 1), (2, 2))),
        (20, 0, ()),
    ],
)
def test_equal_windows_share_all_timesteps(config, num_timesteps, count, windows):
    config.noise.num_timesteps = num_timesteps
    config.experiment.schedules, config.experiment.scales = ("static",), (3.0,)
    config.experiment.sweep.num_intervals = count
    found = [cell.interval for cell in run.cells(config)]
    assert found == [None, *windows]
    config.experiment.sweep.intervals = ((1, 2),)  # one's own
    assert [cell.interval for cell in run.cells(config)] == [None, (1, 2)]


@pytest.mark.parametrize(
    "kind",
    (
        "intervals",
        pytest.param("steps", marks=pytest.mark.slow),
        pytest.param("num_intervals", marks=pytest.mark.slow),
    ),
)
def test_intervals_and_steps_have_figures_of_their_own(config, workdir, kind):
    config.experiment.schedules, config.experiment.scales = ("static",), (3.0,)
    if kind == "steps":
        config.experiment.sweep.num_steps = (2, 4)
    elif kind == "intervals":
        config.experiment.sweep.intervals = ((0, 9), (10, 19))
    else:
        config.experiment.sweep.num_intervals = 2
    report.report(config, workdir, sweep(config, workdir))
    figures = {p.stem for p in pathlib.Path(workdir, "table", "figures").iterdir()}
    expected = {
        "steps": {"steps_fd_pixels", "steps_recall_pixels"},
        "intervals": {"intervals_w3"},
        "num_intervals": {"intervals_w3"},
    }
    assert figures == expected[kind] | {"samples"}


def test_cells_of_any_key_are_compared_with_the_first(config, workdir):
    config.experiment.sweep.axes = ("precision", "fd")
    config.experiment.cells = (
        "guidance.scale=3",
        "guidance.scale=3 sample.solver=ddpm",
        (("guidance.scale", 3.0), ("sample.solver", "ddpm"), ("sample.num_steps", 2)),
    )
    rows = sweep(config, workdir)
    names = ["static_w3_s4", "static_w3_solver=ddpm_s4", "static_w3_solver=ddpm_s2"]
    assert [row["cell"] for row in rows] == names
    assert [row["baseline"] for row in rows] == [None, names[0], names[0]]
    fd = [row["scores"]["fd_pixels"]["value"] for row in rows]
    for k in (1, 2):
        found = rows[k]["differences"]["fd_pixels"]["value"]
        assert found == pytest.approx(fd[k] - fd[0])
    assert len({row["made_by"]["samples"]["images"] for row in rows}) == 3
    page = pathlib.Path(report.report(config, workdir, rows))
    folder = page.parent
    figures = {path.stem for path in (folder / "figures").iterdir()}
    assert figures == {"cells_fd_pixels", "cells_precision_pixels", "samples"}
    text = (folder / "table.md").read_text()
    assert f"differences are to the first cell, {names[0]}." in text
    assert f"{names[2]} − {names[0]} = " in page.read_text()
    lines = [line.split(" | ")[:3] for line in text.splitlines() if "±" in line]
    assert lines[:3] == [["| 3", "4", "–"], ["| 3", "4", "solver=ddpm"],
                         ["| 3", "2", "solver=ddpm"]]  # fmt: skip
    with (folder / "table.csv").open() as file:
        table = list(csv.DictReader(file))
    assert float(table[1]["fd_pixels_minus_first"]) == pytest.approx(fd[1] - fd[0])


@pytest.mark.parametrize(
    "key, value, words",
    [
        ("experiment.schedules", (), "must not be empty"),
        ("experiment.schedules", ("static", "static"), "two cells have the name"),
        (
            "experiment.sweep.axes",
            ("is", "fd"),
            "axes holds 'is'.*use two of fd, precision",
        ),
        ("experiment.sweep.axes", ("fd", "fd"), "axes is .*name two scores"),
        ("experiment.sweep.intervals", (5, 6), "use pairs 0 <= t_min <= t_max"),
        ("experiment.sweep.paper", (5, 6), "use .cell, score, printed number."),
        ("experiment.folder", "samples", "name a folder of its own"),
        ("sample.name", "mine", "leave it empty"),
        ("eval.samples", "other.npz", "eval.samples is set"),
        ("eval.metrics", ("fd", "kd"), "kd needs 1000 images.*num_images has 40"),
        ("experiment.sweep.num_steps", (40,), "num_steps holds 40: use 1 ... 20"),
        (
            "experiment.sweep.num_intervals",
            21,
            "holds 21: use 1 ... 20, which is noise",
        ),
        ("experiment.sweep.intervals", ((5, 2),), "use pairs 0 <= t_min <= t_max"),
    ],
)
def test_a_sweep_that_cannot_end_is_refused_at_once(config, key, value, words):
    config.update_from_flattened_dict({key: value})
    with pytest.raises(ValueError, match=words):
        run.check(config)


def test_scale_zero_is_static_whatever_comes_first(config, workdir):
    config.experiment.schedules = ("linear", "static")
    rows = sweep(config, workdir)
    assert [row["cell"] for row in rows] == ["static_w0", "linear_w3", "static_w3"]
    assert rows[1]["differences"] and not rows[0]["differences"]
    report.report(config, workdir, rows)


def test_rows_of_a_smaller_sweep_outlive_a_larger_one(config, workdir):
    """Samples grow; the first of them are the same and so is their row."""
    config.experiment.schedules, config.experiment.scales = ("static",), (3.0,)
    config.sample.num_images = 24
    sweep(config, workdir)
    small = changed(workdir)
    config.sample.num_images = 40
    sweep(config, workdir)
    config.sample.num_images = 24
    (row,) = sweep(config, workdir)
    assert row["num_images"] == 24
    later = changed(workdir)
    assert all(later[path] == small[path] for path in small if "scores" in path)
