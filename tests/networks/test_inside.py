"""Networks disturbed inside, against attention written out in NumPy."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from progguide_jax.diffusion import process
from progguide_jax.networks import inside, layers, unet
from progguide_jax.systems import build

NS = process.ddpm_linear(100)
SHAPE = (4, 4, 8)
X = np.random.default_rng(0).normal(size=(3, *SHAPE)).astype(np.float32)
WHERE = (("look", (4, 4)),)


class One(nn.Module):
    """A network of one attention block, `look`."""

    @nn.compact
    def __call__(self, x):
        return unet.AttentionBlock(jnp.dtype("float32"), name="look")(x)


@pytest.fixture(scope="module")
def params():
    fresh = One().init(jax.random.key(0), X)["params"]
    draws = np.random.default_rng(1)
    return jax.tree.map(lambda x: x + 0.5 * draws.normal(size=x.shape), fresh)


def parts(params):
    """(q, k, v [B,16,8], the output layer) in float64; two channels a group."""
    p = jax.tree.map(lambda x: np.asarray(x, np.float64), params["look"])
    groups = X.astype(np.float64).reshape(3, 16, 2, 4)
    mean, var = groups.mean((1, 3), keepdims=True), groups.var((1, 3), keepdims=True)
    y = ((groups - mean) / np.sqrt(var + 1e-6)).reshape(3, 16, 8)
    y = y * p["norm"]["scale"] + p["norm"]["bias"]
    q, k, v = (y @ p[n]["kernel"] + p[n]["bias"] for n in "qkv")
    return (
        q,
        k,
        v,
        lambda y: X + (y @ p["out"]["kernel"] + p["out"]["bias"]).reshape(X.shape),
    )


def attention(q, k):
    scores = np.exp(q @ k.transpose(0, 2, 1) / 8**0.5)
    return scores / scores.sum(-1, keepdims=True)


def answer(way, params, **numbers):
    return inside.answer(way, One(), params, WHERE, X, **numbers)


def test_an_identity_map_reads_v_alone(params):
    *_, v, out = parts(params)
    found = answer("identity_attention", params)
    np.testing.assert_allclose(found, out(v), atol=1e-4)
    plain = One().apply({"params": params}, X)
    assert np.abs(found - plain).max() > 0.1


def test_queries_blurred_to_their_mean(params):
    q, k, v, out = parts(params)
    wanted = out(attention(q.mean(1, keepdims=True) + 0 * q, k) @ v)
    found = answer("blurred_queries", params, sigma=np.inf)
    np.testing.assert_allclose(found, wanted, atol=1e-4)


def test_queries_blurred_a_little(params):
    """sigma 0.4 reaches one pixel: weights exp(-3.125), 1, exp(-3.125), and at the
    border the pixel inside of it twice."""
    q, k, v, out = parts(params)
    side = np.exp(-0.5 / 0.4**2)
    kernel = np.array([side, 1, side]) / (1 + 2 * side)
    image = np.pad(q.reshape(3, 4, 4, 8), [(0, 0), (1, 1), (1, 1), (0, 0)], "reflect")
    rows = sum(w * image[:, i : i + 4] for i, w in enumerate(kernel))
    blurred = sum(w * rows[:, :, i : i + 4] for i, w in enumerate(kernel))
    wanted = out(attention(blurred.reshape(q.shape), k) @ v)
    found = answer("blurred_queries", params, sigma=0.4)
    np.testing.assert_allclose(found, wanted, atol=1e-4)


def test_queries_not_blurred_are_the_plain_network(params):
    plain = One().apply({"params": params}, X)
    np.testing.assert_array_equal(answer("blurred_queries", params, sigma=0.0), plain)


def test_attention_that_each_pixel_gets(params):
    q, k, *_ = parts(params)
    found = answer("attended", params)
    wanted = attention(q, k).sum(1).reshape(3, 4, 4)
    np.testing.assert_allclose(found, wanted, rtol=1e-4)
    np.testing.assert_allclose(found.mean((1, 2)), 1, rtol=1e-5)


class Adds(nn.Module):
    value: float

    def __call__(self, x):
        return self.join(x, jnp.full_like(x, self.value))

    def join(self, x, h):
        return x + h


class Four(nn.Module):
    """x plus 1, 2, 4 and 8, in four residual blocks."""

    @nn.compact
    def __call__(self, x):
        for i in range(4):
            x = Adds(2.0**i, name=f"block{i}")(x)
        return x


@pytest.mark.parametrize(
    "rate, dropped", [(0, 0), (0.01, 1), (0.25, 1), (0.3, 2), (0.75, 3), (1, 4)]
)
def test_so_many_blocks_are_dropped_others_for_each_image(rate, dropped):
    """The sum of what is left says which were dropped."""
    keys = jax.random.split(jax.random.key(0), 400)
    sizes = tuple((f"block{i}", (1, 1)) for i in range(4))
    x = jnp.zeros((400, 1, 1, 1))

    @jax.jit
    def left(rate, keys):
        return inside.answer(
            "dropped_blocks", Four(), {}, sizes, x[: len(keys)], rate=rate, keys=keys
        )

    sums = np.asarray(left(rate, keys), int).ravel()
    kept = sums[:, None] >> np.arange(4) & 1
    np.testing.assert_array_equal(kept.sum(1), 4 - dropped)
    share = kept.mean(0)  # each as often as any other, within 5 standard errors
    np.testing.assert_allclose(share, 1 - dropped / 4, atol=5 * 0.5 / 20)
    np.testing.assert_array_equal(np.ravel(left(rate, keys[7:8])), sums[7])


def make(**settings):
    return unet.UNet(
        3, 16, base_channels=8, channel_mult=(1, 2), num_res_blocks=1,
        attention_resolutions=(4,), **settings,
    )  # fmt: skip


def init(module):
    return build.init_params(module, (8, 8, 3), jax.random.key(0))


@functools.cache
def fresh_params(module):
    return jax.jit(functools.partial(init, module))()


PLACES = inside.places(lambda: init(make()))


def test_the_places_of_a_unet():
    attention = {
        f"{name}_attention": (4, 4) for name in ("down1_0", "middle", "up1_0", "up1_1")
    }
    assert PLACES["weights"] == attention
    wide = dict.fromkeys(("down0_0", "up0_0", "up0_1"), (8, 8))
    narrow = "down1_0", "middle_0", "middle_1", "up1_0", "up1_1"
    assert PLACES["join"] == attention | wide | dict.fromkeys(narrow, (4, 4))


@pytest.mark.parametrize(
    "layers, names",
    [
        (
            ("all",),
            "down1_0_attention middle_attention up1_0_attention up1_1_attention",
        ),
        (("middle",), "middle_attention"),
        (("up1", "middle"), "middle_attention up1_0_attention up1_1_attention"),
        ((4,), "down1_0_attention middle_attention up1_0_attention up1_1_attention"),
        (("up1_1",), "up1_1_attention"),
    ],
)
def test_choosing_layers(layers, names):
    chosen = inside.choose(PLACES["weights"], layers)
    assert chosen == tuple((name, (4, 4)) for name in names.split())


def test_a_layer_that_is_not_there_is_an_error_with_all_that_are():
    words = "unknown layer '8': use one of all, 4, down1_0_attention, middle_attention"
    with pytest.raises(ValueError, match=words):
        inside.choose(PLACES["weights"], ("middle", 8))
    with pytest.raises(ValueError, match="did you mean 'middle_attention'"):
        inside.choose(PLACES["weights"], ("midle_attention",))
    with pytest.raises(ValueError, match="down0_0, .* differ in size: name one"):
        inside.choose(PLACES["join"], ("down0", "down1"), alike=True)


@pytest.fixture(scope="module")
def network():
    """(without an exit, with one, its parameters, what both are asked)."""
    module, draws = make(exit=4), np.random.default_rng(2)
    moved = jax.tree.map(
        lambda x: x + 0.1 * draws.normal(size=x.shape), fresh_params(module)
    )
    x = jnp.asarray(draws.normal(size=(2, 8, 8, 3)), jnp.float32)
    emb = jnp.asarray(draws.normal(size=(2, 16)), jnp.float32)
    return make(), module, moved, (x, NS.level(jnp.array([3, 70])), emb)


def test_an_exit_leaves_the_network_as_it_is(network):
    plain, module, params, asked = network
    mine = {"norm_exit", "conv_exit"}
    without = {name: p for name, p in params.items() if name not in mine}
    fresh, more = fresh_params(plain), fresh_params(module)
    assert set(more) - set(fresh) == mine
    jax.tree.map(np.testing.assert_array_equal, fresh, {k: more[k] for k in fresh})

    @jax.jit
    def all_four(without, params):
        return (
            [plain.apply({"params": without}, *asked)],
            [module.apply({"params": params}, *asked)],
            layers.answers(plain, without, *asked),
            layers.answers(module, params, *asked),
        )

    (wanted,), (same,), (only,), (whole, early) = all_four(without, params)
    for answer in (same, only, whole):
        np.testing.assert_array_equal(answer, wanted)
    assert early.shape == whole.shape and np.abs(early - whole).max() > 0.1


def test_an_exit_sees_nothing_behind_it(network):
    _, module, params, asked = network
    _, early = layers.answers(module, params, *asked)
    for name, same in (("up0_0", True), ("up1_conv", True), ("up1_1", False)):
        other = params | {name: jax.tree.map(lambda x: x + 1, params[name])}
        _, found = layers.answers(module, other, *asked)
        assert np.array_equal(found, early) == same


def test_a_pixel_of_the_exit_answers_for_a_square(network):
    """A head without weights answers its biases: 2 x 2 pixels of 3 colours each."""
    _, module, params, asked = network
    bias = np.arange(12, dtype=np.float32)
    head = {"kernel": jnp.zeros_like(params["conv_exit"]["kernel"]), "bias": bias}
    _, early = layers.answers(module, params | {"conv_exit": head}, *asked)
    square = bias.reshape(2, 2, 3)
    np.testing.assert_array_equal(early, np.tile(square, (2, 4, 4, 1)))
