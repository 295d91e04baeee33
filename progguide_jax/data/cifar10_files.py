"""The files of CIFAR-10 that need no library: official batches, their tarballs, npz."""

import io
import pickle
import tarfile
import zlib
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from etils import epath

from progguide_jax.data import reading

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
        parts.append(layout.parse(path.read_bytes(), str(path)))
    return parts


def read_tarball(path: epath.Path, layout: Layout, split: str) -> list[Part]:
    members = {f"{layout.folder}/{name}": None for name in layout.files(split)}
    try:
        with path.open("rb") as file, tarfile.open(fileobj=file, mode="r|gz") as tar:
            for member in tar:
                if member.name in members:
                    members[member.name] = tar.extractfile(member).read()
    except (tarfile.TarError, EOFError, zlib.error) as error:
        raise ValueError(
            f"{path}: damaged archive ({reading.reason(error)}): fetch it again"
        ) from error
    parts = []
    for name, data in members.items():
        if data is None:
            raise ValueError(f"{path}: holds no {name}: fetch it again")
        parts.append(layout.parse(data, f"{path}:{name}"))
    return parts


def read_npz(path: epath.Path, split: str) -> list[Part]:
    """Keras layout: x_train [N,32,32,3], y_train [N] or [N,1], x_test, y_test."""
    names = (f"x_{split}", f"y_{split}")
    images, labels, there = reading.arrays(path, [names], _NPZ)
    if images is None or labels is None:
        raise ValueError(f"{path}: not {_NPZ}, it holds {', '.join(there)}")
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
        content = _BatchUnpickler(io.BytesIO(data), encoding="bytes").load()
        content = {
            k.decode() if isinstance(k, bytes) else k: content[k] for k in content
        }
        pixels, labels = content["data"], content["labels"]
        images = pixels.reshape(len(pixels), 3, 32, 32).transpose(0, 2, 3, 1)
        return Part(where, images, np.asarray(labels))
    except Exception as error:  # damaged pickles fail in any way
        raise ValueError(
            f"{where}: not an official python batch, a dict of data uint8 [n, 3072] "
            f"and labels [n] ({reading.reason(error)}): fetch it again"
        ) from error


def _dtype(name: str | bytes, *_) -> np.dtype:
    # A pickle passes align and copy as 0 and 1, which numpy 2.4 warns of.
    return np.dtype(name.decode() if isinstance(name, bytes) else name, copy=True)


class _BatchUnpickler(pickle.Unpickler):
    """Builds arrays and builtin containers; every other global is refused."""

    _ALLOWED = {
        "numpy.ndarray": np.ndarray,
        "numpy.dtype": _dtype,
        "multiarray._reconstruct": np.empty(0).__reduce__()[0],
        # How Python 3 writes arrays at protocol 5 and bytes at protocol 2.
        "numeric._frombuffer": lambda data, dtype, shape, order: np.frombuffer(
            data, dtype
        ).reshape(shape, order=order),
        "_codecs.encode": lambda text, _: text.encode("latin1"),
    }

    def find_class(self, module: str, name: str):
        for core in ("numpy.core.", "numpy._core."):  # before and since numpy 2
            module = module.removeprefix(core)
        if f"{module}.{name}" not in self._ALLOWED:
            raise pickle.UnpicklingError(f"it asks for {module}.{name}")
        return self._ALLOWED[f"{module}.{name}"]


LAYOUTS = (
    Layout("cifar-10-batches-bin", "cifar-10-binary.tar.gz", ".bin", _parse_binary),
    Layout("cifar-10-batches-py", "cifar-10-python.tar.gz", "", _parse_python),
)
