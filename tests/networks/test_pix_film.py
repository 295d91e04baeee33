"""The small network of the two Gaussians: two numbers an image, no more."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from progguide_jax import networks
from progguide_jax.diffusion import process
from progguide_jax.systems import build

NS = process.ddpm_linear(100)
SHAPE = (4, 6, 1)


@pytest.fixture(scope="module")
def network():
    """(module, fresh params, params after some training, eps of label)."""
    module = networks.create("pix_film", 2, label_dim=8, width=16, depth=2)
    init = jax.jit(functools.partial(build.init_params, module, SHAPE))
    fresh = init(jax.random.key(0))

    @jax.jit
    def perturbed(params):
        keys = iter(jax.random.split(jax.random.key(1), 100))
        return jax.tree.map(
            lambda x: x + 0.3 * jax.random.normal(next(keys), x.shape), params
        )

    return module, fresh, perturbed(fresh), jax.jit(build.eps_of_label(module, NS))


@pytest.fixture(scope="module")
def batch():
    x_t = jax.random.normal(jax.random.key(2), (5, *SHAPE))
    return x_t, jnp.array([0, 10, 50, 90, 99]), jnp.array([0, 1, 2, 0, 1])


def test_a_fresh_network_answers_sigma_x(network, batch):
    _, fresh, _, eps = network
    x_t, t, label = batch
    sigma = np.float32(NS.sigma)[np.asarray(t)].reshape(-1, 1, 1, 1)
    np.testing.assert_allclose(eps(fresh, x_t, t, label), sigma * x_t, rtol=1e-6)


@pytest.mark.parametrize("predicts", process.PREDICTIONS)
def test_a_fresh_network_is_exact_for_standard_normal_images(network, batch, predicts):
    """There x_t is N(0, I) too, and x0, eps have correlations alpha, sigma with it; at
    pure noise as well."""
    module = network[0].clone(predicts=predicts)
    x_t, t, label = batch
    level = process.zero_terminal_snr(NS).level(t)
    assert level.alpha[4] == 0
    got = build.raw_of_label(module)(network[1], x_t, level, label)
    alpha, sigma = (np.reshape(a, (5, 1, 1, 1)) for a in level[1:])
    exact = {"eps": sigma * x_t, "x0": alpha * x_t, "v": 0 * x_t}
    np.testing.assert_array_equal(got, exact[predicts])


@pytest.mark.parametrize("predicts", process.PREDICTIONS)
def test_pure_noise_has_an_answer_and_a_gradient(network, batch, predicts):
    module, x_t = network[0].clone(predicts=predicts), batch[0]
    level = process.Level(jnp.full(5, 99.5), jnp.zeros(5), jnp.ones(5))

    def total(params):
        return build.raw_of_label(module)(params, x_t, level, batch[2]).sum()

    value, gradient = jax.value_and_grad(total)(network[2])
    assert np.isfinite(value) and jax.tree.all(
        jax.tree.map(lambda g: np.all(np.isfinite(g)), gradient)
    )


def test_the_noise_is_known_by_its_level_alone(network, batch):
    """A fractional t is between its neighbours; alpha and sigma count apart from it."""
    module, _, params, _ = network
    raw = functools.partial(build.raw_of_label(module), params, batch[0])

    def at(t, alpha):
        level = process.Level(
            *(jnp.full(5, a) for a in (t, alpha, (1 - alpha**2) ** 0.5))
        )
        return np.asarray(raw(level, batch[2]))

    low, middle, high = (at(t, 0.7) for t in (40.0, 40.001, 40.002))
    np.testing.assert_allclose(middle, (low + high) / 2, atol=1e-4)
    assert np.abs(at(40.5, 0.7) - low).max() > 1e-3
    assert np.abs(at(40.0, 0.6) - low).max() > 1e-3


def test_the_answer_is_a_gain_and_a_shift_of_the_image(network, batch):
    """A least-squares line through (x, eps_hat) of the pixels leaves nothing over."""
    _, _, params, eps = network
    x_t, t, label = batch
    out = eps(params, x_t, t, label)
    for x, y in zip(np.asarray(x_t, float), np.asarray(out, float), strict=True):
        line = np.polyfit(x.ravel(), y.ravel(), 1)
        np.testing.assert_allclose(np.polyval(line, x), y, atol=1e-5)
        assert abs(line[0]) > 0.01 and abs(line[1]) > 0.001


def test_pixels_have_no_place_and_examples_do_not_interact(network, batch):
    _, _, params, eps = network
    x_t, t, label = batch
    out = np.asarray(eps(params, x_t, t, label)).reshape(5, -1)
    order = np.random.default_rng(0).permutation(24)
    shuffled = x_t.reshape(5, -1)[:, order].reshape(x_t.shape)
    again = np.asarray(eps(params, shuffled, t, label)).reshape(5, -1)
    np.testing.assert_allclose(again, out[:, order], atol=1e-5)
    alone = eps(params, x_t[2:3], t[2:3], label[2:3])
    np.testing.assert_allclose(alone.reshape(-1), out[2], atol=1e-5)
    other = np.asarray(eps(params, x_t, t, (label + 1) % 3)).reshape(5, -1)
    assert np.abs(other - out).max(1).min() > 1e-3


def test_two_numbers_are_enough_for_the_exact_answer(network):
    """With a head that ignores its input, a and b are what its bias says: the exact
    eps* = (sigma / v) (x - alpha m 1) of one class at one t is such a pair."""
    fresh = network[1]
    t, m, s = 40, 0.125, 0.25
    alpha, sigma = NS.alpha[t], NS.sigma[t]
    v = alpha**2 * s**2 + sigma**2
    bias = jnp.array([sigma / v - sigma, -sigma * alpha * m / v * 24**0.5])
    params = {**fresh, "out": {**fresh["out"], "bias": bias}}
    x_t = jax.random.normal(jax.random.key(3), (2, *SHAPE))
    got = network[3](params, x_t, jnp.full(2, t), jnp.array([1, 1]))
    np.testing.assert_allclose(got, sigma / v * (x_t - alpha * m), atol=1e-5)
