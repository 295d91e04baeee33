"""Data sets as host arrays, and batches as a pure function of (seed, step)."""

from typing import NamedTuple

from progguide_jax import registry
from progguide_jax.data import batches, cifar10, gaussian_images, synthetic

Dataset = batches.Dataset
SPLITS = ("train", "test")


class Wanted(NamedTuple):
    """What every data set is asked for: config.data without its sections."""

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
    "synthetic": _synthetic,
    "two_gaussians": _two_gaussians,
}


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
    split: str = "train",
    **settings,
) -> Dataset:
    """The data set `name` (config.data without flip); settings: `mean` and `std` of
    two_gaussians.

    images [N,H,W,C] uint8 (cifar10, synthetic) or float32 (two_gaussians), labels
    int32 [N]. Generated sets have num_examples images in either split, drawn
    independently; CIFAR-10 has its official splits, of which num_examples states the
    size of train. ValueError for an unknown name or split and for data that differ
    from the settings; FileNotFoundError for data that are not there.
    """
    registry.check("split", split, SPLITS)
    wanted = Wanted(dir, image_size, channels, num_classes, num_examples, split)
    dataset = registry.make("data.name", name, DATASETS, wanted=wanted, **settings)
    _, height, _, depth = dataset.images.shape
    checks = {
        "image_size": (image_size, height),
        "channels": (channels, depth),
        "num_classes": (num_classes, dataset.num_classes),
    }
    for key, (asked, found) in checks.items():
        if asked != found:
            raise ValueError(
                f"data.{key}={asked} does not fit {name}: set data.{key}={found}"
            )
    return dataset


def _cifar10_size(num_examples: int, split: str) -> int | None:
    """Images that a CIFAR-10 split must hold; None = any number."""
    if num_examples == cifar10.SIZES["train"]:
        return cifar10.SIZES[split]
    # A subset was asked for: its test split may have any size.
    return num_examples if split == "train" else None
