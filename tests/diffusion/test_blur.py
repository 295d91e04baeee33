"""Gaussian blur against sums over the reflected image, written out in float64."""

import math

import jax
import numpy as np
import pytest

from progguide_jax.diffusion import blur

X = np.random.default_rng(0).normal(size=(2, 8, 5, 3)).astype(np.float32)


def by_hand(image, sigma, reach):
    """[H,W] by a loop over offsets, one axis after the other."""
    for axis in (0, 1):
        half = min(math.ceil(2 * reach * sigma) // 2, image.shape[axis] // 2)
        offsets = range(-half, half + 1)
        kernel = np.array([math.exp(-0.5 * (d / sigma) ** 2) for d in offsets])
        width = [(half, half) if i == axis else (0, 0) for i in (0, 1)]
        padded = np.pad(image, width, mode="reflect")
        image = sum(
            w * np.take(padded, np.arange(image.shape[axis]) + i, axis)
            for i, w in enumerate(kernel / kernel.sum())
        )
    return image


@pytest.mark.parametrize("sigma, reach", [(0.3, 3), (0.7, 3), (1.0, 4), (2.0, 3)])
def test_by_hand(sigma, reach):
    found = jax.jit(blur.gaussian, static_argnums=2)(X, sigma, reach)
    wanted = X.astype(np.float64)
    for b, c in np.ndindex(2, 3):
        wanted[b, :, :, c] = by_hand(wanted[b, :, :, c], sigma, reach)
    np.testing.assert_allclose(found, wanted, atol=1e-6)
    assert np.abs(found - X).max() > 0.01


def test_sigma_0_is_the_image_and_infinity_its_mean():
    np.testing.assert_array_equal(blur.gaussian(X, 0.0, 3.0), X)
    mean = np.broadcast_to(X.mean((1, 2), keepdims=True), X.shape)
    for sigma in (np.inf, 1e4):
        np.testing.assert_allclose(blur.gaussian(X, sigma, 3.0), mean, atol=1e-6)


def test_one_pixel():
    np.testing.assert_array_equal(blur.gaussian(X[:, :1, :1], 2.0, 3.0), X[:, :1, :1])


def test_one_program_for_every_sigma():
    traces = []

    @jax.jit
    def blurred(x, sigma):
        traces.append(1)
        return blur.gaussian(x, sigma, 3.0)

    for sigma in (0.5, 3.0, np.inf):
        blurred(X, np.float32(sigma))
    assert len(traces) == 1
