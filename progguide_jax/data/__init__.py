"""Data sets as host arrays, and batches as a pure function of (seed, step)."""

import logging
from typing import NamedTuple

from progguide_jax import registry
from progguide_jax.data import (
    batches,
    cifar10,
    gaussian_images,
    image_arrays,
    image_folder,
    synthetic,
)

Dataset = batches.Dataset
SPLITS = ("train", "test")


class Wanted(NamedTuple):
    """What every data set is asked for: config.data without its sections and digest."""

    dir: str
    image_size: int
    channels: int
    num_classes: int
    num_examples: int
    split: str

    @property
    def seed(self) -> int:
        """Of generated sets: the splits are drawn independently."""
        return SPLITS.index(self.split)


def _cifar10(wanted: Wanted) -> Dataset:
    expected = _cifar10_size(wanted.num_examples, wanted.split)
    return cifar10.load(wanted.dir, wanted.split, expected=expected)


def _folder(wanted: Wanted) -> Dataset:
    found = image_folder.find(wanted.dir, wanted.split)
    _check_fit("folder", wanted, num_classes=len(found.classes))
    if wanted.channels not in (1, 3):
        raise ValueError(
            f"data.channels={wanted.channels} does not fit folder: set data.channels=3 "
            "for colours or 1 for grey"
        )
    images = image_folder.decode(found.files, wanted.image_size, wanted.channels)
    logging.info("classes: %s", ", ".join(found.classes))
    return Dataset(images, found.labels, len(found.classes))


def _npz(wanted: Wanted) -> Dataset:
    return image_arrays.load(wanted.dir, wanted.split)


def _synthetic(wanted: Wanted) -> Dataset:
    count, size = wanted.num_examples, wanted.image_size
    return synthetic.make(
        count, size, wanted.channels, wanted.num_classes, seed=wanted.seed
    )


def _two_gaussians(wanted: Wanted, mean: float = 0.125, std: float = 0.25) -> Dataset:
    count, size = wanted.num_examples, wanted.image_size
    return gaussian_images.make(
        count, size, wanted.channels, mean, std, seed=wanted.seed
    )


DATASETS = {
    "cifar10": _cifar10,
    "folder": _folder,
    "npz": _npz,
    "synthetic": _synthetic,
    "two_gaussians": _two_gaussians,
}

# data sets that are read from data.dir: what tells two of one name apart, if anything
FILES = {"cifar10": None, "folder": image_folder.digest, "npz": image_arrays.digest}


def names() -> list[str]:
    """The data sets that `load` knows."""
    return list(DATASETS)


def load(
    name: str,
    *,
    dir: str = "",
    image_size: int,
    channels: int,
    num_classes: int,
    num_examples: int,
    digest: str = "",
    split: str = "train",
    **settings,
) -> Dataset:
    """The data set `name` (config.data without flip); settings: `mean` and `std` of
    two_gaussians.

    images [N,H,W,C] uint8, or float32 (two_gaussians), labels int32 [N]. Generated sets
    have num_examples images in either split, drawn independently; CIFAR-10 has its
    official splits, of which num_examples states the size of train; folder and npz
    have what is there. digest: what `identify` must say. ValueError for an unknown name
    or split and for data that differ from the settings; FileNotFoundError for data that
    are not there.
    """
    registry.check("split", split, SPLITS)
    found = identify(name, dir) if digest and split == "train" else digest
    if found != digest:
        raise ValueError(
            f"data.dir={dir} holds other images than those of data.digest={digest}: "
            f"set data.dir to where they lie, or data.digest={found} to use these"
        )
    wanted = Wanted(dir, image_size, channels, num_classes, num_examples, split)
    dataset = registry.make("data.name", name, DATASETS, wanted=wanted, **settings)
    _, height, _, depth = dataset.images.shape
    _check_fit(
        name,
        wanted,
        image_size=height,
        channels=depth,
        num_classes=dataset.num_classes,
    )
    if FILES.get(name):
        logging.info("%s: %d images in split %s", dir, len(dataset.labels), split)
    return dataset


def identify(name: str, dir: str, split: str = "train") -> str:
    """What tells a split at `dir` from others of its name, wherever it lies: 16 hex
    digits, or "" where the name and the settings say all."""
    registry.check("data.name", name, DATASETS)
    digest = FILES.get(name)
    return digest(dir, split) if digest else ""


def count(name: str, dir: str, num_examples: int, split: str = "test") -> int | None:
    """How many images a split has, or None where only reading them would tell."""
    if name == "cifar10":
        return _cifar10_size(num_examples, split)
    if name == "folder":
        try:
            return len(image_folder.find(dir, split).files)
        except (OSError, ValueError):  # no such split
            return None
    return None if name in FILES else num_examples


def _check_fit(name: str, wanted: Wanted, **found: int) -> None:
    """ValueError at a setting that is not what was found."""
    for key, value in found.items():
        asked = getattr(wanted, key)
        if asked != value:
            raise ValueError(
                f"data.{key}={asked} does not fit {name}: set data.{key}={value}"
            )


def _cifar10_size(num_examples: int, split: str) -> int | None:
    """Images that a CIFAR-10 split must hold; None = any number."""
    if num_examples == cifar10.SIZES["train"]:
        return cifar10.SIZES[split]
    # A subset was asked for: its test split may have any size.
    return num_examples if split == "train" else None
