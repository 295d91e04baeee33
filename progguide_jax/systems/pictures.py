"""Samples as pictures: eight bits, and many on one sheet."""

import numpy as np


def to_uint8(images: np.ndarray) -> np.ndarray:
    """[-1, 1] to 0 ... 255, rounded half up and clipped, once."""
    return np.floor(np.clip(127.5 * images + 128.0, 0, 255)).astype(np.uint8)


def tile(images: np.ndarray, columns: int) -> np.ndarray:
    """One picture [H',W',3] of uint8 images [N,H,W,C], C = 1 or 3, 2 pixels apart."""
    n, h, w, c = images.shape
    rows = -(-n // columns)
    cells = np.full((rows * columns, h + 2, w + 2, 3), 255, np.uint8)
    cells[:n, 1:-1, 1:-1] = images if c == 3 else images[..., :1]
    cells = cells.reshape(rows, columns, h + 2, w + 2, 3).transpose(0, 2, 1, 3, 4)
    return cells.reshape(rows * (h + 2), columns * (w + 2), 3)


def grid(arrays: dict[str, np.ndarray], count: int = 100) -> np.ndarray:
    """The first `count` images, sorted by label, ten in a row."""
    order = np.argsort(arrays["labels"][:count], kind="stable")
    return tile(arrays["images"][order], columns=10)
