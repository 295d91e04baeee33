"""The U-Net: its published size, its dtypes, and that examples do not interact."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs import cifar10
from progguide_jax import networks
from progguide_jax.diffusion import process
from progguide_jax.guidance import gradnorm
from progguide_jax.networks import unet
from progguide_jax.systems import build

NS = process.ddpm_linear(100)
CLASSES, SHAPE = 3, (8, 8, 3)
# programs that run once or twice: compiling them well takes longer than they run
QUICK = {"xla_backend_optimization_level": 0}


def make(**settings):
    small = dict(
        base_channels=8,
        channel_mult=(1, 2),
        num_res_blocks=1,
        attention_resolutions=(4,),
        label_dim=16,
    )
    return unet.UNet(CLASSES, **(small | settings))


@functools.cache
def fresh_params(module):
    init = functools.partial(build.init_params, module, SHAPE)
    return jax.jit(init, compiler_options=QUICK)(jax.random.key(0))


def perturbed(params):
    """No leaf is zero any more, as after training."""
    generator = np.random.default_rng(1)
    return jax.tree.map(
        lambda x: x + 0.1 * generator.standard_normal(x.shape, np.float32), params
    )


@pytest.fixture(scope="module")
def batch():
    keys = jax.random.split(jax.random.key(2), 2)
    x0, eps = (jax.random.normal(k, (6, *SHAPE)) for k in keys)
    t = jnp.array([0, 3, 30, 60, 90, 99])
    return x0, eps, t, jnp.array([0, 1, 2, 3, 0, 1])


@functools.partial(jax.jit, static_argnums=0, compiler_options=QUICK)
def predict(module, params, x_t, t, label):
    return build.raw_of_label(module)(params, x_t, NS.level(t), label)


def leaf_counts(params):
    return sum(x.size for x in jax.tree.leaves(params))


def test_the_cifar10_recipe_is_the_published_network():
    """35,746,307 is the size of DDPM's CIFAR-10 checkpoint; the table adds 11 rows."""
    c = cifar10.get_config()
    module = build.network(c)
    params = jax.eval_shape(
        functools.partial(build.init_params, module, build.image_shape(c)),
        jax.random.key(0),
    )
    assert params["label_table"]["table"].shape == (11, 512)
    assert leaf_counts(params) == 35_746_307 + 11 * 512
    attention = {name for name in params if "attention" in name}
    assert attention == {"middle_attention"} | {
        f"{way}1_{j}_attention" for way, n in (("down", 2), ("up", 3)) for j in range(n)
    }
    assert {x.dtype for x in jax.tree.leaves(params)} == {jnp.dtype("float32")}


@pytest.mark.parametrize(
    "skip, predicts", [(False, "eps"), (True, "eps"), (True, "x0"), (True, "v")]
)
def test_a_fresh_network_answers_zero_or_the_skip(batch, skip, predicts):
    """sigma x for eps, alpha x for x0, 0 for v: one answer in three forms."""
    x0, _, t, label = batch
    module = make(sigma_skip=skip, predicts=predicts)
    got = predict(module, fresh_params(make()), x0, t, label)
    gain = {"eps": NS.sigma, "x0": NS.alpha, "v": np.zeros(100)}[predicts]
    gain = np.float32(gain)[np.asarray(t)] if skip else np.zeros(6, np.float32)
    np.testing.assert_array_equal(got, gain[:, None, None, None] * np.asarray(x0))


def test_examples_do_not_interact(batch):
    x0, _, t, label = batch
    module = make()
    params = perturbed(fresh_params(module))
    together = predict(module, params, x0, t, label)
    assert np.std(together) > 0.1
    order = np.array([4, 2, 0, 5, 1, 3])
    permuted = predict(module, params, x0[order], t[order], label[order])
    np.testing.assert_allclose(permuted, together[order], atol=1e-5)
    halves = [predict(module, params, x0[s], t[s], label[s]) for s in
              (slice(0, 3), slice(3, 6))]  # fmt: skip
    np.testing.assert_allclose(np.concatenate(halves), together, atol=1e-5)
    changed = predict(module, params, x0.at[1:].add(1.0), t, label)
    np.testing.assert_allclose(changed[0], together[0], atol=1e-5)
    assert np.abs(changed[1:] - together[1:]).max(axis=(1, 2, 3)).min() > 0.01


