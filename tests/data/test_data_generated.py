"""The generated data sets: moments of the two Gaussians, colours of the shapes."""

import numpy as np
import pytest
from scipy import stats

from progguide_jax.data import gaussian_images, synthetic


@pytest.mark.parametrize("size, mean", [(32, 0.125), (8, 0.5)])
def test_two_gaussians_along_the_class_axis_and_across_it(size, mean):
    """Both sizes: N(+-4, .25^2) on u = 1 / sqrt(d), N(0, .25^2) on any other axis."""
    data = gaussian_images.make(4000, size, 1, mean, 0.25)
    x = data.images.reshape(4000, -1).astype(np.float64)
    d = x.shape[1]
    assert 2 * mean * np.sqrt(d) == 8
    u = np.full(d, 1 / np.sqrt(d))
    v = np.tile([1, -1], d // 2) / np.sqrt(d)
    for label, centre in [(0, -4), (1, 4)]:
        of_class = x[data.labels == label]
        assert stats.kstest(of_class @ u, stats.norm(centre, 0.25).cdf).pvalue > 1e-3
        assert stats.kstest(of_class @ v, stats.norm(0, 0.25).cdf).pvalue > 1e-3
    # Independent pixels: sum of squares about the mean is std^2 chi^2 with n d degrees.
    residual = x - np.where(data.labels[:, None] == 1, mean, -mean)
    chi2 = np.sum(residual**2) / 0.25**2
    assert abs(chi2 - x.size) < 5 * np.sqrt(2 * x.size)
    neighbours = np.mean(residual[:, 1:] * residual[:, :-1]) / 0.25**2
    assert abs(neighbours) < 5 / np.sqrt(x.size)


def test_two_gaussians_are_balanced_floats_and_not_clipped():
    data = gaussian_images.make(1000, 8, 3, 0.5, 0.25)
    assert data.images.shape == (1000, 8, 8, 3) and data.images.dtype == np.float32
    assert data.labels.dtype == np.int32 and data.num_classes == 2
    np.testing.assert_array_equal(np.bincount(data.labels), [500, 500])
    # P(x > 1 | bright) = 1 - Phi(2), and the mirror image for dark.
    outside = np.mean(np.abs(data.images) > 1)
    assert abs(outside - stats.norm.sf(2)) < 5 * np.sqrt(0.0228 / data.images.size)
    assert len(np.unique(data.images)) > 0.95 * data.images.size


def test_an_image_of_the_two_gaussians_depends_on_seed_and_place_alone():
    few, many, other = (
        gaussian_images.make(n, 8, 1, 0.5, 0.25, seed=seed)
        for n, seed in [(10, 3), (500, 3), (10, 4)]
    )
    np.testing.assert_array_equal(few.images, many.images[:10])
    np.testing.assert_array_equal(few.labels, many.labels[:10])
    assert not np.any(few.images == other.images)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("num_classes", [2, 10])
def test_shapes_have_the_colour_of_their_class(channels, num_classes):
    data = synthetic.make(20 * num_classes, 16, channels, num_classes)
    assert data.images.dtype == np.uint8 and data.labels.dtype == np.int32
    assert data.images.shape == (20 * num_classes, 16, 16, channels)
    np.testing.assert_array_equal(np.bincount(data.labels), [20] * num_classes)
    colours = []
    for label in range(num_classes):
        of_class = data.images[data.labels == label]
        shape = np.all(of_class > 63, axis=-1)
        assert np.all(shape.any((1, 2))), "an image without its shape"
        assert not np.all(shape == shape[:1]), "every shape in the same place"
        assert np.all(of_class[~shape] < 64)
        found = {tuple(pixel) for pixel in of_class[shape]}
        assert len(found) == 1
        colours += found
    assert len(set(colours)) == num_classes


def test_shapes_are_disc_square_and_diamond():
    """Area over (bounding box)^2: pi / 4, 1, 1 / 2."""
    data = synthetic.make(60, 64, 3, 3)
    for label, filled in [(0, np.pi / 4), (1, 1), (2, 0.5)]:
        ratios = []
        for image in data.images[data.labels == label]:
            shape = np.all(image > 63, axis=-1)
            height, width = shape.any(1).sum(), shape.any(0).sum()
            ratios.append(shape.sum() / (height * width))
        assert abs(np.mean(ratios) - filled) < 0.06


def test_shapes_follow_the_seed():
    first, again, other = (synthetic.make(30, 16, 3, 5, seed=s) for s in (1, 1, 2))
    np.testing.assert_array_equal(first.images, again.images)
    assert not np.array_equal(first.images, other.images)
