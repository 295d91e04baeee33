"""Every weight finds its one place, or an error names it."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from progguide_jax.pretrained import convert

RULES = [
    convert.Renaming(r"conv\.weight", "params/conv/kernel", convert.conv),
    convert.Renaming(r"fc(\d)\.weight", r"params/fc\1/kernel", convert.dense),
    convert.Renaming(r"fc(\d)\.bias", r"params/fc\1/bias"),
    convert.Renaming(r"bn\.running_(mean|var)", r"batch_stats/bn/\1"),
]


def shape(*dims, dtype=jnp.float32):
    return jax.ShapeDtypeStruct(dims, dtype)


def target():
    return {
        "params": {
            "conv": {"kernel": shape(5, 4, 3, 2)},
            "fc0": {"kernel": shape(2, 6), "bias": shape(6)},
            "fc1": {"kernel": shape(6, 3), "bias": shape(3)},
        },
        "batch_stats": {"bn": {"mean": shape(2), "var": shape(2)}},
    }


def source():
    rng = np.random.default_rng(0)
    shapes = {
        "conv.weight": (2, 3, 5, 4),
        "fc0.weight": (6, 2),
        "fc0.bias": (6,),
        "fc1.weight": (3, 6),
        "fc1.bias": (3,),
        "bn.running_mean": (2,),
        "bn.running_var": (2,),
    }
    return {k: rng.standard_normal(s).astype(np.float32) for k, s in shapes.items()}


def refusal(weights, rules=RULES, variables=None, **options) -> str:
    with pytest.raises(ValueError) as caught:
        convert.convert(weights, rules, variables or target(), **options)
    message = str(caught.value)
    assert "\n" not in message
    return message


def test_the_network_computes_what_the_formulas_say():
    """Convolution and dense layer of PyTorch's definition, summed by hand."""

    class Net(nn.Module):
        @nn.compact
        def __call__(self, x):
            x = nn.Conv(2, (2, 3), padding="VALID", use_bias=False, name="conv")(x)
            return nn.Dense(4, name="fc0")(x)

    rng = np.random.default_rng(1)
    x = rng.standard_normal((1, 5, 6, 3)).astype(np.float32)
    weights = {
        "conv.weight": rng.standard_normal((2, 3, 2, 3)),  # O, I, H, W
        "fc0.weight": rng.standard_normal((4, 2)),
        "fc0.bias": rng.standard_normal(4),
    }
    net = Net()
    shapes = jax.eval_shape(net.init, jax.random.key(0), x)
    variables = convert.convert(weights, RULES, shapes)
    expected = np.zeros((4, 4, 2))
    for i in range(4):
        for j in range(4):
            patch = x[0, i : i + 2, j : j + 3].transpose(2, 0, 1)
            expected[i, j] = (weights["conv.weight"] * patch[None]).sum((1, 2, 3))
    expected = expected @ weights["fc0.weight"].T + weights["fc0.bias"][None, None]
    np.testing.assert_allclose(net.apply(variables, x)[0], expected, atol=1e-5)


def test_values_dtypes_and_structure():
    weights = source()
    result = convert.convert(weights, RULES, target())
    assert jax.tree.structure(result) == jax.tree.structure(target())
    kernel = result["params"]["conv"]["kernel"]
    for o, i, h, w in np.ndindex(2, 3, 5, 4):
        assert kernel[h, w, i, o] == weights["conv.weight"][o, i, h, w]
    assert result["params"]["fc1"]["kernel"][4, 2] == weights["fc1.weight"][2, 4]
    mean = result["batch_stats"]["bn"]["mean"]
    assert mean.tolist() == weights["bn.running_mean"].tolist()


@pytest.mark.parametrize("dtype", [np.float16, np.float64, np.int64])
def test_the_dtype_is_the_networks(dtype):
    weights = {k: (8 * v).astype(dtype) for k, v in source().items()}
    result = convert.convert(weights, RULES, target())
    for leaf in jax.tree.leaves(result):
        assert type(leaf) is np.ndarray and leaf.dtype == np.float32
    expected = weights["fc0.bias"].astype(np.float32)
    assert result["params"]["fc0"]["bias"].tolist() == expected.tolist()
    half = {"params": {"x": shape(6, dtype=jnp.bfloat16)}}
    result = convert.convert(
        {"x": weights["fc0.bias"]}, [convert.Renaming("x", "params/x")], half
    )
    assert result["params"]["x"].dtype == jnp.bfloat16


