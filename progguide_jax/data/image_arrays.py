"""An .npz of images and labels as a data set."""

import hashlib

import numpy as np
from etils import epath

from progguide_jax.data import batches, reading
from progguide_jax.formats import npz, regular

# (images, labels) of a file with one split
PAIRS = (("images", "labels"), ("arr_0", "arr_1"))
_FORM = (
    "an .npz with x_train, y_train and perhaps x_test, y_test, or with images, labels"
)


def load(file: str, split: str) -> batches.Dataset:
    """A split of an .npz: images uint8 [N,S,S,C], C = 1 or 3, labels int32 [N].

    It holds images [N,S,S,C] or [N,S,S] as x_train and x_test with labels y_train and
    y_test, or as one of PAIRS, which has split train only. Labels are whole numbers
    [N] or [N,1]; those of train are 0 ... K-1, each at least once. ValueError or
    FileNotFoundError, one line.
    """
    path = _path(file)
    images, labels = _read(path, split)
    num_classes = _num_classes(path, labels if split == "train" else _read_labels(path))
    if labels.min() < 0 or labels.max() >= num_classes:
        raise ValueError(
            f"{path}: labels of {split} are {labels.min()} ... {labels.max()}, those "
            f"of train 0 ... {num_classes - 1}: both must number the same classes"
        )
    return batches.Dataset(
        np.ascontiguousarray(images), labels.astype(np.int32), num_classes
    )


def digest(file: str, split: str) -> str:
    """16 hex digits over the checksums that an .npz has of its arrays of a split. The
    same wherever it lies and however it is compressed."""
    path = _path(file)
    try:
        with path.open("rb") as file:
            content = npz.Npz(file)
    except ValueError as error:
        raise ValueError(f"{path}: not {_FORM} ({error})") from error
    for pair in _pairs(split):
        if pair[0] in content.names:
            text = repr([content.checksum(name) for name in pair])
            return hashlib.sha256(text.encode()).hexdigest()[:16]
    raise _absent(path, split, content.names)


def _path(file: str) -> epath.Path:
    path = epath.Path(file).expanduser()
    if not file:
        raise ValueError(f"data.dir is empty: set config.data.dir to {_FORM}")
    if not path.exists():
        raise FileNotFoundError(
            f"data.dir: {path} does not exist: set config.data.dir to {_FORM}"
        )
    if path.is_dir():
        raise ValueError(
            f"data.dir: {path} is a folder: set config.data.dir to {_FORM}, or "
            "config.data.name=folder"
        )
    if not regular.is_file(path):
        raise ValueError(f"data.dir: {path} is no file: set config.data.dir to {_FORM}")
    return path


def _pairs(split: str) -> list[tuple[str, str]]:
    return [(f"x_{split}", f"y_{split}"), *(PAIRS if split == "train" else ())]


def _absent(path: epath.Path, split: str, names: list[str]) -> ValueError:
    other = "" if split == "train" else ", or set config.eval.split=train"
    return ValueError(
        f"{path}: has no split {split}, it holds {npz.listed(names)}: name "
        f"the arrays x_{split} and y_{split}{other}"
    )


def _read(path: epath.Path, split: str) -> tuple[np.ndarray, np.ndarray]:
    """(images [N,S,S,C], labels [N]), checked for all but the labels' values."""
    images, labels, names = reading.arrays(path, _pairs(split), _FORM)
    if images is None:
        raise _absent(path, split, names)
    form = f"{images.dtype} {list(images.shape)}"
    images = images[..., None] if images.ndim == 3 else images
    square = images.ndim == 4 and images.shape[1] == images.shape[2]
    if images.dtype != np.uint8 or not square or images.shape[3] not in (1, 3):
        raise ValueError(
            f"{path}: images are {form}, expected square ones, uint8 [N,S,S,3], "
            "[N,S,S,1] or [N,S,S]: convert them, or set config.data.name=folder for "
            "pictures of any size"
        )
    if not images.size:
        raise ValueError(f"{path}: holds no images: they are {form}")
    labels = np.zeros(0) if labels is None else reading.column(labels)
    if labels.dtype.kind not in "iu" or labels.shape != images.shape[:1]:
        raise ValueError(
            f"{path}: labels are {labels.dtype} {list(labels.shape)}, expected "
            f"integers [{len(images)}], one for each image"
        )
    return images, labels


def _read_labels(path: epath.Path) -> np.ndarray:
    """Those of train, which say what the classes are."""
    labels, _, names = reading.arrays(path, [("y_train", "")], _FORM)
    if labels is None:
        raise _absent(path, "train", names)
    return reading.column(labels)


def _num_classes(path: epath.Path, labels: np.ndarray) -> int:
    found = np.unique(labels)
    if not np.array_equal(found, np.arange(len(found))):
        listed = ", ".join(map(str, found[:8])) + (", ..." if len(found) > 8 else "")
        raise ValueError(
            f"{path}: labels of train are {listed}: number the {len(found)} classes 0 "
            f"... {len(found) - 1}, each with an image"
        )
    return len(found)
