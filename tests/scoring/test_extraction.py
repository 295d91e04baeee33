"""Feature extraction: batches, devices, weights, and what is refused."""

import json
import struct

import jax
import numpy as np
import pytest

from progguide_jax.extractors import classifiers, pixels
from progguide_jax.runtime import sharding
from progguide_jax.scoring import extraction


@pytest.fixture
def images():
    return np.random.default_rng(0).integers(0, 256, (37, 16, 16, 3), dtype=np.uint8)


@pytest.fixture
def extractor():
    return extraction.load("pixels", sharding.mesh())


def extract_all(extractor, images, batch_size):
    """(features, logits or None) of all images."""
    every = extraction.extract(extractor, images, batch_size, "noise")
    _, values, logits = zip(*every, strict=True)
    return np.concatenate(values), None if logits[0] is None else np.concatenate(logits)


def blocks(images):
    """Means over 2x2 pixels in [-1, 1], one at a time."""
    n, side = len(images), images.shape[1] // 2
    out = np.empty((n, side, side, 3))
    for i in range(side):
        for j in range(side):
            out[:, i, j] = images[:, 2 * i : 2 * i + 2, 2 * j : 2 * j + 2].mean((1, 2))
    return out.reshape(n, -1) / 127.5 - 1


@pytest.mark.parametrize("batch_size", (8, 16, 40))
def test_every_row_is_that_of_its_image_whatever_the_batch(
    extractor, images, batch_size
):
    values, logits = extract_all(extractor, images, batch_size)
    assert values.dtype == np.float32 and logits is None
    np.testing.assert_allclose(values, blocks(images), atol=1e-6)


def test_one_device_gives_what_eight_give(extractor, images, request):
    eight, _ = extract_all(extractor, images, 8)
    request.getfixturevalue("one_device")
    alone = extraction.load("pixels", sharding.mesh())
    assert alone.mesh.size == 1
    one, _ = extract_all(alone, images, 8)
    np.testing.assert_allclose(one, eight, atol=1e-6)


def test_large_images_are_reduced_to_8x8_and_odd_ones_refused():
    x = np.random.default_rng(1).integers(0, 256, (2, 32, 24, 3), dtype=np.uint8)
    out = pixels.Pixels().apply({}, x)["features"]
    assert out.shape == (2, 192)
    np.testing.assert_allclose(out[0, :3], x[0, :4, :3].mean((0, 1)) / 127.5 - 1, 1e-5)
    with pytest.raises(ValueError, match="multiples of 8"):
        pixels.Pixels().apply({}, x[:, :30])


def test_widths_without_running_anything(extractor):
    assert extraction.widths(extractor, (16, 16, 3)) == (192, None)


def test_which_features_have_logits_is_known_without_their_weights():
    """As the networks themselves answer."""
    image = jax.ShapeDtypeStruct((1, 32, 32, 3), np.uint8)
    having = []
    for name in extraction.NAMES:
        module = extraction._module(name)
        out, _ = jax.eval_shape(module.init_with_output, jax.random.key(0), image)
        having += [name] if "logits" in out else []
    assert having == list(extraction.WITH_LOGITS)


def test_features_that_are_not_finite_name_the_image(extractor, images):
    def broken(variables, x):
        out = extractor.run(variables, x)["features"]
        return {"features": out.at[:, 0].add(np.where(x[:, 0, 0, 0] == 7, np.nan, 0.0))}

    images[:, 0, 0, 0] = 0
    images[20, 0, 0, 0] = 7
    with pytest.raises(ValueError, match="features of image 20 are not finite"):
        extract_all(extractor._replace(run=broken), images, 8)


@pytest.mark.parametrize(
    "change, words",
    [
        (lambda x: x / 255, "images are float64"),
        (lambda x: x[0], r"images are uint8 \[16, 16, 3\]"),
        (lambda x: x[:0], "there are no images to score"),
    ],
)
def test_images_that_cannot_be_scored(extractor, images, change, words):
    with pytest.raises(ValueError, match=words):
        extract_all(extractor, change(images), 8)


def test_grey_images_are_for_pixels_only(extractor, images):
    grey = images[..., :1]
    assert extract_all(extractor, grey, 8)[0].shape == (37, 64)
    with pytest.raises(ValueError, match="1 channels, resnet20 takes RGB"):
        other = extractor._replace(name="resnet20", origin={"name": "resnet20"})
        extract_all(other, grey, 8)


def write_resnet(path, variables):
    """variables under the names of the public files, as safetensors."""
    tensors = {}
    for tree in variables.values():
        for keys, leaf in jax.tree.leaves_with_path(tree):
            *place, name = (k.key for k in keys)
            layer = ".".join(place).replace("_", ".")
            leaf = np.asarray(leaf)
            if name == "kernel":
                order = (3, 2, 0, 1) if leaf.ndim == 4 else (1, 0)
                leaf, name = leaf.transpose(order), "weight"
            renamed = {"scale": "weight", "mean": "running_mean", "var": "running_var"}
            tensors[f"module.{layer}.{renamed.get(name, name)}"] = leaf
    header, blobs, end = {}, [], 0
    for name, leaf in tensors.items():
        blob = np.ascontiguousarray(leaf).tobytes()
        shape = list(leaf.shape)
        offsets = [end, end + len(blob)]
        header[name] = {"dtype": "F32", "shape": shape, "data_offsets": offsets}
        blobs.append(blob)
        end += len(blob)
    text = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + b"".join(blobs))
    return tensors


def test_weights_go_from_a_file_to_the_network(tmp_path):
    """A file of random weights gives what the network gives with them."""
    module = classifiers.ResNet(20)
    x = np.random.default_rng(2).integers(0, 256, (8, 32, 32, 3), dtype=np.uint8)
    shapes = jax.eval_shape(module.init, jax.random.key(0), x)
    bits = np.random.default_rng(3)
    variables = jax.tree.map(
        lambda s: bits.uniform(0.1, 0.3, s.shape).astype(np.float32), shapes
    )
    path = tmp_path / "mine.safetensors"
    write_resnet(path, variables)
    extractor = extraction.load("resnet20", sharding.mesh(), str(path))
    # not the public file: its scores must not pass for those of the public network
    assert extractor.name == f"resnet20_{extractor.origin['weights'][:6]}"
    values, logits = extract_all(extractor, x, 8)
    expected = module.apply(variables, x)
    np.testing.assert_allclose(values, expected["features"], rtol=1e-5)
    np.testing.assert_allclose(logits, expected["logits"], rtol=1e-5)


def test_weights_of_another_network_are_named(tmp_path):
    path = tmp_path / "mine.safetensors"
    module = classifiers.ResNet(20)
    image = jax.ShapeDtypeStruct((1, 32, 32, 3), np.uint8)
    shapes = jax.eval_shape(module.init, jax.random.key(0), image)
    write_resnet(path, jax.tree.map(lambda s: np.ones(s.shape, s.dtype), shapes))
    with pytest.raises(ValueError, match="layer1_3") as error:
        extraction.load("resnet56", sharding.mesh(), str(path))
    assert len(str(error.value).splitlines()) == 1
    renamed = tmp_path / "resnet20-12fca82f.th"
    path.rename(renamed)
    with pytest.raises(ValueError, match="12fca82f0bebc413"):
        extraction.load("resnet20", sharding.mesh(), str(renamed))
