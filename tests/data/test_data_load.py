"""data.load: one dispatch on the name, and settings that must fit the data."""

import numpy as np
import pytest

from progguide_jax import data
from progguide_jax.data import cifar10

GAUSSIANS = dict(
    name="two_gaussians", image_size=8, channels=1, num_classes=2, num_examples=60
)
SYNTHETIC = dict(
    name="synthetic", image_size=16, channels=3, num_classes=5, num_examples=60
)


def cifar10_settings(folder, num_examples):
    return dict(
        name="cifar10",
        dir=str(folder),
        image_size=32,
        channels=3,
        num_classes=10,
        num_examples=num_examples,
    )


@pytest.fixture
def small_cifar10(tmp_path):
    """Six train images and two test images."""
    arrays = {}
    for split, n in [("train", 6), ("test", 2)]:
        arrays[f"x_{split}"] = np.full((n, 32, 32, 3), n, np.uint8)
        arrays[f"y_{split}"] = np.arange(n)
    np.savez(tmp_path / "cifar10.npz", **arrays)
    return tmp_path


def test_each_name_gives_its_data(small_cifar10):
    gaussians = data.load(**GAUSSIANS, mean=0.5, std=0.25)
    assert gaussians.images.shape == (60, 8, 8, 1)
    bright = gaussians.images[gaussians.labels == 1]
    assert abs(bright.mean() - 0.5) < 5 * 0.25 / np.sqrt(bright.size)
    assert abs(bright.std() - 0.25) < 5 * 0.25 / np.sqrt(2 * bright.size)
    shapes = data.load(**SYNTHETIC)
    assert shapes.images.shape == (60, 16, 16, 3) and shapes.num_classes == 5
    photos = data.load(**cifar10_settings(small_cifar10, 6))
    assert photos.images.shape == (6, 32, 32, 3) and np.all(photos.images == 6)


@pytest.mark.parametrize("settings", [GAUSSIANS, SYNTHETIC])
def test_generated_splits_are_drawn_apart(settings):
    train, again = data.load(**settings), data.load(**settings, split="train")
    test = data.load(**settings, split="test")
    np.testing.assert_array_equal(train.images, again.images)
    assert len(test.labels) == 60
    assert not any(np.array_equal(x, y) for x in train.images for y in test.images)


@pytest.mark.parametrize(
    "name, words",
    [("cifar", "did you mean 'cifar10'"), ("zebra", "use one of cifar10")],
)
def test_unknown_names_are_refused_with_the_valid_ones(name, words):
    with pytest.raises(ValueError, match=words) as caught:
        data.load(**(GAUSSIANS | {"name": name}))
    assert "two_gaussians" in str(caught.value)


def test_unknown_splits_are_refused():
    with pytest.raises(ValueError, match="use one of train, test"):
        data.load(**GAUSSIANS, split="validation")


def test_settings_that_do_not_fit_are_named(small_cifar10):
    with pytest.raises(ValueError, match="data.num_classes=10 .* data.num_classes=2"):
        data.load(**(GAUSSIANS | {"num_classes": 10}))
    good = cifar10_settings(small_cifar10, 6)
    for key, wrong, right in [
        ("image_size", 16, 32),
        ("channels", 1, 3),
        ("num_classes", 100, 10),
    ]:
        with pytest.raises(ValueError, match=f"{key}={wrong} .* data.{key}={right}"):
            data.load(**(good | {key: wrong}))


def test_cifar10_must_have_as_many_images_as_the_settings_say(small_cifar10):
    with pytest.raises(ValueError, match="6 images, expected 50000"):
        data.load(**cifar10_settings(small_cifar10, 50_000))
    with pytest.raises(ValueError, match="2 images, expected 10000"):
        data.load(**cifar10_settings(small_cifar10, 50_000), split="test")
    subset = cifar10_settings(small_cifar10, cifar10.SIZES["train"] // 2)
    with pytest.raises(ValueError, match="6 images, expected 25000"):
        data.load(**subset)
    assert len(data.load(**subset, split="test").labels) == 2
