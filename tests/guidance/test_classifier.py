"""Classifier guidance, against the exact model."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from progguide_jax.analytic import gaussians
from progguide_jax.diffusion import levels, noise, process, samplers, solvers
from progguide_jax.guidance import references

NS = process.ddpm_linear()
MODEL = gaussians.TwoGaussians(0.5, 0.25, (3, 2))
LABEL = jnp.array([0, 1, 1, 0])


def sample(needs, kind="eps", dtype=jnp.float64):
    model, grid = MODEL.system(NS, kind), levels.make("leading", NS, 20)
    keys = noise.image_keys(jax.random.key(0), jnp.arange(4))
    x_T = samplers.initial_noise(keys, MODEL.shape, dtype)
    branches = references.branches(model, LABEL, needs)
    return samplers.solve(branches, x_T, solvers.ddim()(grid), omega=np.full(20, 3.0))


@pytest.mark.parametrize("kind", ["eps", "x0", "v"])
def test_an_exact_classifier_is_null_guidance(kind, x64):
    """eps_c - eps_null = -sigma grad log p(c | x_t), by Bayes' rule."""
    ours = sample({"classifier": {"log_prob": MODEL.log_prob()}}, kind)
    np.testing.assert_allclose(ours, sample({"null": {}}, kind), atol=1e-8)


def test_a_plain_function_and_one_of_the_wrong_shape(x64):
    def log_prob(x, level, label):
        return MODEL.log_prob()(x, level, label)

    ours = sample({"classifier": {"log_prob": log_prob}})
    np.testing.assert_allclose(ours, sample({"null": {}}), atol=1e-8)
    with pytest.raises(ValueError, match=r"log_prob returned shape \(\) for 4 images"):
        sample({"classifier": {"log_prob": lambda x, level, label: jnp.sum(x)}})
    with pytest.raises(ValueError, match="classifier: log_prob must be a function"):
        sample({"classifier": {"log_prob": 3}})
