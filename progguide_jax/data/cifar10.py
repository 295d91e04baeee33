"""CIFAR-10 (Krizhevsky 2009) as uint8 arrays, the same from every official form."""

import hashlib
import importlib.util
import io
import logging
import pickle
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np
import tqdm
from etils import epath

from progguide_jax.data import batches

NUM_CLASSES = 10
SIZES = {"train": 50_000, "test": 10_000}
_SHAPE = (32, 32, 3)
_REMEDY = (
    "set config.data.dir to a folder with the official batches (cifar-10-batches-bin "
    "or cifar-10-batches-py, or their .tar.gz) or cifar10.npz, or let TFDS prepare it: "
    "pip install 'progguide-jax[train]'"
)
_log = logging.getLogger(__name__)


class _Part(NamedTuple):
    """One file's share of a split, before its checks."""

    where: str
    images: np.ndarray  # [n,32,32,3]
    labels: np.ndarray  # [n]


class _Layout(NamedTuple):
    """One of the two official forms: five train files and one test file."""

    folder: str
    tarball: str
    suffix: str
    parse: Callable[[bytes, str], _Part]

    def files(self, split: str) -> list[str]:
        stems = ["test_batch"]
        if split == "train":
            stems = [f"data_batch_{i}" for i in range(1, 6)]
        return [stem + self.suffix for stem in stems]


def load(
    data_dir: str = "", split: str = "train", expected: int | None = None
) -> batches.Dataset:
    """A split in official order: images uint8 [N,32,32,3], labels int32 [N].

    data_dir: a folder (local or gs://) with the official binary or python batches,
    their .tar.gz, cifar10.npz (x_train, y_train, x_test, y_test) or a prepared TFDS
    data set, looked for in this order; or such a .npz or .tar.gz itself; "" is the
    TFDS default. A set that TFDS has not prepared is prepared where tensorflow is
    installed. expected: the N to insist on. FileNotFoundError if there is no data set;
    ValueError naming the file if it is damaged.
    """
    if split not in SIZES:
        raise ValueError(f"CIFAR-10 has the splits train and test, not {split!r}")
    parts = [_checked(part) for part in _find(data_dir, split)]
    images = np.concatenate([part.images for part in parts])
    labels = np.concatenate([part.labels for part in parts])
    if expected is not None and len(labels) != expected:
        counts = ", ".join(f"{part.where}: {len(part.labels)}" for part in parts)
        raise ValueError(
            f"CIFAR-10 {split} split holds {len(labels)} images, expected {expected} "
            f"({counts}): fetch the data again, or set config.data.num_examples"
        )
    digest = hashlib.sha256(images).hexdigest()[:16]
    _log.info(
        "cifar10 %s: %d images, sha256 %s, %s",
        split,
        len(labels),
        digest,
        parts[0].where,
    )
    return batches.Dataset(images, labels, NUM_CLASSES)


def _find(data_dir: str, split: str) -> list[_Part]:
    """Looks the forms up in the order that `load` documents."""
    if not data_dir:
        return _tfds("", split)
    place = epath.Path(data_dir).expanduser()
    if not place.exists():
        raise FileNotFoundError(f"no CIFAR-10: {place} does not exist: {_REMEDY}")
    if not place.is_dir():
        if place.suffix == ".npz":
            return _npz(place, split)
        for layout in _LAYOUTS:
            if place.name == layout.tarball:
                return _tarball(place, layout, split)
        raise ValueError(f"{place} is not a form of CIFAR-10: {_REMEDY}")
    for layout in _LAYOUTS:
        names = layout.files("train") + layout.files("test")
        for folder in (place, place / layout.folder):
            if any((folder / name).exists() for name in names):
                return _folder(folder, layout, split)
    if (place / "cifar10.npz").exists():
        return _npz(place / "cifar10.npz", split)
    for layout in _LAYOUTS:
        if (place / layout.tarball).exists():
            return _tarball(place / layout.tarball, layout, split)
    return _tfds(str(place), split)


def _checked(part: _Part) -> _Part:
    """The part with labels as int32, if its arrays are what CIFAR-10 must hold."""
    where, images, labels = part
    if images.dtype != np.uint8 or images.ndim != 4 or images.shape[1:] != _SHAPE:
        raise ValueError(
            f"{where}: images are {images.dtype} {list(images.shape)}, expected uint8 "
            "[N, 32, 32, 3]"
        )
    if labels.dtype.kind not in "iu" or labels.shape != images.shape[:1]:
        raise ValueError(
            f"{where}: labels are {labels.dtype} {list(labels.shape)}, expected "
            f"integers [{len(images)}], one for each image"
        )
    if not len(images):
        raise ValueError(f"{where}: holds no images: fetch it again")
    wrong = np.flatnonzero((labels < 0) | (labels >= NUM_CLASSES))
    if len(wrong):
        raise ValueError(
            f"{where}: label {labels[wrong[0]]} at image {wrong[0]}, expected 0 to "
            f"{NUM_CLASSES - 1}: the file is damaged or not CIFAR-10"
        )
    # The official files hold colour planes: without a copy, gathers would be slow.
    return _Part(where, np.ascontiguousarray(images), labels.astype(np.int32))


def _folder(folder: epath.Path, layout: _Layout, split: str) -> list[_Part]:
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


def _tarball(path: epath.Path, layout: _Layout, split: str) -> list[_Part]:
    members = {f"{layout.folder}/{name}": None for name in layout.files(split)}
    try:
        with path.open("rb") as file, tarfile.open(fileobj=file, mode="r|gz") as tar:
            for member in tar:
                if member.name in members:
                    members[member.name] = tar.extractfile(member).read()
    except (tarfile.TarError, EOFError, zlib.error) as error:
        raise ValueError(
            f"{path}: damaged archive ({_line(error)}): fetch it again"
        ) from error
    parts = []
    for name, data in members.items():
        if data is None:
            raise ValueError(f"{path}: holds no {name}: fetch it again")
        parts.append(layout.parse(data, f"{path}:{name}"))
    return parts


