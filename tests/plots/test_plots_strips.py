"""Rows of images: each where it belongs, each with its name."""

import numpy as np

from progguide_jax.plots import strips


def test_images_stand_in_the_row_of_their_name():
    bits = np.random.default_rng(0)
    rows = {
        "static": bits.integers(0, 256, (3, 4, 4, 3), dtype=np.uint8),
        "gn": bits.integers(0, 256, (3, 4, 4, 1), dtype=np.uint8),
    }
    fig = strips.strips(rows)
    axes = np.array(fig.axes).reshape(2, 3)
    for line, (name, images) in zip(axes, rows.items(), strict=True):
        assert [text.get_text() for text in line[0].texts] == [name]
        for ax, image in zip(line, images, strict=True):
            shown = np.asarray(ax.images[0].get_array())
            np.testing.assert_array_equal(shown, image.squeeze())
