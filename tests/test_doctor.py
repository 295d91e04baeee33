"""The doctor says what is there, and what to type for what is missing."""

import importlib.machinery
import importlib.util
import pathlib
import tomllib
from importlib import metadata

import jax
import pytest

from progguide_jax import doctor
from progguide_jax.data import cifar10
from progguide_jax.scoring import extraction

ROOT = pathlib.Path(__file__).resolve().parents[1]


@pytest.fixture
def machine(monkeypatch, tmp_path):
    """A machine without weights or data, whose packages are these: name -> (version,
    requirements)."""
    there = {
        "progguide-jax": ("1", ["jax>=0.8", "numpy", 'tensorboard; extra == "train"',
                                'jax[cuda]>=0.8; extra == "gpu"',
                                'winonly; sys_platform == "win32"']),
        "jax": ("0.9", ['jax-cuda; extra == "cuda"']),
        "numpy": ("2.0", []),
    }  # fmt: skip

    class Found:
        def get_all(self, _):
            return ["train", "gpu"]

    def look_up(name):
        if name not in there:
            raise metadata.PackageNotFoundError(name)
        return there[name]

    monkeypatch.setattr(metadata, "version", lambda name: look_up(name)[0])
    monkeypatch.setattr(metadata, "requires", lambda name: look_up(name)[1])
    monkeypatch.setattr(metadata, "metadata", lambda name: look_up(name) and Found())
    monkeypatch.setattr(cifar10, "prepared", lambda: "")
    for variable in ("PROGGUIDE_WEIGHTS", "TORCH_HOME", "HF_HOME", "XDG_CACHE_HOME"):
        monkeypatch.setenv(variable, str(tmp_path))
    monkeypatch.delenv("HF_HUB_CACHE", raising=False)
    return there


def test_what_is_missing_is_named_with_what_to_type(machine, tmp_path, capsys):
    assert doctor.main() == 0
    lines = capsys.readouterr().out.splitlines()
    assert "packages: all there" in lines
    assert "extra train: lacks tensorboard: type pip install -e '.[train]'" in lines
    assert "extra gpu: lacks jax-cuda: type pip install -e '.[gpu]'" in lines
    assert any(f"{jax.device_count()} x cpu" in line for line in lines)
    assert any("CIFAR-10: TFDS has none: type --config.data.dir=" in x for x in lines)
    (resnet,) = (line for line in lines if line.startswith("weights of resnet56"))
    assert "found none of resnet56-4bfd9763.th in" in resnet
    assert "download one and set --config.eval.weights=FILE" in resnet
    assert sum(line.startswith("weights of ") for line in lines) == (
        len(extraction.NAMES) - 1
    )


def test_what_every_command_needs_is_code_1(machine, capsys):
    machine["jax"] = ("0.7", [])
    del machine["numpy"]
    assert doctor.main() == 1
    assert (
        "packages: lacks jax>=0.8 (there is 0.7), numpy: type pip install -e ."
        in capsys.readouterr().out
    )
    machine.clear()
    assert doctor.main() == 1
    assert "not installed: type pip install -e ." in capsys.readouterr().out


def test_weights_and_data_that_are_there(machine, tmp_path, monkeypatch):
    (tmp_path / "resnet56-4bfd9763.th").write_bytes(b"other bytes")
    monkeypatch.setattr(cifar10, "prepared", lambda: "/here")
    assert list(doctor.data()) == [(True, "CIFAR-10: /here")]
    (resnet,) = (x for _, x in doctor.weights() if "resnet56:" in x)
    assert "sha256" in resnet and "download it again" in resnet


def test_it_takes_no_arguments(capsys):
    assert doctor.main(["--config.data.dir=x"]) == 2
    assert "takes no arguments" in capsys.readouterr().out


def test_a_folder_that_hides_the_package_is_told(monkeypatch, capsys, tmp_path):
    """Of a folder without an __init__.py Python makes a package without a file."""
    (tmp_path / "progguide_jax").mkdir()
    spec = importlib.machinery.PathFinder.find_spec("progguide_jax", [str(tmp_path)])
    monkeypatch.setattr(doctor, "progguide_jax", importlib.util.module_from_spec(spec))
    assert doctor.main() == 1
    assert "type cd progguide_jax, and there pip install" in capsys.readouterr().out


def test_an_editable_install_is_a_line_in_the_path():
    """As setuptools has it: then the package is found before a folder of its name."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    assert project["tool"]["setuptools"]["package-dir"] == {"": "."}
