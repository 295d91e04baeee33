"""Damaged files and mistyped commands: an error of one line, or the right result.

Each reader gets a small good file with a few bytes changed, cut, repeated or made
extreme. What has a checksum may never be read as something else.
"""

import gzip
import io
import json
import pathlib
import pickle
import random
import tarfile
import time

import numpy as np
import pytest
from absl import flags
from etils import epath
from PIL import Image

from configs import base
from progguide_jax.data import (
    cifar10,
    cifar10_files,
    image_arrays,
    image_folder,
    image_sets,
)
from progguide_jax.pretrained import readers
from progguide_jax.runtime import config as config_lib
from progguide_jax.runtime import files, parsing
from progguide_jax.scoring import statistics
from progguide_jax.systems import validation

GOLDEN = pathlib.Path(__file__).parent / "golden"
RANDOM = np.random.default_rng(0)
IMAGES = RANDOM.integers(0, 256, (6, 32, 32, 3), dtype=np.uint8)
LABELS = np.arange(6) % 3
PLANES = IMAGES.transpose(0, 3, 1, 2).reshape(6, 3072)


def npz(**arrays) -> bytes:
    file = io.BytesIO()
    np.savez_compressed(file, **arrays)
    return file.getvalue()


def batch() -> bytes:
    return pickle.dumps({b"data": PLANES, b"labels": LABELS.tolist()}, 2)


def archive() -> bytes:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as tar:
        for name in cifar10_files.LAYOUTS[0].files("test"):
            data = np.column_stack([LABELS.astype(np.uint8), PLANES]).tobytes()
            info = tarfile.TarInfo(f"cifar-10-batches-bin/{name}")
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return gzip.compress(file.getvalue(), mtime=0)


def picture(kind: str) -> bytes:
    file = io.BytesIO()
    Image.fromarray(IMAGES[0]).save(file, kind)
    return file.getvalue()


def moments() -> bytes:
    x = RANDOM.standard_normal((50, 3))
    about = {"features": {"name": "pixels", "weights": None}, "split": "train"}
    about["data"] = {"name": "synthetic"}
    text = np.array(json.dumps(about))
    return npz(mu=x.mean(0), sigma=np.cov(x.T), features=x, about=text)


def read_moments(path):
    found = statistics.read(path)
    return found.statistics.mean, found.statistics.covariance, found.about


# name -> (file name, content, reader, whether every change of its content is seen)
FILES = {
    "npz data set": ("x.npz", npz(images=IMAGES, labels=LABELS),
                     lambda p: image_arrays.load(p, "train"), True),
    "npz of ours": ("x.npz", npz(images=IMAGES, labels=LABELS), files.load_npz, True),
    "npz of samples": ("x.npz", npz(images=IMAGES, labels=LABELS),
                       image_sets.read, True),
    "npz of CIFAR-10": ("x.npz", npz(x_test=IMAGES, y_test=LABELS),
                        lambda p: cifar10.load(p, "test"), True),
    "statistics": ("x.npz", moments(), read_moments, True),
    "archive of CIFAR-10": (cifar10_files.LAYOUTS[0].tarball, archive(),
                            lambda p: cifar10.load(p, "test"), True),
    "python batch": ("x", batch(), lambda p: cifar10_files.LAYOUTS[1].parse(
        pathlib.Path(p).read_bytes(), p), False),
    "picture": ("x.png", picture("png"), lambda p: image_folder.read(
        epath.Path(p), 32, 3), False),
    "jpeg": ("x.jpg", picture("jpeg"), lambda p: image_folder.read(
        epath.Path(p), 32, 3), False),
    "config": ("config.json", config_lib.to_json(base.get_config()).encode(),
               config_lib.load, False),
    **{name: (name, (GOLDEN / name).read_bytes(), readers.read, False)
       for name in ("checkpoint.safetensors", "checkpoint_legacy.pt", "graph_def.pb",
                    "checkpoint_script.pt")},
    "checkpoint_zip.pt": ("x.pt", (GOLDEN / "checkpoint_zip.pt").read_bytes(),
                          readers.read, True),
}  # fmt: skip
EXTREMES = (b"\0", b"\xff" * 4, b"\xff" * 8, b"\x7f" + b"\xff" * 7, b"9" * 30)


