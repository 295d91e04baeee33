"""Noise on images: moments in closed form, image i from (seed, i)."""

import numpy as np
import pytest
from scipy import stats

from progguide_jax.data import corruption


@pytest.mark.parametrize("std", [3.0, 12.0])
def test_noise_has_its_moments_and_shape(std):
    """Mid-grey is not clipped: variance std^2 + 1/12 (Sheppard), rounded normal law."""
    images = np.full((300, 8, 8, 3), 128, np.uint8)
    noise = corruption.add_noise(images, std, 1).astype(float).ravel() - 128
    n, var = noise.size, std**2 + 1 / 12
    assert abs(noise.mean()) < 4 * np.sqrt(var / n)
    assert abs(noise.var() - var) < 4 * var * np.sqrt(2 / n)
    edges = np.arange(-2 * std, 2 * std) + 0.5
    counts = np.histogram(noise, [-np.inf, *edges, np.inf])[0]
    law = np.diff(stats.norm(0, std).cdf([-np.inf, *edges, np.inf]))
    assert stats.chisquare(counts, n * law).pvalue > 1e-3


def test_rounding_adds_a_twelfth():
    """A tenth of a level stays, one level grows by 1/12: seen over 600,000 values."""
    images = np.full((200, 32, 32, 3), 128, np.uint8)
    np.testing.assert_array_equal(corruption.add_noise(images, 0.1, 0), images)
    noise = corruption.add_noise(images, 1.0, 0).astype(float) - 128
    assert abs(noise.var() - 13 / 12) < 4 * 13 / 12 * np.sqrt(2 / noise.size)
    assert abs(noise.mean()) < 4 * np.sqrt(13 / 12 / noise.size)


def test_noise_is_clipped_not_wrapped():
    black, white = np.zeros((9, 8, 8, 3), np.uint8), np.full((9, 8, 8, 3), 255, "u1")
    dark, bright = (corruption.add_noise(x, 20.0, 0) for x in (black, white))
    assert dark.max() < 120 and bright.min() > 135
    # half the noise is cut off
    for cut in (dark == 0, bright == 255):
        share = stats.norm.cdf(0.5 / 20)
        assert abs(cut.mean() - share) < 4 * np.sqrt(share * (1 - share) / cut.size)


def test_noise_of_an_image_depends_on_seed_and_place_alone():
    images = np.random.default_rng(0).integers(100, 150, (6, 8, 8, 3), dtype=np.uint8)
    kept = images.copy()
    all_of_them = corruption.add_noise(images, 9.0, 5)
    np.testing.assert_array_equal(images, kept)
    np.testing.assert_array_equal(
        corruption.add_noise(images[:2], 9.0, 5), all_of_them[:2]
    )
    other = corruption.add_noise(images[::-1].copy(), 9.0, 5)
    noise, moved = all_of_them.astype(int) - images, other.astype(int) - images[::-1]
    np.testing.assert_allclose(noise, moved, atol=1)  # 1: rounding of a near tie
    assert np.abs(noise[0] - noise[1]).max() > 9
    assert np.any(corruption.add_noise(images, 9.0, 6) != all_of_them)
    np.testing.assert_array_equal(corruption.add_noise(images, 0.0, 5), images)


@pytest.mark.parametrize("std", [-1.0, np.nan, np.inf])
def test_impossible_noise_is_refused(std):
    with pytest.raises(ValueError, match="0 or more grey levels"):
        corruption.add_noise(np.zeros((1, 2, 2, 3), np.uint8), std, 0)


def test_other_arrays_are_refused():
    for images in (np.zeros((2, 8, 8, 3), np.float32), np.zeros((8, 8, 3), np.uint8)):
        with pytest.raises(ValueError, match=r"uint8 \[N,H,W,C\]"):
            corruption.add_noise(images, 1.0, 0)
