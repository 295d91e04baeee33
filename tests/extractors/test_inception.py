"""The Inception network against torch-fidelity's, with the same random weights.

Golden numbers and how they were made: tests/golden/make_inception.py.
"""

import functools
import importlib.util
import json
import pathlib
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from progguide_jax.extractors import inception
from progguide_jax.pretrained import convert, inception_names

FOLDER = pathlib.Path(__file__).parents[1] / "golden"
sys.path.insert(0, str(FOLDER))
import inception_weights  # noqa: E402

GOLDEN = np.load(FOLDER / "inception.npz")
# make_inception.py finds torch-fidelity's own float32 1.5e-5 of the largest number away
# from float64 (rounding_features, rounding_logits); two such errors and a margin of 2
TOLERANCE = 6e-5


@functools.cache
def variables():
    shapes = json.loads(str(GOLDEN["state"]))
    source = inception_weights.state_dict({k: tuple(v) for k, v in shapes.items()})
    images = jax.ShapeDtypeStruct((1, 32, 32, 3), jnp.uint8)
    target = jax.eval_shape(inception.Inception().init, jax.random.key(0), images)
    rules, ignore = inception_names.rules_for(source)
    return convert.convert(source, rules, target, ignore=ignore)


@functools.cache
def network():
    return jax.jit(inception.Inception().apply)


resize = jax.jit(inception.resize, static_argnames="size")
max_pool = jax.jit(inception.max_pool, static_argnames="stride")
avg_pool = jax.jit(inception.avg_pool)


def agree(output, name):
    for key in ("features", "logits"):
        golden = GOLDEN[f"{name}_{key}"]
        assert output[key].dtype == jnp.float32
        assert output[key].shape == golden.shape
        error = np.abs(np.asarray(output[key]) - golden).max() / np.abs(golden).max()
        assert error < TOLERANCE, (key, error)


def test_tolerance_follows_from_the_rounding_of_the_reference():
    rounding = max(GOLDEN["rounding_features"], GOLDEN["rounding_logits"])
    assert 2 * rounding < TOLERANCE < 5 * rounding
    # and is far below what tells the images apart
    for key in ("features", "logits"):
        golden = GOLDEN[f"small_{key}"]
        assert golden.std(0).mean() > 400 * TOLERANCE * np.abs(golden).max()


def test_features_and_logits_on_eight_devices():
    mesh = jax.sharding.Mesh(np.array(jax.devices()), ("data",))
    split = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("data"))
    whole = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec())
    images = np.repeat(inception_weights.images(4, 32, 32), 2, axis=0)
    out = network()(jax.device_put(variables(), whole), jax.device_put(images, split))
    assert out["features"].sharding.spec[0] == "data"
    for k in (0, 1):
        agree({key: np.asarray(value)[k::2] for key, value in out.items()}, "small")


@pytest.mark.slow
@pytest.mark.parametrize("name, shape", [("small", (4, 32, 32)), ("wide", (2, 48, 40))])
def test_features_and_logits(name, shape):
    images = inception_weights.images(*shape)
    agree(network()(variables(), images), name)
    agree(network()(variables(), images.astype(np.float32)), name)


@pytest.mark.slow
def test_side_by_side_with_torch_fidelity():
    # not importorskip: make_inception declares what torchvision wants, then imports it
    if importlib.util.find_spec("torch_fidelity") is None:
        pytest.skip("torch-fidelity is not installed")
    import make_inception

    images = inception_weights.images(3, 64, 80)
    theirs = make_inception.run(make_inception.extractor(), images)
    ours = network()(variables(), images)
    for key, value in theirs.items():
        error = np.abs(np.asarray(ours[key]) - value).max() / np.abs(value).max()
        assert error < TOLERANCE, (key, error)
    np.testing.assert_allclose(resize(images), make_inception.resize(images), atol=5e-5)


@pytest.mark.parametrize(
    "name, shape",
    [("up", (1, 32, 24)), ("down", (1, 400, 333)), ("far", (1, 640, 600))],
)
def test_resize_golden(name, shape):
    resized = resize(inception_weights.images(*shape))
    # 255 times a few units of the last place
    np.testing.assert_allclose(
        resized[:, ::20, ::20], GOLDEN[f"resized_{name}"], atol=5e-5
    )


def test_resize_by_hand():
    image = np.array([[0, 8], [4, 20]], np.uint8)[None, :, :, None]
    # output i lies at i / 2; beyond the last pixel it repeats
    expected = [[0, 4, 8, 8], [2, 8, 14, 14], [4, 12, 20, 20], [4, 12, 20, 20]]
    np.testing.assert_array_equal(resize(image, size=4)[0, :, :, 0], expected)
    # 4 -> 2 takes every other pixel, with no antialias; 3 -> 2 lies at 0 and 1.5
    np.testing.assert_array_equal(
        resize(jnp.asarray(expected)[None, :, :, None], size=2)[0, :, :, 0],
        [[0, 8], [4, 20]],
    )
    row = jnp.array([10.0, 20.0, 50.0])
    square = jnp.broadcast_to(row, (1, 3, 3))[..., None]
    np.testing.assert_array_equal(resize(square, size=2)[0, 0, :, 0], [10, 35])


def test_resize_to_the_same_size_changes_nothing():
    images = inception_weights.images(1, 299, 299)
    np.testing.assert_array_equal(resize(images), images)


def test_avg_pool_leaves_the_padding_out():
    x = jnp.arange(12.0).reshape(1, 3, 4, 1)  # rows 0..3, 4..7, 8..11
    by_hand = [[2.5, 3, 4, 4.5], [4.5, 5, 6, 6.5], [6.5, 7, 8, 8.5]]
    np.testing.assert_allclose(avg_pool(x)[0, :, :, 0], by_hand, rtol=1e-6)


@pytest.mark.parametrize("size", [(9, 9), (8, 10), (7, 12)])
def test_max_pool_equals_reduce_window(size):
    x = jnp.asarray(np.random.default_rng(0).normal(size=(2, *size, 3)), jnp.float32)
    x -= 5  # so that a padding of zeros would win
    for stride, padding in ((1, "SAME"), (2, "VALID")):
        expected = jax.lax.reduce_window(
            x, -jnp.inf, jax.lax.max, (1, 3, 3, 1), (1, stride, stride, 1), padding
        )
        np.testing.assert_array_equal(max_pool(x, stride=stride), expected)


@pytest.mark.parametrize("shape", [(32, 32, 3), (2, 3, 32, 32), (2, 32, 32, 1)])
def test_images_of_another_shape_are_refused(shape):
    with pytest.raises(ValueError, match=r"\[B,H,W,3\]"):
        inception.Inception().init(jax.random.key(0), np.zeros(shape, np.uint8))
