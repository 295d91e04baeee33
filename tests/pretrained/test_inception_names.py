"""The three spellings of the Inception weights, each at full size."""

import functools
import json
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from progguide_jax.extractors import inception
from progguide_jax.pretrained import convert, inception_names

FOLDER = pathlib.Path(__file__).parents[1] / "golden"
LAYERS = json.loads((FOLDER / "inception_names.json").read_text())["layers"]
LEAVES = {  # of a layer: in PyTorch, in the graph, in NVIDIA's file
    "conv.weight": ("conv2d_params", "weight"),
    "bn.weight": ("batchnorm/gamma", None),
    "bn.bias": ("batchnorm/beta", "beta"),
    "bn.running_mean": ("batchnorm/moving_mean", "mean"),
    "bn.running_var": ("batchnorm/moving_variance", "var"),
}
OURS = dict(zip(LEAVES, ("kernel", "scale", "bias", "mean", "var"), strict=True))


@functools.cache
def target():
    images = jax.ShapeDtypeStruct((1, 32, 32, 3), jnp.uint8)
    return jax.eval_shape(inception.Inception().init, jax.random.key(0), images)


@functools.cache
def from_torch() -> dict[str, np.ndarray]:
    """torch-fidelity's state dict; every value of the i-th weight is i."""
    shapes = json.loads(str(np.load(FOLDER / "inception.npz")["state"]))
    return {
        name: np.broadcast_to(np.float32(i), shape)
        for i, (name, shape) in enumerate(shapes.items())
    }


def from_graph() -> dict[str, np.ndarray]:
    source = {"pool_3/_reshape/shape": np.array([1, 2048], np.int32)}
    for graph, torch in LAYERS.items():
        for leaf, (name, _) in LEAVES.items():
            x = from_torch()[f"{torch}.{leaf}"]
            x = x.transpose(2, 3, 1, 0) if x.ndim == 4 else x
            source[f"{graph}/{name}"] = x
    source["softmax/weights"] = from_torch()["fc.weight"].T
    return source | {"softmax/biases": from_torch()["fc.bias"]}


def from_nvidia() -> dict[str, np.ndarray]:
    """Towers are modules of a block, but in the last two blocks one word."""
    source = {"constants/0": np.zeros(3, np.int64)}
    for graph, torch in LAYERS.items():
        last = graph.startswith(("mixed_9/", "mixed_10/"))
        head, _, tail = graph.partition("/")
        layer = f"{head}.{tail.replace('/', '_')}" if last else graph.replace("/", ".")
        for leaf, (_, name) in LEAVES.items():
            if name:
                source[f"layers.{layer}.{name}"] = from_torch()[f"{torch}.{leaf}"]
    source["output.weight"] = from_torch()["fc.weight"]
    return source | {"output.bias": from_torch()["fc.bias"]}


SPELLINGS = {"torch": from_torch, "graph": from_graph, "nvidia": from_nvidia}


@pytest.mark.parametrize("spelling", SPELLINGS)
def test_every_weight_of_each_file_has_its_place(spelling):
    source = SPELLINGS[spelling]()
    rules, ignore = inception_names.rules_for(source)
    params = convert.convert(source, rules, target(), ignore=ignore)["params"]
    assert (params["fc"]["kernel"] == from_torch()["fc.weight"].T).all()
    for name in LAYERS.values():
        layer = functools.reduce(dict.__getitem__, name.split("."), params)
        for leaf, ours in OURS.items():
            expected = from_torch()[f"{name}.{leaf}"].flat[0]
            if spelling == "nvidia" and ours == "scale":
                expected = 1
            assert (layer[ours] == expected).all(), (name, ours)


def test_graph_names_include_those_that_tensorflow_prints():
    # end of the list of nodes in the README of anshuman23/tensorflex
    printed = """softmax/biases softmax/weights pool_3/_reshape/shape
        mixed_10/tower_2/conv/batchnorm/moving_variance
        mixed_10/tower_2/conv/batchnorm/moving_mean
        mixed_10/tower_2/conv/batchnorm/gamma mixed_10/tower_2/conv/batchnorm/beta
        mixed_10/tower_2/conv/conv2d_params mixed_10/tower_1/mixed/conv_1/conv2d_params
        mixed_10/tower_1/mixed/conv/batchnorm/moving_mean
        mixed_10/tower_1/conv_1/conv2d_params mixed_10/tower/conv/conv2d_params
        mixed_10/tower/mixed/conv_1/batchnorm/gamma mixed_10/conv/conv2d_params"""
    assert set(printed.split()) <= set(from_graph())


@pytest.mark.parametrize("spelling", SPELLINGS)
@pytest.mark.parametrize("change", ["lost", "foreign", "swapped"])
def test_a_file_that_is_not_quite_it_is_refused(spelling, change):
    source = dict(SPELLINGS[spelling]())
    names = [n for n in source if "mixed_4" in n or "Mixed_6b" in n]
    if change == "lost":
        del source[names[0]]
    elif change == "foreign":
        source[names[0].replace("conv", "convolution")] = source[names[0]]
        source[names[0] + "_2"] = source[names[0]]
    else:  # 1x7 for 7x1
        row, column = [n for n in names if source[n].shape[-4:].count(7) == 1][:2]
        source[row], source[column] = source[column], source[row]
    rules, ignore = inception_names.rules_for(source)
    message = {"lost": "missing", "foreign": "unused", "swapped": "wrong shape"}[change]
    if spelling == "graph" and change == "foreign":
        message = "unused|without a place"
    with pytest.raises(ValueError, match=message) as error:
        convert.convert(source, rules, target(), ignore=ignore)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("names", [[], ["layer1.0.conv1.weight", "fc.bias"]])
def test_another_network_is_refused_by_name(names):
    with pytest.raises(ValueError, match="no weights of the 2015 Inception") as error:
        inception_names.rules_for(names)
    assert "\n" not in str(error.value)


def test_digests_agree_with_the_file_names():
    for file in inception_names.WEIGHTS:
        stem = file.name.rpartition(".")[0]
        if file.sha256:
            assert len(file.sha256) == 64 and stem.endswith(file.sha256[:8])
