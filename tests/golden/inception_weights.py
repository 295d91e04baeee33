"""Random weights and images for the Inception network, alike in every framework.

numpy.random.RandomState, because its streams are frozen for good (NEP 19).
"""

import zlib
from collections.abc import Mapping

import numpy as np


def state_dict(shapes: Mapping[str, tuple[int, ...]]) -> dict[str, np.ndarray]:
    """Weights under PyTorch's names, float32; each depends on its own name only.

    Kernels have mean zero for each output, so that they see what differs within and
    between images and not the mean that relu gives; their size keeps the variance at 1:
    relu of a standard normal has variance 1/2 - 1/(2 pi) = 0.34. No two channels have
    the same batch norm, so that a permuted or forgotten part of one shows.
    """
    return {name: _weight(name, shape) for name, shape in shapes.items()}


def _weight(name: str, shape: tuple[int, ...]) -> np.ndarray:
    draw = np.random.RandomState(zlib.crc32(name.encode()))
    if name.endswith("num_batches_tracked"):
        return np.zeros(shape, np.int64)
    if len(shape) == 1:
        low, high = {
            "weight": (0.8, 1.2),
            "bias": (-0.3, 0.3),
            "running_mean": (-0.3, 0.3),
            "running_var": (0.7, 1.3),
        }[name.rpartition(".")[2]]
        return draw.uniform(low, high, shape).astype(np.float32)
    kernel = draw.uniform(-1, 1, shape)
    kernel -= kernel.mean(axis=tuple(range(1, len(shape))), keepdims=True)
    fan_in = np.prod(shape[1:])
    return (kernel * np.sqrt(3 / (0.34 * fan_in))).astype(np.float32)


def images(count: int, height: int, width: int) -> np.ndarray:
    """uint8 [count,height,width,3]: waves of random direction, and noise."""
    draw = np.random.RandomState(zlib.crc32(f"{count},{height},{width}".encode()))
    y, x = np.mgrid[:height, :width][..., None, None] / 32.0
    frequency = draw.uniform(-2, 2, (2, count, 3))
    phase = draw.uniform(0, 2 * np.pi, (count, 3))
    wave = np.sin(2 * np.pi * (y * frequency[0] + x * frequency[1]) + phase)
    size = draw.uniform(20, 110, (count, 3))
    level = draw.uniform(60, 190, (count, 3))
    noise = 25 * draw.standard_normal((height, width, count, 3))
    return (
        np.clip(level + size * wave + noise, 0, 255)
        .astype(np.uint8)
        .transpose(2, 0, 1, 3)
    )
