"""Guided against the same network that sees a part of the image only."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from progguide_jax.diffusion import prediction, process, system
from progguide_jax.guidance.references import perturbed


def swg(
    model: system.System,
    cond: Any,
    *,
    size: int | None = None,
    windows: int = 2,
    masked: bool = True,
) -> prediction.Branch:
    """Sliding window guidance, M-SWG (Adaloglou et al. 2024, arXiv:2411.10257).

    Formula: p_ref = the mean of what the network says of a pixel in each of the windows
        that hold it, windows x windows squares of `size` pixels at equal distances;
        masked: p_c where fewer than two hold it.
    Convention: their w is omega, 0.2 and 1.1 for EDM2-S.
    Space: any.
    Cost: windows^2 evaluations of a part, in all 2.25 at the defaults.
    Neutral: a network whose pixels do not know each other.
    Deviation: size None is three quarters of the side, which a U-Net for 32 pixels can
        halve three times; theirs is 5/8, 40 of 64 latents.
    Source: the authors' code (HHU-MMBS/swg_bmvc2025_official).

    Not masked it is the SWG of the first version. It takes a U-Net: it is asked about a
    window as if that were the image, with attention at the layers that have it.
    """
    sides = model.shape[:2]
    size = min(sides) * 3 // 4 if size is None else size
    corners = tuple(
        (row, column)
        for row in _offsets(sides[0], size, windows)
        for column in _offsets(sides[1], size, windows)
    )
    seen = _count(corners, size, sides)
    if (seen.max() < 2) if masked else (seen.min() < 1):
        raise ValueError(
            f"swg: {windows} x {windows} windows of {size} pixels in {sides[0]} x "
            f"{sides[1]} {'do not overlap' if masked else 'leave pixels out'}: use a "
            "larger size, or more windows"
        )
    branch = perturbed.disturbed("swg", model, cond, "window", size=size)
    made = _averaged(corners, size, masked, branch.predicts)
    fn = jax.tree_util.Partial(made, branch.fn)
    uses = ("cond",) if masked else ()
    return prediction.Branch(fn, branch.cond, branch.predicts, uses=uses)


def check_swg(size: int | None, windows: int, masked: bool) -> None:
    if size is not None and size < 1:
        raise ValueError(f"size is {size}: use pixels, 1 or more")
    if windows < 2:
        raise ValueError(f"windows is {windows}: use 2 or more a side")


def _offsets(side: int, size: int, windows: int) -> list[int]:
    """Where the windows of one axis begin."""
    if size >= side:
        raise ValueError(f"swg: size is {size}: use less than the side, {side} pixels")
    return [round(i * (side - size) / (windows - 1)) for i in range(windows)]


def _count(corners, size: int, sides) -> np.ndarray:
    """How many windows hold each pixel: [1,H,W,1]."""
    count = np.zeros((1, *sides, 1), np.float32)
    for row, column in corners:
        count[:, row : row + size, column : column + size] += 1
    return count


@functools.cache
def _averaged(corners, size: int, masked: bool, predicts: str):
    def fn(ask, x, level, cond, given=None):
        parts = [x[:, r : r + size, c : c + size] for r, c in corners]
        # image by image, so that each device keeps the windows of its own
        stack = jnp.stack(parts, axis=1)

        def each(a):
            return jnp.repeat(a, len(corners), axis=0)

        asked = stack.reshape(-1, *stack.shape[2:])
        raw = ask(asked, process.Level(*map(each, level)), jax.tree.map(each, cond))
        raw = raw.reshape(stack.shape)
        total, count = jnp.zeros_like(x), _count(corners, size, x.shape[1:3])
        for i, (r, c) in enumerate(corners):
            total = total.at[:, r : r + size, c : c + size].add(raw[:, i])
        mean = total / np.maximum(count, 1).astype(x.dtype)
        if not masked:
            return mean
        own = process.target(level, *given["cond"], predicts)
        return jnp.where(count > 1, mean, own)

    return fn
