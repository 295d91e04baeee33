"""Rows of generated images side by side."""

from collections.abc import Mapping

import numpy as np
from matplotlib import figure as figures

from progguide_jax.plots import style


@style.styled
def strips(rows: Mapping[str, np.ndarray]) -> figures.Figure:
    """One row of images per name: rows[name] uint8 [N,H,W,C], C = 1 or 3.

    Columns share what the images were made from, so a row shows what its name changes.
    """
    count = max(len(images) for images in rows.values())
    fig = figures.Figure(figsize=(1.1 + 0.62 * count, 0.2 + 0.62 * len(rows)))
    axes = fig.subplots(len(rows), count, squeeze=False)
    for line, (name, images) in zip(axes, rows.items(), strict=True):
        for ax in line:
            ax.set_axis_off()
        for ax, image in zip(line, images, strict=False):
            grey = image.shape[-1] == 1
            shown = image[..., 0] if grey else image
            ax.imshow(shown, cmap="gray", vmin=0, vmax=255, interpolation="nearest")
        line[0].text(
            -0.15, 0.5, name, transform=line[0].transAxes, ha="right", va="center",
        )  # fmt: skip
    return fig
