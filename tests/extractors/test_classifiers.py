"""The CIFAR ResNets against PyTorch (golden/make_resnet.py) and the public weights."""

import functools
import os
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from golden import inception_weights
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from progguide_jax.data import cifar10
from progguide_jax.extractors import classifiers
from progguide_jax.pretrained import convert, locate, readers, resnet_names

GOLDEN = np.load(pathlib.Path(__file__).parents[1] / "golden" / "resnet.npz")
CIFAR10 = os.environ.get("PROGGUIDE_CIFAR10_DIR", "")
WEIGHTS = os.environ.get("PROGGUIDE_WEIGHTS", "")
IMAGES = inception_weights.images(4, 32, 32)
PUBLISHED = {20: 827, 56: 661}  # errors in 10,000 test images


@functools.cache
def network(depth):
    """(jitted images -> outputs of variables, shapes of the variables)."""
    module = classifiers.ResNet(depth)
    return jax.jit(module.apply), jax.eval_shape(module.init, jax.random.key(0), IMAGES)


def load(depth, source):
    return convert.convert(
        source, resnet_names.RULES, network(depth)[1], ignore=resnet_names.IGNORE
    )


@functools.cache
def seeded(depth):
    """PyTorch's names -> weights by the rule of the golden file."""
    lines = (line.split() for line in GOLDEN[f"names_{depth}"])
    shapes = {
        name: tuple(int(n) for n in rest[0].split(",")) if rest else ()
        for name, *rest in lines
    }
    weights = inception_weights.state_dict(shapes)
    damped = {k: v * np.float32(0.3) for k, v in weights.items() if "bn2.weight" in k}
    return weights | damped


def public(depth):
    return locate.find(resnet_names.WEIGHTS[f"resnet{depth}"], WEIGHTS)


def check(depth, got, prefix):
    """To float32 rounding: 1e-5 of the largest value."""
    for kind, width in [("features", 64), ("logits", 10)]:
        expected = GOLDEN[f"{prefix}{kind}_{depth}"]
        assert got[kind].dtype == jnp.float32 and got[kind].shape == (4, width)
        atol = 1e-5 * np.abs(expected).max()
        np.testing.assert_allclose(got[kind], expected, rtol=0, atol=atol)


@pytest.mark.parametrize("depth", [20, 56])
def test_features_and_logits_are_those_of_pytorch(depth):
    got = network(depth)[0](load(depth, seeded(depth)), IMAGES)
    check(depth, got, "")
    assert np.ptp(GOLDEN[f"features_{depth}"], axis=0).min() > 0  # no dead channel


def test_a_split_batch_gives_the_same():
    """With the first block of each stage: the smallest such network."""
    source = {k: v for k, v in seeded(20).items() if ".0." in k or "layer" not in k}
    variables, apply = load(8, source), network(8)[0]
    images = np.concatenate([IMAGES, IMAGES[::-1]])
    mesh = Mesh(jax.devices(), ("data",))
    split = jax.device_put(images, NamedSharding(mesh, PartitionSpec("data")))
    whole, got = apply(variables, images), apply(variables, split)
    for kind in ("features", "logits"):
        assert len(got[kind].sharding.device_set) == 8
        assert not got[kind].is_fully_replicated
        np.testing.assert_allclose(got[kind], whole[kind], rtol=1e-5, atol=1e-5)
        np.testing.assert_allclose(got[kind][:4], got[kind][:3:-1], atol=1e-5)


@pytest.mark.parametrize(
    "shape, dtype, words",
    [
        ((2, 64, 64, 3), np.uint8, "uint8 [2, 64, 64, 3]"),
        ((2, 32, 32, 1), np.uint8, "uint8 [2, 32, 32, 1]"),
        ((32, 32, 3), np.uint8, "uint8 [32, 32, 3]"),
        ((2, 32, 32, 3), np.float32, "float32 [2, 32, 32, 3]"),
    ],
)
def test_other_images_are_refused(shape, dtype, words):
    with pytest.raises(ValueError) as error:
        jax.eval_shape(network(20)[0], network(20)[1], np.zeros(shape, dtype))
    message = str(error.value)
    assert words in message and "uint8 [N, 32, 32, 3]" in message
    assert "\n" not in message


def test_other_depths_are_refused():
    with pytest.raises(ValueError, match="depth 6 n [+] 2, not 18"):
        classifiers.ResNet(18).init(jax.random.key(0), IMAGES)


@pytest.mark.parametrize("depth, other", [(20, 56), (56, 20)])
def test_weights_of_the_other_depth_do_not_fit(depth, other):
    kind = "without a place" if other > depth else "missing"
    with pytest.raises(ValueError, match=kind):
        load(depth, seeded(other))


@pytest.mark.skipif(not WEIGHTS, reason="PROGGUIDE_WEIGHTS names no folder of weights")
@pytest.mark.parametrize("depth", [20, 56])
def test_public_weights_give_what_pytorch_gives(depth):
    found = public(depth)
    assert found.sha256 == resnet_names.WEIGHTS[f"resnet{depth}"][0].sha256
    got = network(depth)[0](load(depth, readers.read(found.path)), IMAGES)
    check(depth, got, "public_")


@pytest.mark.slow
@pytest.mark.skipif(
    not (WEIGHTS and CIFAR10),
    reason="needs PROGGUIDE_WEIGHTS and PROGGUIDE_CIFAR10_DIR",
)
@pytest.mark.parametrize("depth", [20, 56])
def test_public_weights_have_the_published_error(depth):
    test = cifar10.load(CIFAR10, "test", expected=10_000)
    apply, _ = network(depth)
    variables = load(depth, readers.read(public(depth).path))
    wrong = 0
    for start in range(0, 10_000, 500):
        logits = apply(variables, test.images[start : start + 500])["logits"]
        label = test.labels[start : start + 500]
        wrong += int(np.sum(np.argmax(logits, -1) != label))
    assert wrong == PUBLISHED[depth]
