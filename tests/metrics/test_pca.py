"""The plane of trajectories, against data whose principal axes are given."""

import numpy as np
import pytest

from progguide_jax.metrics import pca


def designed(n=6000, d=12, seed=0):
    """Images [n,3,4] with exact variances 9, 4 and .01 along known directions."""
    rng = np.random.default_rng(seed)
    axes = np.linalg.qr(rng.standard_normal((d, d)))[0].T
    scores = rng.standard_normal((n, d))
    scores -= scores.mean(0)
    scores = np.linalg.qr(scores)[0] * np.sqrt(n)  # uncorrelated, variance 1
    scores *= np.where(np.arange(d) == 0, 3, np.where(np.arange(d) == 1, 2, 0.1))
    mean = rng.standard_normal(d)
    return (mean + scores @ axes).reshape(n, 3, 4), mean, axes[:2], scores[:, :2]


def test_plane_finds_the_axes_the_data_were_made_with():
    x, mean, axes, scores = designed()
    plane = pca.fit(x)
    assert plane.mean.shape == (3, 4) and plane.directions.shape == (2, 3, 4)
    np.testing.assert_allclose(plane.mean.ravel(), mean, atol=1e-12)
    np.testing.assert_allclose(plane.variances, [9, 4], rtol=1e-10)
    flat = plane.directions.reshape(2, -1)
    signs = np.sign(np.sum(flat * axes, 1))
    np.testing.assert_allclose(flat, signs[:, None] * axes, atol=1e-10)
    np.testing.assert_allclose(pca.project(plane, x), signs * scores, atol=1e-9)


def test_signs_do_not_depend_on_the_order_of_the_images():
    x, *_ = designed()
    plane, shuffled = pca.fit(x), pca.fit(x[::-1])
    np.testing.assert_allclose(plane.directions, shuffled.directions, atol=1e-9)
    flat = plane.directions.reshape(2, -1)
    assert np.all(flat[[0, 1], np.abs(flat).argmax(1)] > 0)


def test_bright_images_lie_on_the_positive_side():
    rng = np.random.default_rng(1)
    label = np.arange(2000) % 2
    x = 0.25 * rng.standard_normal((2000, 8, 8, 1)) + (label - 0.5).reshape(-1, 1, 1, 1)
    plane = pca.fit(x.astype(np.float32))
    first = pca.project(plane, x)[:, 0]
    np.testing.assert_array_equal(first > 0, label == 1)
    brightness = x.mean((1, 2, 3)) * 8  # u^T x with u = 1 / sqrt(64)
    assert np.corrcoef(first, brightness)[0, 1] > 0.999


def test_trajectories_of_either_precision_are_projected():
    x, *_ = designed()
    plane = pca.fit(x)
    path = np.random.default_rng(2).standard_normal((5, 7, 3, 4))
    expected = np.einsum("sbij,kij->sbk", path - plane.mean, plane.directions)
    np.testing.assert_allclose(pca.project(plane, path), expected, atol=1e-12)
    single = pca.project(plane, path.astype(np.float32))
    np.testing.assert_allclose(single, expected, atol=1e-5)


@pytest.mark.parametrize("shape", [(2, 4, 4), (10, 1)])
def test_too_little_for_a_plane(shape):
    with pytest.raises(ValueError, match="3 images of 2 pixels"):
        pca.fit(np.ones(shape))
