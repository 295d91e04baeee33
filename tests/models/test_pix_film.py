"""The small network of the two Gaussians: two numbers an image, no more."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from progguide_jax import models, state
from progguide_jax.diffusion import process

NS = process.ddpm_linear(100)
SHAPE = (4, 6, 1)


@pytest.fixture(scope="module")
def network():
    """(module, fresh params, params after some training, eps of label)."""
    module = models.create("pix_film", NS, 2, label_dim=8, width=16, depth=2, dropout=0)
    init = jax.jit(functools.partial(state.init_params, module, SHAPE))
    fresh = init(jax.random.key(0))

    @jax.jit
    def perturbed(params):
        keys = iter(jax.random.split(jax.random.key(1), 100))
        return jax.tree.map(
            lambda x: x + 0.3 * jax.random.normal(next(keys), x.shape), params
        )

    return module, fresh, perturbed(fresh), jax.jit(state.eps_of_label(module))


@pytest.fixture(scope="module")
def batch():
    x_t = jax.random.normal(jax.random.key(2), (5, *SHAPE))
    return x_t, jnp.array([0, 10, 50, 90, 99]), jnp.array([0, 1, 2, 0, 1])


def test_a_fresh_network_answers_sigma_x(network, batch):
    _, fresh, _, eps = network
    x_t, t, label = batch
    sigma = np.float32(NS.sigma)[np.asarray(t)].reshape(-1, 1, 1, 1)
    np.testing.assert_allclose(eps(fresh, x_t, t, label), sigma * x_t, rtol=1e-6)


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