def test_every_input_matters(batch):
    x0, _, t, label = batch
    module = make()
    params = perturbed(fresh_params(module))
    before = predict(module, params, x0, t, label)
    for other in ((x0, t, (label + 1) % 4), (x0, (t + 50) % 100, label)):
        after = predict(module, params, *other)
        assert np.abs(after - before).max(axis=(1, 2, 3)).min() > 1e-3


def test_bfloat16_is_for_activations_only(batch):
    x0, _, t, label = batch
    half, full = make(dtype="bfloat16"), make()
    params = fresh_params(half)
    assert {x.dtype for x in jax.tree.leaves(params)} == {jnp.dtype("float32")}
    params = perturbed(params)
    rough, exact = (predict(m, params, x0, t, label) for m in (half, full))
    assert rough.dtype == jnp.float32
    error = np.linalg.norm(rough - exact) / np.linalg.norm(exact)
    assert 1e-4 < error < 0.05  # 8 bits of mantissa, a dozen layers
    assert np.any(np.asarray(rough) != np.asarray(rough.astype(jnp.bfloat16)))


def test_the_null_label_is_the_last_row(batch):
    module = make()
    params = fresh_params(module)
    table = params["label_table"]["table"]
    assert table.shape == (CLASSES + 1, 16)
    rows = build.embed_label(module, params, jnp.array([CLASSES, 0]))
    np.testing.assert_array_equal(rows, table[jnp.array([CLASSES, 0])])
    assert rows.dtype == jnp.float32


def test_dropout_needs_train_and_its_key(batch):
    x0, _, t, label = batch
    module = make(dropout=0.5)
    params = perturbed(fresh_params(module))
    emb = build.embed_label(module, params, label)

    @functools.partial(jax.jit, compiler_options=QUICK)
    def dropped(seed):
        rngs = {"dropout": jax.random.key(seed)}
        return module.apply(
            {"params": params}, x0, NS.level(t), emb, train=True, rngs=rngs
        )

    np.testing.assert_array_equal(dropped(0), dropped(0))
    assert np.abs(dropped(0) - dropped(1)).max() > 0.01
    np.testing.assert_allclose(
        predict(module, params, x0, t, label),
        predict(make(), params, x0, t, label),
        atol=1e-6,
    )


@pytest.mark.parametrize("widths", [(1,), pytest.param((1, 2), marks=pytest.mark.slow)])
def test_one_backward_is_the_gradient_of_each_example(batch, widths):
    x0, eps, t, label = batch
    smallest = 8 // len(widths)
    module = make(
        sigma_skip=True, channel_mult=widths, attention_resolutions=(smallest,)
    )
    fresh = fresh_params(module)

    @functools.partial(jax.jit, compiler_options=QUICK)
    def both(params):
        eps_fn = functools.partial(build.eps_of_embedding(module, NS), params)
        emb = build.embed_label(module, params, label)
        return [
            f(eps_fn, x0, eps, t, emb, noise_schedule=NS)
            for f in (gradnorm.per_example, gradnorm.per_example_vmap)
        ]

    one, each = both(perturbed(fresh))
    assert np.all(np.asarray(one) > 1e-3)
    np.testing.assert_allclose(one, each, rtol=1e-4)
    np.testing.assert_array_equal(both(fresh)[0], np.zeros(6))  # behind a zero head


def test_an_unknown_network_or_setting_is_named_with_the_nearest():
    with pytest.raises(ValueError, match="unknown model 'unett': did you mean 'unet'"):
        networks.create("unett", 3)
    words = "unknown setting of model 'pix_film': 'widht': did you mean 'width'"
    with pytest.raises(ValueError, match=words):
        networks.create("pix_film", 3, widht=8)
    with pytest.raises(ValueError, match="model 'pix_film': 'dropout'"):
        networks.create("pix_film", 3, dropout=0.1)
    assert networks.create("unet", 3, dropout=0.1) == unet.UNet(3, dropout=0.1)


def test_a_part_of_an_image_meets_the_attention_that_the_whole_meets(batch):
    """On 6 of 8 pixels attention made at width 4 is there at width 3."""
    x0, _, t, label = batch
    module, part = make(), x0[:, :6, 1:7]
    params = perturbed(fresh_params(module))
    narrow = make(attention_resolutions=(3,))
    expected = predict(narrow, params, part, t, label)
    np.testing.assert_array_equal(predict(module, params, part, t, label), expected)
    without = {name: p for name, p in params.items() if "0_attention" not in name}
    assert not np.allclose(predict(module, without, part, t, label), expected)