def _parse_binary(data: bytes, where: str) -> _Part:
    """Records of one label byte and 3072 pixel bytes (red, green, blue planes)."""
    record = 1 + 3 * 32 * 32
    if len(data) % record:
        raise ValueError(
            f"{where}: {len(data)} bytes, expected a multiple of {record} (1 label, "
            "3072 pixels): truncated or not a CIFAR-10 binary batch; fetch it again"
        )
    table = np.frombuffer(data, np.uint8).reshape(-1, record)
    images = table[:, 1:].reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)
    return _Part(where, images, table[:, 0])


def _parse_python(data: bytes, where: str) -> _Part:
    """A pickled dict: data uint8 [n,3072] (red, green, blue planes), labels [n]."""
    try:
        content = _BatchUnpickler(io.BytesIO(data), encoding="bytes").load()
        content = {
            k.decode() if isinstance(k, bytes) else k: content[k] for k in content
        }
        pixels, labels = content["data"], content["labels"]
        images = pixels.reshape(len(pixels), 3, 32, 32).transpose(0, 2, 3, 1)
        return _Part(where, images, np.asarray(labels))
    except Exception as error:  # damaged pickles fail in any way
        raise ValueError(
            f"{where}: not an official python batch, a dict of data uint8 [n, 3072] "
            f"and labels [n] ({_line(error)}): fetch it again"
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


def _npz(path: epath.Path, split: str) -> list[_Part]:
    """Keras layout: x_train [N,32,32,3], y_train [N] or [N,1], x_test, y_test."""
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as arrays:
            images, labels = arrays[f"x_{split}"], arrays[f"y_{split}"]
    except (zipfile.BadZipFile, zlib.error, EOFError, KeyError, ValueError) as error:
        raise ValueError(
            f"{path}: not an npz with x_train, y_train, x_test, y_test "
            f"({_line(error)}): fetch it again"
        ) from error
    if labels.ndim == 2 and labels.shape[1] == 1:
        labels = labels[:, 0]
    return [_Part(str(path), images, labels)]


def _tfds(data_dir: str, split: str) -> list[_Part]:
    """A prepared data set: array_record without tensorflow, tfrecord with it."""
    import tensorflow_datasets as tfds

    if data_dir and (epath.Path(data_dir) / "dataset_info.json").exists():
        builder = tfds.builder_from_directory(data_dir)
    else:
        builder = tfds.builder("cifar10", data_dir=data_dir or None)
    if not (epath.Path(builder.data_path) / "dataset_info.json").exists():
        _prepare(builder, data_dir)
    where = str(builder.data_path)
    if builder.info.file_format.value == "tfrecord" and not _has_tensorflow():
        raise ValueError(
            f"{where}: stored as tfrecord, which only tensorflow reads: "
            "pip install 'progguide-jax[train]'"
        )
    try:
        total = builder.info.splits[split].num_examples
        examples = _tfds_examples(builder, split)
        examples = tqdm.tqdm(examples, "CIFAR-10 from TFDS", total, False, delay=2)
        rows = [(e["id"], e["image"], e["label"]) for e in examples]
        ids, images, labels = (np.stack(column) for column in zip(*rows, strict=True))
    except Exception as error:  # array_record and tensorflow have their own kinds
        raise ValueError(
            f"{where}: cannot read the TFDS data set ({_line(error)}); if it is "
            "damaged, delete the folder and prepare it again"
        ) from error
    order = np.argsort(ids)  # train_00000, ...: TFDS stores them shuffled
    return [_Part(where, images[order], labels[order])]


def _tfds_examples(builder, split: str) -> Iterator[dict]:
    # Blocks, because one by one takes twice as long.
    try:
        source = builder.as_data_source(split)
    except NotImplementedError:  # not a format with random access
        dataset = builder.as_dataset(split=split, batch_size=1000)
        for block in dataset.as_numpy_iterator():
            for i in range(len(block["id"])):
                yield {key: values[i] for key, values in block.items()}
        return
    for start in range(0, len(source), 1000):
        yield from source.__getitems__(range(start, min(start + 1000, len(source))))


def _prepare(builder, data_dir: str) -> None:
    """Lets TFDS download CIFAR-10 and write it as array_record."""
    where = data_dir or builder.data_path
    if not _has_tensorflow():
        raise FileNotFoundError(f"no CIFAR-10 in {where}: {_REMEDY}")
    _log.warning(
        "TFDS downloads CIFAR-10 (170 MB) to %s; config.data.dir can name another copy",
        builder.data_path,
    )
    try:
        builder.download_and_prepare(file_format="array_record")
    except Exception as error:  # network, disk, checksum
        raise OSError(
            f"TFDS could not prepare CIFAR-10 in {where} ({_line(error)}): set "
            "config.data.dir to a folder with the official batches or cifar10.npz"
        ) from error


def _has_tensorflow() -> bool:
    return importlib.util.find_spec("tensorflow") is not None


def _line(error: Exception) -> str:
    """The kind and first line of an error that another library raised."""
    first = (str(error).splitlines() or [""])[0]
    return f"{type(error).__name__}: {first[:200]}" if first else type(error).__name__


_LAYOUTS = (
    _Layout("cifar-10-batches-bin", "cifar-10-binary.tar.gz", ".bin", _parse_binary),
    _Layout("cifar-10-batches-py", "cifar-10-python.tar.gz", "", _parse_python),
)
