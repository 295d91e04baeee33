"""Samples that the first edition drew are found, named as today's, and not drawn again.

`old_record` is what the first edition wrote for `tiny`: its keys, by hand.
"""

import json
import logging
import pathlib

import numpy as np
import pytest

from progguide_jax.engine import first_edition, sampling
from progguide_jax.runtime import files
from progguide_jax.scoring import evaluation, sample_sets
from progguide_jax.systems import drawing

OLD = "static_w1_ddim4_seed0_step6_0a1b2c"


def old_record(checkpoint):
    return {
        "data": {
            "name": "synthetic", "image_size": 8, "channels": 3, "num_classes": 3,
            "num_examples": 96, "mean": 0.125, "std": 0.25,
        },
        "noise": {
            "name": "ddpm_linear", "num_timesteps": 20, "beta_start": 0.00085,
            "beta_end": 0.012,
        },
        "model": {
            "name": "unet", "base_channels": 8, "channel_mult": [1],
            "num_res_blocks": 1, "attention_resolutions": [], "dropout": 0.1,
            "label_dim": 16, "dtype": "float32", "sigma_skip": False, "width": 256,
            "depth": 4,
        },
        "sample": {
            "solver": "ddim", "eta": 0.0, "variance": "small", "clip_x0": True,
            "seed": 0,
        },
        "checkpoint": checkpoint,
        "omega": [1.0, 1.0, 1.0, 1.0],
        "timesteps": [15, 10, 5, 0],
        "guidance": {
            "schedule": "static", "scale": 1.0, "normalize": "default", "power": 4.0,
            "t_min": 0, "t_max": 19, "table": "", "curve": "",
        },
        "versions": {"jax": "0.10.2"},
    }  # fmt: skip


class Old:
    """A workdir whose only samples, those of `tiny`, are of the first edition."""

    def __init__(self, workdir, name=OLD):
        self.workdir = workdir
        (made,) = pathlib.Path(workdir, "samples").iterdir()
        self.today = made.name
        self.record = files.load_json(made / "samples.json")
        self.folder = made.rename(made.with_name(name))
        self.old = old_record(self.record["made_by"]["system"]["checkpoint"])
        self.write()

    def write(self, **changes):
        files.save_json(self.folder / "samples.json", self.old | changes)

    def folders(self):
        return sorted(p.name for p in pathlib.Path(self.workdir, "samples").iterdir())


@pytest.fixture
def old(sampled, workdir_copy):
    return Old(workdir_copy(sampled))


@pytest.fixture
def undrawn(monkeypatch):
    """Nothing can be drawn."""
    monkeypatch.setattr(drawing, "draw", None)


def test_its_samples_are_taken_over(tiny, old, sampled, undrawn):
    folder = sampling.generate(tiny, old.workdir)
    assert old.folders() == [folder.name] == [old.today]
    record = files.load_json(folder / "samples.json")
    assert record["made_by"] == old.record["made_by"]
    assert record["versions"] == {"jax": "0.10.2"}
    assert record["config"]["model"]["unet"]["base_channels"] == 8
    before = (folder / "samples.json").stat().mtime
    assert sampling.generate(tiny, old.workdir) == folder  # as any other
    assert (folder / "samples.json").stat().mtime == before


def test_more_images_are_added_to_its_own(tiny, old, monkeypatch):
    draw, calls = drawing.draw, []

    def counted(system, spec, index, *args, **kwargs):
        calls.append(int(index[0]))
        return draw(system, spec, index, *args, **kwargs)

    monkeypatch.setattr(drawing, "draw", counted)
    tiny.sample.num_images = 50
    sampling.generate(tiny, old.workdir)
    assert calls == [40]


def test_a_folder_with_todays_name_and_an_old_record_is_taken_over(tiny, old, undrawn):
    """Left by a kill between the two."""
    old.folder.rename(old.folder.with_name(old.today))
    folder = sampling.generate(tiny, old.workdir)
    assert files.load_json(folder / "samples.json")["made_by"] == old.record["made_by"]


def test_a_name_that_was_given_stays(tiny, sampled, workdir_copy, undrawn):
    old = Old(workdir_copy(sampled), "mine")
    tiny.sample.name, tiny.guidance.scale = "mine", 2.0
    with pytest.raises(ValueError, match="samples of another spec.omega.null: give"):
        sampling.generate(tiny, old.workdir)
    assert "made_by" not in files.load_json(old.folder / "samples.json")
    del old.old["timesteps"]
    old.write()
    with pytest.raises(ValueError, match="does not say .*'timesteps'.*name=NAME") as e:
        sampling.generate(tiny, old.workdir)
    assert "\n" not in str(e.value)
    old.write(timesteps=[15, 10, 5, 0])
    tiny.guidance.scale = 1.0
    assert sampling.generate(tiny, old.workdir).name == "mine"
    assert old.folders() == ["mine"]


