"""Data sets as host arrays, and batches as a pure function of (seed, step)."""

import difflib

from progguide_jax.data import batches, cifar10, synthetic, two_gaussians

Dataset = batches.Dataset
NAMES = ("cifar10", "synthetic", "two_gaussians")
SPLITS = ("train", "test")


def load(
    name: str,
    *,
    dir: str = "",
    image_size: int,
    channels: int,
    num_classes: int,
    num_examples: int,
    mean: float = 0.125,
    std: float = 0.25,
    split: str = "train",
) -> Dataset:
    """The data set that these settings (config.data without flip) describe.

    images [N,H,W,C] uint8 (cifar10, synthetic) or float32 (two_gaussians), labels
    int32 [N]. Generated sets have num_examples images in either split, drawn
    independently; CIFAR-10 has its official splits, of which num_examples states the
    size of train. ValueError for an unknown name or split and for data that differ
    from the settings; FileNotFoundError for data that are not there.
    """
    if name not in NAMES:
        raise ValueError(f"data.name={name!r} is unknown: {_nearest(name, NAMES)}")
    if split not in SPLITS:
        raise ValueError(f"split {split!r} is unknown: {_nearest(split, SPLITS)}")
    seed = SPLITS.index(split)
    if name == "two_gaussians":
        dataset = two_gaussians.make(
            num_examples, image_size, channels, mean, std, seed=seed
        )
    elif name == "synthetic":
        dataset = synthetic.make(
            num_examples, image_size, channels, num_classes, seed=seed
        )
    else:
        dataset = cifar10.load(dir, split, expected=_cifar10_size(num_examples, split))
    _, height, _, depth = dataset.images.shape
    settings = {
        "image_size": (image_size, height),
        "channels": (channels, depth),
        "num_classes": (num_classes, dataset.num_classes),
    }
    for key, (wanted, found) in settings.items():
        if wanted != found:
            raise ValueError(
                f"data.{key}={wanted} does not fit {name}: set data.{key}={found}"
            )
    return dataset


def _cifar10_size(num_examples: int, split: str) -> int | None:
    """Images that a CIFAR-10 split must hold; None = any number."""
    if num_examples == cifar10.SIZES["train"]:
        return cifar10.SIZES[split]
    # A subset was asked for: its test split may have any size.
    return num_examples if split == "train" else None


def _nearest(word: str, valid: tuple[str, ...]) -> str:
    near = difflib.get_close_matches(word, valid, n=1)
    hint = f"did you mean {near[0]!r}? " if near else ""
    return f"{hint}valid are {', '.join(valid)}"