def test_one_name_may_fill_several_variables():
    """A fused query, key and value; a scalar keeps its shape."""
    rules = [
        convert.Renaming("qkv", f"params/{n}", lambda x, i=i: x[2 * i : 2 * i + 2])
        for i, n in enumerate("qkv")
    ] + [convert.Renaming("scale", "params/scale")]
    variables = {"params": {n: shape(2) for n in "qkv"} | {"scale": shape()}}
    weights = {"qkv": np.arange(6.0), "scale": np.array(3.0)}
    result = convert.convert(weights, rules, variables)["params"]
    assert [result[n].tolist() for n in "qkv"] == [[0, 1], [2, 3], [4, 5]]
    assert result["scale"].shape == () and result["scale"] == 3


def test_missing_weights():
    weights = source()
    del weights["fc1.bias"]
    message = refusal(weights, where="net.pth")
    assert message == "net.pth do not fit the network: missing: params/fc1/bias"


def test_unused_weights():
    message = refusal(source() | {"fc0.scale": np.zeros(2)})
    assert message.endswith("unused: fc0.scale")
    # a whole name must match, of a rule and of `ignore`
    assert "unused: conv.weight2" in refusal(source() | {"conv.weight2": np.zeros(2)})
    assert "unused: xconv.weight" in refusal(source() | {"xconv.weight": np.zeros(2)})
    extra = source() | {"bn.num_batches_tracked": np.int64(3)}
    assert "num_batches_tracked" in refusal(extra, ignore=[r"num_batches_tracked"])
    convert.convert(extra, RULES, target(), ignore=["no", r".*\.num_batches_tracked"])


def test_a_weight_without_a_place():
    """A deeper network's weights, and a path that is no leaf."""
    message = refusal(source() | {"fc2.bias": np.zeros(2)})
    assert "without a place in the network: fc2.bias -> params/fc2/bias" in message
    inner = [*RULES, convert.Renaming("x", "params/conv")]
    assert "x -> params/conv" in refusal(source() | {"x": np.zeros(2)}, inner)


@pytest.mark.parametrize("wrong", [(6, 3), (3, 6, 1), (3, 7), (18,), ()])
def test_a_wrong_shape(wrong):
    message = refusal(source() | {"fc1.weight": np.zeros(wrong)})
    found = ",".join(map(str, wrong))
    kind = "of the wrong shape"
    assert f"{kind}: fc1.weight [{found}] for [6,3] of params/fc1/kernel" in message
    assert "missing" not in message


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 1e39])
def test_values_that_are_not_finite(value):
    """1e39 is a float64 that no float32 holds."""
    weights = source()
    weights["fc1.bias"] = weights["fc1.bias"].astype(np.float64)
    weights["fc1.bias"][1] = value
    assert refusal(weights).endswith("not finite: fc1.bias")


def test_a_variable_filled_twice():
    twice = [*RULES, convert.Renaming(r"fc1\.bias|other", "params/fc1/bias")]
    message = refusal(source(), twice)
    kind = "filled more than once: params/fc1/bias by"
    assert f"{kind} fc1.bias and fc1.bias" in message
    once = [r for r in twice if "bias" not in r.target] + [
        convert.Renaming(r"fc(0)\.bias|fc1\.bias2", r"params/fc0/bias"),
        twice[-1],
    ]
    message = refusal(source() | {"other": np.zeros(3)}, once)
    assert f"{kind} fc1.bias and other" in message


def test_many_mistakes_in_one_line():
    """Three names and a count of each kind, every kind."""
    weights = {f"extra{i}": np.zeros(1) for i in range(10)}
    message = refusal(weights | {"fc0.bias": np.full(6, np.nan)})
    assert re.fullmatch(
        r"the weights do not fit the network: "
        r"unused: extra0, extra1, extra2, \.\.\. \(10 in all\); "
        r"not finite: fc0\.bias; "
        r"missing: params/conv/kernel, params/fc0/kernel, params/fc1/kernel, "
        r"\.\.\. \(6 in all\)",
        message,
    )
