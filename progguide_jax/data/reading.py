"""What the readers of images share: folders, arrays in an .npz, words on errors."""

import re
import sys
from collections.abc import Iterable, Iterator, Sequence

import numpy as np
import tqdm
from etils import epath

from progguide_jax.formats import npz, regular


def arrays(
    path: epath.Path, pairs: Sequence[tuple[str, str]], what: str
) -> tuple[np.ndarray | None, np.ndarray | None, list[str]]:
    """(images, labels, all names) of an .npz: the first of `pairs`, (name of images,
    name of labels), whose images are there. None is what is not there; ValueError,
    saying that the file is not `what`, if it is damaged."""
    if not regular.is_file(path):
        raise ValueError(f"{path} is no file: name {what}")
    try:
        with path.open("rb") as file:
            content = npz.Npz(file)
            names = content.names
            pair = next((p for p in pairs if p[0] in names), ())
            found = [content[name] if name in names else None for name in pair]
    except ValueError as error:
        raise ValueError(f"{path}: not {what} ({error})") from error
    images, labels = found or (None, None)
    return images, labels, names


def column(labels: np.ndarray) -> np.ndarray:
    """Labels [N,1], as Keras has them, as [N]; others as they are."""
    return labels[:, 0] if labels.ndim == 2 and labels.shape[1] == 1 else labels


def visible(folder: epath.Path) -> list[epath.Path]:
    """What lies in a folder and is not hidden, in natural order: 2 before 10."""
    entries = [e for e in folder.iterdir() if not e.name.startswith(".")]
    return sorted(entries, key=lambda entry: _natural(entry.name))


def _natural(name: str) -> tuple:
    """Sorts numbers in names by value; the name itself orders 1 and 01."""
    parts = re.split(r"([0-9]+)", name)
    return [int(p) if i % 2 else p for i, p in enumerate(parts)], name


def are_numbers(names: Sequence[str]) -> bool:
    """Whether the names of classes are all numbers, by which they are then ordered."""
    return all(re.fullmatch("[0-9]{1,9}", name) for name in names)


def progress(items: Iterable, what: str, total: int) -> Iterator:
    """The items, with a bar on stderr if they take more than two seconds."""
    often = 0.1 if sys.stderr.isatty() else 10.0
    return iter(tqdm.tqdm(items, what, total, False, delay=2, mininterval=often))


def reason(error: Exception) -> str:
    """The kind and first line of an error that another library raised."""
    first = (str(error).splitlines() or [""])[0]
    return f"{type(error).__name__}: {first[:200]}" if first else type(error).__name__
