import numpy as np

from progguide_jax.systems import pictures


def test_to_uint8_rounds_half_up_and_clips_once():
    """-1 and 1 are the ends; one grey level is 2 / 255, half of one rounds up."""
    level = 2 / 255
    x = np.array([-1, 1, -3, 3, 0, -1 + 0.49 * level, -1 + 0.51 * level, 1 - level])
    np.testing.assert_array_equal(
        pictures.to_uint8(x), [0, 255, 0, 255, 128, 0, 1, 254]
    )
    every = np.arange(256, dtype=np.uint8)
    data = every / np.float32(127.5) - np.float32(1)  # what the network is trained on
    np.testing.assert_array_equal(pictures.to_uint8(data), every)


def test_tile_lays_images_out_row_by_row():
    """Five 2x3 images of one value each, three columns, two pixels of white between."""
    values = np.array([10, 20, 30, 40, 50], np.uint8)
    images = np.broadcast_to(values[:, None, None, None], (5, 2, 3, 3))
    picture = pictures.tile(images, columns=3)
    row = [255, 0, 0, 0, 255]
    up = [255] + [10] * 3 + [255, 255] + [20] * 3 + [255, 255] + [30] * 3 + [255]
    low = [255] + [40] * 3 + [255, 255] + [50] * 3 + [255] * 6
    white = [255] * (3 * len(row))
    expected = np.array([white, up, up, white, white, low, low, white])
    for channel in range(3):
        np.testing.assert_array_equal(picture[..., channel], expected)
    grey = pictures.tile(images[..., :1], columns=3)
    np.testing.assert_array_equal(grey, picture)