@pytest.mark.parametrize(
    "changes",
    [
        {"omega": [1.0, 1.0, 1.0, 1.5]},
        {"timesteps": [16, 10, 5, 0]},
        {"checkpoint": {"step": 6, "digest": "0" * 16}},
        {"sample": {"seed": 1}},
        {"sample": {"eta": 0.5}},
        {"sample": {"clip_x0": False}},
        {"sample": {"solver": "ddpm"}},
        {"noise": {"name": "cosine"}},
        {"data": {"num_classes": 4}},
        {"model": {"sigma_skip": True}},
    ],
)
def test_samples_made_otherwise_are_others(old, changes):
    asked = old.record["made_by"]
    assert first_edition.same(old.old, asked)
    for key, value in changes.items():
        if key in ("sample", "noise", "data", "model"):
            value = old.old[key] | value
        assert not first_edition.same(old.old | {key: value}, asked)


@pytest.mark.parametrize(
    "changes",
    [
        {"sample": {"variance": "large"}},
        {"noise": {"beta_end": 0.5}},
        {"data": {"mean": 2.0}},
        {"model": {"dropout": 0.5, "width": 3}},
    ],
)
def test_what_did_nothing_is_not_compared(old, changes):
    for key, value in changes.items():
        record = old.old | {key: old.old[key] | value}
        assert first_edition.same(record, old.record["made_by"])


@pytest.mark.parametrize("lacking", ["timesteps", "model", "checkpoint", "omega"])
def test_a_record_that_says_too_little_is_left_with_one_line(
    tiny, old, caplog, lacking
):
    del old.old[lacking]
    old.write()
    tiny.sample.num_images = 16
    with caplog.at_level(logging.WARNING):
        sampling.generate(tiny, old.workdir)
    (line,) = [r.getMessage() for r in caplog.records if OLD in r.getMessage()]
    assert "is left as it is and the samples are made again" in line
    assert lacking in line and "\n" not in line
    assert old.folders() == sorted([OLD, old.today])
    assert files.load_json(old.folder / "samples.json") == old.old


def test_the_row_of_its_scores_is_taken_over_too(tiny, old, capsys, monkeypatch):
    tiny.eval.features, tiny.eval.metrics = "pixels", ("fd", "diversity")
    tiny.eval.batch_size = 16
    tiny.eval.samples = OLD
    evaluation.evaluate(tiny, old.workdir)
    row = json.loads(capsys.readouterr().out)
    scores = pathlib.Path(old.workdir, "scores")
    (path,) = scores.glob("*.json")
    record = files.load_json(path)  # without a checksum, as the first edition wrote it
    images = record["made_by"]["samples"]["images"]
    record["made_by"]["samples"] = old.old | {"num_steps": 4, "images": images}
    path.write_text(json.dumps(record))
    monkeypatch.setattr(evaluation, "_computed", None)  # nothing can be scored
    tiny.eval.samples = ""
    evaluation.evaluate(tiny, old.workdir)
    now = json.loads(capsys.readouterr().out)
    assert now == row | {"samples": old.today}
    (path,) = scores.glob("*.json")
    made_by = json.loads(path.read_text())["made_by"]
    assert path.name.startswith(old.today)
    assert made_by["samples"]["system"] == old.record["made_by"]["system"]
    assert made_by["versions"] == record["made_by"]["versions"]
    with np.load(path.with_suffix(".npz")) as terms:
        assert set(terms) == set(row["scores"])
    evaluation.evaluate(tiny, old.workdir)
    with pytest.raises(TypeError):  # scored otherwise
        tiny.eval.seed = 1
        evaluation.evaluate(tiny, old.workdir)


def test_a_beginning_means_todays_where_both_have_the_same(tiny, old, sampled):
    place = pathlib.Path(old.workdir, "samples")
    (made,) = pathlib.Path(sampled, "samples").iterdir()
    today = place / old.today
    today.mkdir()
    for name in ("samples.json", "samples.npz"):
        (today / name).write_bytes((made / name).read_bytes())
    tiny.eval.samples = "static_w1"
    assert sample_sets.locate(tiny, old.workdir) == str(today)
    tiny.eval.samples = OLD
    assert sample_sets.locate(tiny, old.workdir) == str(old.folder)
    old.write(omega=[1.0, 1.0, 1.0, 1.5])
    tiny.eval.samples = "static_w1"
    with pytest.raises(FileNotFoundError, match="several folders begin"):
        sample_sets.locate(tiny, old.workdir)
