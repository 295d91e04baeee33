"""The files of CIFAR-10 that need no library: official batches, their tarballs, npz."""

import gzip
import hashlib
import tarfile
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from etils import epath

from progguide_jax.data import python_batch, reading
from progguide_jax.formats import npz, regular

# of files as they are published: bytes, md5 (torchvision and the page of the data set)
PUBLISHED = {
    "cifar-10-binary.tar.gz": (170_052_171, "c32a1d4ab5d03f1284b67883e8d87530"),
    "cifar-10-python.tar.gz": (170_498_071, "c58f30108f718f92721af3b95e74349a"),
    "data_batch_1": (31_035_704, "c99cafc152244af753f735de768cd75f"),
    "data_batch_2": (31_035_320, "d4bba439e000b95fd0a9bffe97cbabec"),
    "data_batch_3": (31_035_999, "54ebc095f3ab1f0389bbae665268c751"),
    "data_batch_4": (31_035_696, "634d18415352ddfa80567beed471001a"),
    "data_batch_5": (31_035_623, "482c414d41f54cd18b22e5b47cb7c3cb"),
    "test_batch": (31_035_526, "40351d587109b95175f43aff81a1287e"),
}
_MOST = 2**28  # bytes that an archive may unpack to; the official ones have 186 MB
_NPZ = "an npz with x_train, y_train, x_test, y_test"


class Part(NamedTuple):
    """One file's share of a split, before its checks."""

    where: str
    images: np.ndarray  # [n,32,32,3]
    labels: np.ndarray  # [n]


class Layout(NamedTuple):
    """One of the two official forms: five train files and one test file."""

    folder: str
    tarball: str
    suffix: str
    parse: Callable[[bytes, str], Part]

    def files(self, split: str) -> list[str]:
        stems = ["test_batch"]
        if split == "train":
            stems = [f"data_batch_{i}" for i in range(1, 6)]
        return [stem + self.suffix for stem in stems]


def read_folder(folder: epath.Path, layout: Layout, split: str) -> list[Part]:
    parts = []
    for name in layout.files(split):
        path = folder / name
        if not path.exists():
            raise FileNotFoundError(
                f"{path} is missing: the {split} split of CIFAR-10 is "
                f"{', '.join(layout.files(split))}"
            )
        if not regular.is_file(path):
            raise ValueError(f"{path} is no file: put the batch of this name there")
        data = path.read_bytes()
        _check_published(name, len(data), lambda: hashlib.md5(data), str(path))  # noqa: B023
        parts.append(layout.parse(data, str(path)))
    return parts


def read_tarball(path: epath.Path, layout: Layout, split: str) -> list[Part]:
    members = {f"{layout.folder}/{name}": None for name in layout.files(split)}
    if not regular.is_file(path):
        raise ValueError(f"{path} is no file: put the archive there")
    with path.open("rb") as file:
        size = file.seek(0, 2)
        file.seek(0)
        _check_published(
            path.name, size, lambda: hashlib.file_digest(file, "md5"), str(path)
        )
        file.seek(0)
        try:
            unpacked = _Unpacked(file)
            with tarfile.open(fileobj=unpacked, mode="r|") as tar:
                for member in tar:
                    if member.name in members and member.isreg():
                        if member.size > _MOST:
                            raise ValueError(f"{member.size} bytes in {member.name}")
                        members[member.name] = tar.extractfile(member).read()
            while unpacked.read(1 << 20):  # the checksum stands behind all of it
                pass
        except Exception as error:  # damaged archives fail in any way
            raise ValueError(
                f"{path}: damaged archive ({reading.reason(error)}): fetch it again"
            ) from error
    parts = []
    for name, data in members.items():
        if data is None:
            raise ValueError(f"{path}: holds no {name}: fetch it again")
        parts.append(layout.parse(data, f"{path}:{name}"))
    return parts


class _Unpacked:
    """What a gzip archive holds, which is no more than _MOST bytes."""

    def __init__(self, file):
        self._file, self._left = gzip.GzipFile(fileobj=file), _MOST

    def read(self, size: int) -> bytes:
        data = self._file.read(size)
        self._left -= len(data)
        if self._left < 0:
            raise ValueError(f"it unpacks to more than {_MOST} bytes")
        return data


def _check_published(name: str, size: int, digest: Callable, where: str) -> None:
    """ValueError at a file of a published name and size that has another md5."""
    expected_size, expected = PUBLISHED.get(name, (-1, ""))
    if size == expected_size and digest().hexdigest() != expected:
        raise ValueError(
            f"{where}: it has the size of the published file and another md5, so it is "
            "damaged: fetch it again, or rename it if that is what you want"
        )


def read_npz(path: epath.Path, split: str) -> list[Part]:
    """Keras layout: x_train [N,32,32,3], y_train [N] or [N,1], x_test, y_test."""
    names = (f"x_{split}", f"y_{split}")
    images, labels, there = reading.arrays(path, [names], _NPZ)
    if images is None or labels is None:
        raise ValueError(f"{path}: not {_NPZ}, it holds {npz.listed(there)}")
    return [Part(str(path), images, reading.column(labels))]


def _parse_binary(data: bytes, where: str) -> Part:
    """Records of one label byte and 3072 pixel bytes (red, green, blue planes)."""
    record = 1 + 3 * 32 * 32
    if len(data) % record:
        raise ValueError(
            f"{where}: {len(data)} bytes, expected a multiple of {record} (1 label, "
            "3072 pixels): truncated or not a CIFAR-10 binary batch; fetch it again"
        )
    table = np.frombuffer(data, np.uint8).reshape(-1, record)
    images = table[:, 1:].reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)
    return Part(where, images, table[:, 0])


def _parse_python(data: bytes, where: str) -> Part:
    """A pickled dict: data uint8 [n,3072] (red, green, blue planes), labels [n]."""
    try:
        pixels, labels = python_batch.read(data)
        images = pixels.reshape(len(pixels), 3, 32, 32).transpose(0, 2, 3, 1)
    except ValueError as error:
        raise ValueError(
            f"{where}: not an official python batch, a dict of data uint8 [n, 3072] "
            f"and labels [n] ({reading.reason(error)}): fetch it again"
        ) from error
    return Part(where, images, labels)


LAYOUTS = (
    Layout("cifar-10-batches-bin", "cifar-10-binary.tar.gz", ".bin", _parse_binary),
    Layout("cifar-10-batches-py", "cifar-10-python.tar.gz", "", _parse_python),
)
