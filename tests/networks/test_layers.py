"""The pieces of the networks against flax and float64 numpy."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from progguide_jax.networks import layers


def numpy_group_norm(x, groups, scale, bias, epsilon=1e-6):
    """Group normalisation as Wu and He (2018, eq. 1 to 5) write it, in float64."""
    b, h, w, c = x.shape
    y = x.astype(np.float64).reshape(b, h * w, groups, c // groups)
    mean = y.mean((1, 3), keepdims=True)
    y = (y - mean) / np.sqrt(y.var((1, 3), keepdims=True) + epsilon)
    return y.reshape(x.shape) * scale + bias


@pytest.fixture(scope="module")
def features():
    """x [4,6,5,24] whose channels differ in mean and spread; scale and bias [24]."""
    gen = np.random.default_rng(0)
    x = gen.normal(gen.normal(size=24), gen.uniform(0.5, 2, 24), (4, 6, 5, 24))
    return x.astype(np.float32), gen.normal(size=24), gen.normal(size=24)


@pytest.mark.parametrize("groups", [1, 6, 24])
def test_group_norm_is_that_of_numpy_and_of_flax(features, groups):
    x, scale, bias = features
    variables = {"params": {"scale": jnp.float32(scale), "bias": jnp.float32(bias)}}
    ours = layers.GroupNorm(groups).apply(variables, x)
    exact = numpy_group_norm(x, groups, np.float32(scale), np.float32(bias))
    error = np.linalg.norm(ours - exact) / np.linalg.norm(exact)
    assert error < 1e-6
    theirs = nn.GroupNorm(groups).apply(variables, x)  # the same names and shapes
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=5e-6)


def test_group_norm_has_the_parameters_of_flax(features):
    ours, theirs = (
        norm(6).init(jax.random.key(0), features[0])
        for norm in (layers.GroupNorm, nn.GroupNorm)
    )
    assert jax.tree.all(jax.tree.map(np.array_equal, ours, theirs))


def test_group_norm_of_bfloat16_has_float32_statistics(features):
    x = jnp.asarray(features[0] + 30, jnp.bfloat16)  # 1/8 is the rounding at 30
    module = layers.GroupNorm(6)
    y = module.apply(module.init(jax.random.key(0), x), x)
    assert y.dtype == jnp.bfloat16
    exact = numpy_group_norm(np.asarray(x, np.float32), 6, 1.0, 0.0)
    np.testing.assert_allclose(np.asarray(y, np.float32), exact, atol=0.02, rtol=0.01)


def test_timestep_embedding_is_the_formula():
    t = np.array([0, 1, 37, 999])
    frequency = 10_000.0 ** (-np.arange(16) / 15)  # 1 ... 1e-4, both ends included
    angle = t[:, None] * frequency
    expected = np.concatenate([np.sin(angle), np.cos(angle)], 1)
    got = layers.timestep_embedding(jnp.asarray(t), 32)
    assert got.dtype == jnp.float32
    # an angle of 999 radians has a float32 rounding of 3e-5
    np.testing.assert_allclose(got, expected, atol=1e-4)


def test_label_embedding_looks_rows_up_and_the_last_is_the_null_label():
    table = jnp.arange(12.0).reshape(4, 3)
    module = layers.LabelEmbedding(num_classes=3, dim=3)
    rows = module.apply({"params": {"table": table}}, jnp.array([3, 0, 2]))
    np.testing.assert_array_equal(rows, [[9, 10, 11], [0, 1, 2], [6, 7, 8]])
