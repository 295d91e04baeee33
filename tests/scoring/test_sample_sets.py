"""Samples to be scored: named, found, read with the data that they were made from."""

import json
import pathlib
import shutil

import numpy as np
import pytest

from progguide_jax.runtime import files
from progguide_jax.scoring import evaluation, sample_sets


@pytest.fixture
def workdir(sampled, workdir_copy):
    return pathlib.Path(workdir_copy(sampled))


@pytest.fixture
def name(workdir):
    (path,) = workdir.glob("samples/*")
    return path.name


@pytest.fixture
def config(tiny):
    tiny.eval.features, tiny.eval.metrics = "pixels", ("fd", "diversity")
    tiny.eval.batch_size = 16
    return tiny


def locate(config, workdir, what):
    config.eval.samples = what
    return sample_sets.locate(config, str(workdir))


def test_a_name_its_beginning_and_a_path_are_one_folder(config, workdir, name):
    folder = workdir / "samples" / name
    assert locate(config, workdir, "") == str(folder)
    assert locate(config, workdir, name) == str(folder)
    assert locate(config, workdir, name[:6]) == str(folder)
    assert locate(config, workdir, str(folder)) == str(folder)
    # a name that others begin with is itself
    for other in ("a", "ab"):
        shutil.copytree(folder, workdir / "samples" / other)
    assert locate(config, workdir, "a") == str(workdir / "samples" / "a")


def test_what_is_not_there_lists_what_is(config, workdir, name):
    def fails(what, *words):
        with pytest.raises(FileNotFoundError) as error:
            locate(config, workdir, what)
        assert all(word in str(error.value) for word in words), error.value
        assert "\n" not in str(error.value)

    fails(
        "gn",
        "'gn'",
        "no folder begins with it",
        f"--config.eval.samples to one of {name}",
    )
    for i in range(12):
        shutil.copytree(workdir / "samples" / name, workdir / "samples" / f"x{i:02}")
    fails("x", "several folders begin", "x00, x01", "and 4 more")
    config.sample.seed = 1  # no samples by these flags
    fails("", "run sample.py with the same flags", name)
    shutil.rmtree(workdir / "samples")
    fails("", "run sample.py", "an .npz or a folder of PNGs")


def test_samples_are_scored_without_the_flags_that_made_them(
    config, workdir, name, capsys
):
    """Neither the flags of sampling nor those of the data: the same row as with all."""
    evaluation.evaluate(config, str(workdir))
    expected = json.loads(capsys.readouterr().out)
    config.guidance.schedule, config.guidance.scale = "linear", 7.0
    config.sample.num_steps, config.sample.seed = 3, 5
    config.data.num_examples = 60  # another reference, were it made of these
    config.eval.samples = name
    evaluation.evaluate(config, str(workdir))
    assert json.loads(capsys.readouterr().out) == expected
    assert len(list((workdir / "scores").glob("*.json"))) == 1  # found again


def test_the_data_of_others_are_those_of_the_config(config, workdir, name, tmp_path):
    np.savez(tmp_path / "other.npz", arr_0=np.zeros((4, 8, 8, 3), np.uint8))
    found = sample_sets.with_data_of(config, str(tmp_path / "other.npz"))
    assert found.data == config.data
    record = workdir / "samples" / name / "samples.json"
    text = files.load_json(record)
    data = text["made_by"]["system"]["data"]
    data |= {"num_classes": 5, "of_another_version": 1}
    record.write_text(json.dumps(text))
    found = sample_sets.with_data_of(config, str(record.parent))
    assert found.data.num_classes == 5 and config.data.num_classes == 3
    assert found.data.dir == config.data.dir
    # samples.json of the first version, with its flat keys
    old = {"data": {"name": "synthetic", "num_classes": 7, "mean": 0.125, "std": 0.25}}
    record.write_text(json.dumps(old))
    found = sample_sets.with_data_of(config, str(record.parent))
    assert found.data.num_classes == 7


@pytest.mark.parametrize(
    "record",
    [
        [],
        {"made_by": {}},
        {"made_by": []},
        {"made_by": {"system": "unet"}},
        {"made_by": {"system": {"data": None}}},
        {"versions": {}},
    ],
)
def test_a_record_that_does_not_name_its_data_is_one_line(
    config, workdir, name, record
):
    folder = workdir / "samples" / name
    (folder / "samples.json").write_text(json.dumps(record))
    config.eval.samples = name
    with pytest.raises(ValueError, match=f"{name} does not say which data") as error:
        evaluation.evaluate(config, str(workdir))
    assert "\n" not in str(error.value)
    # what the line says to do
    (folder / "samples.json").unlink()
    config.eval.samples = str(folder / "samples.npz")
    evaluation.evaluate(config, str(workdir))
