"""Samples to be scored, ours or other people's, as uint8 arrays."""

import hashlib
import io
from typing import NamedTuple

import numpy as np
from etils import epath
from PIL import Image

from progguide_jax.data import image_arrays, reading
from progguide_jax.formats import npz

_FORMS = (
    "a samples.npz (images, labels), a .npz of the ADM suite (arr_0, arr_1) or a "
    "folder of PNGs"
)
_OTHER_SUFFIXES = {".jpg", ".jpeg", ".webp", ".gif", ".bmp", ".tif", ".tiff"}


class ImageSet(NamedTuple):
    """Images on the host; equal pixels and labels have equal digests."""

    images: np.ndarray  # uint8 [N,H,W,3], or [N,H,W,1] if grey
    labels: np.ndarray | None  # int32 [N]
    digest: str  # of `digest`


def read(path: str) -> ImageSet:
    """The images at `path` (local or gs://), in one copy, with labels if it has them.

    path: an npz with images uint8 [N,H,W,3], or [N,H,W,1] if grey, and perhaps labels
    [N], under our names or those of the ADM suite; or a folder: its samples.npz if it
    has one, else its PNGs and those of its sub-folders, 8 bits RGB, in natural order of
    their names (2 before 10). If every image is in a sub-folder, that is its class: the
    number if all names are numbers, else the place in sorted order, as torchvision's
    ImageFolder has it.
    FileNotFoundError, or ValueError naming the file that is at fault.
    """
    place = epath.Path(path).expanduser()
    if not place.exists():
        raise FileNotFoundError(f"no images: {place} does not exist: name {_FORMS}")
    if place.is_dir() and not (place / "samples.npz").exists():
        images, labels = _read_folder(place)
    else:
        file = place / "samples.npz" if place.is_dir() else place
        images, labels = _read_npz(file)
    return ImageSet(images, labels, digest(images, labels))


def digest(images: np.ndarray, labels: np.ndarray | None) -> str:
    """16 hex digits of sha256 over the shape, the pixels in order and the labels."""
    result = hashlib.sha256(f"{images.shape} {labels is None}".encode())
    result.update(np.ascontiguousarray(images))
    if labels is not None:
        result.update(np.ascontiguousarray(labels, np.int32))
    return result.hexdigest()[:16]


def _read_npz(path: epath.Path) -> tuple[np.ndarray, np.ndarray | None]:
    images, labels, found = reading.arrays(path, image_arrays.PAIRS, _FORMS)
    if images is None:
        raise ValueError(
            f"{path}: has neither images nor arr_0, it holds "
            f"{npz.listed(found)}: name the array of images so"
        )
    if images.dtype != np.uint8 or images.ndim != 4 or images.shape[3] not in (1, 3):
        raise ValueError(
            f"{path}: images are {images.dtype} {list(images.shape)}, expected uint8 "
            "[N,H,W,3], or [N,H,W,1] if grey, with values 0 to 255: convert them "
            "before they are scored"
        )
    if not images.size:
        raise ValueError(f"{path}: holds no images: its shape is {list(images.shape)}")
    if labels is not None:
        whole = labels.dtype.kind in "iu"
        if not whole or labels.shape != images.shape[:1] or labels.min() < 0:
            least = f" from {labels.min()} on" if whole and labels.size else ""
            raise ValueError(
                f"{path}: labels are {labels.dtype} {list(labels.shape)}{least}, "
                f"expected integers from 0 on, one for each of {len(images)} images"
            )
        labels = labels.astype(np.int32)
    return np.ascontiguousarray(images), labels


def _read_folder(folder: epath.Path) -> tuple[np.ndarray, np.ndarray | None]:
    flat, folders = _list(folder)
    files, owners = list(flat), []
    for inner in folders:
        inside, deeper = _list(inner)
        if deeper:
            raise ValueError(
                f"{deeper[0]}: a folder two levels below {folder}: only one is read"
            )
        files += inside
        owners += [inner.name] * len(inside)
    if not files:
        raise ValueError(f"{folder}: holds no PNG: name {_FORMS}")
    first = _read_png(files[0])
    images = np.empty((len(files), *first.shape), np.uint8)
    for i, file in enumerate(files):
        image = _read_png(file)
        if image.shape != first.shape:
            sizes = (f"{x.shape[1]} x {x.shape[0]}" for x in (first, image))
            raise ValueError(
                f"{files[0]} is {next(sizes)} pixels and {file} is {next(sizes)}: all "
                "images must have one size"
            )
        images[i] = image
    return images, None if flat else _classes(owners)


def _list(folder: epath.Path) -> tuple[list[epath.Path], list[epath.Path]]:
    """(PNGs, folders) directly in a folder, without hidden ones."""
    entries = reading.visible(folder)
    other = [e for e in entries if e.suffix.lower() in _OTHER_SUFFIXES]
    if other:
        raise ValueError(
            f"{other[0]}: images in a folder must be PNG, without loss, and this is "
            "not: move it away, or write the samples as PNG"
        )
    pngs = [e for e in entries if e.suffix.lower() == ".png"]
    return pngs, [e for e in entries if e not in pngs and e.is_dir()]


def _classes(owners: list[str]) -> np.ndarray:
    """Sub-folder of each image -> labels int32 [N]."""
    names = sorted(set(owners))
    if reading.are_numbers(names):
        return np.array([int(name) for name in owners], np.int32)
    label = {name: i for i, name in enumerate(names)}
    return np.array([label[name] for name in owners], np.int32)


def _read_png(path: epath.Path) -> np.ndarray:
    """uint8 [H,W,3]."""
    data = path.read_bytes()
    try:
        with Image.open(io.BytesIO(data), formats=["PNG"]) as file:
            mode, depth = file.mode, data[24]  # Pillow would cut 16 bits to 8
            pixels = np.asarray(file)
    except Exception as error:  # damaged files fail in any way
        raise ValueError(
            f"{path}: not a PNG, or damaged ({reading.reason(error)}): write it again"
        ) from error
    if mode != "RGB" or depth != 8:
        raise ValueError(
            f"{path}: a PNG of mode {mode} with {depth} bits, expected RGB with 8: "
            "convert it before it is scored"
        )
    return pixels