def mutated(data: bytes, draw: random.Random) -> bytes:
    """data with one to three changes."""
    data = bytearray(data)
    for _ in range(draw.randint(1, 3)):
        at = draw.randrange(len(data) + 1)
        # the beginning and the end say most of what a file is
        at = draw.choice([at, at, min(at, at % 200), max(0, len(data) - at % 200)])
        length = draw.randint(1, 40)
        match draw.randrange(6):
            case 0 if at < len(data):
                data[at] ^= 1 << draw.randrange(8)
            case 1:
                del data[at:]
            case 2:
                del data[at : at + length]
            case 3:
                data[at : at + length] = draw.randbytes(length)
            case 4:
                extreme = draw.choice(EXTREMES)
                data[at : at + len(extreme)] = extreme
            case 5:
                data[at:at] = data[at : at + length]
    return bytes(data)


def attack(name, tmp_path, count, first=0):
    file, good, read, seen = FILES[name]
    path = tmp_path / file
    path.write_bytes(good)
    right = read(str(path))
    refused = 0
    for seed in range(first, first + count):
        path.write_bytes(mutated(good, random.Random(seed)))
        since = time.process_time()
        try:
            found = read(str(path))
        except (ValueError, OSError) as error:
            refused += 1
            message = str(error)
            assert type(error) is not UnicodeDecodeError, seed
            assert message and "\n" not in message and len(message) < 500, seed
        else:
            assert not seen or same(found, right), seed
        assert time.process_time() - since < 2, seed
    assert refused > count / 4


def same(a, b) -> bool:
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[k], b[k]) for k in a)
    if isinstance(a, tuple | list):
        return len(a) == len(b) and all(map(same, a, b))
    return np.array_equal(a, b)


@pytest.mark.filterwarnings("ignore:invalid escape sequence")
@pytest.mark.parametrize("name", FILES)
def test_a_damaged_file_is_one_line_or_read_right(name, tmp_path):
    attack(name, tmp_path, 200)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:invalid escape sequence")
@pytest.mark.parametrize("name", FILES)
def test_many_damaged_files(name, tmp_path):
    attack(name, tmp_path, 4000, first=200)


VALUES = [
    "", "0", "-1", "1", "2.5", "1e3", "nan", "-inf", "1e999", "9" * 25, "2147483648",
    "4294967295", "None", "true", "null", "()", "(1,2)", "1,2", "(", "[{}]", "{1: 2}",
    "a;b", "guidance.scale=1;", "=", "é", "x" * 700, "a/b", "..", "1_0", "0x10", "'",
]  # fmt: skip


def attack_overrides(monkeypatch, tmp_path, count, first=0):
    """Any key with any value: parsed, and checked as probing does."""
    config = base.get_config()
    config.data.name = "synthetic"
    copy = config.copy_and_resolve_references
    monkeypatch.setattr(parsing, "_config", lambda *_: copy())
    keys = list(config_lib.flat(config.to_dict()))
    for seed in range(first, first + count):
        draw = random.Random(seed)
        words = ["prog", f"--workdir={tmp_path}"]
        for _ in range(draw.randint(1, 2)):
            key, value = draw.choice(keys), draw.choice(VALUES)
            if draw.random() < 0.1:
                key = mutated(key.encode(), draw).decode(errors="replace")
            words.append(f"--config.{key}={value}")
        try:
            found, _, given, _ = parsing.parse(words, parsing.recipe(words))
            validation.check_probing(found, given)
        except (ValueError, OSError, flags.Error) as error:
            assert str(error).strip(), words


def test_mistyped_overrides_are_errors_of_a_kind(monkeypatch, tmp_path):
    attack_overrides(monkeypatch, tmp_path, 60)


@pytest.mark.slow
def test_many_mistyped_overrides(monkeypatch, tmp_path):
    attack_overrides(monkeypatch, tmp_path, 3000, first=60)
