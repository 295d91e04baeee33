"""What every reference that looks inside a network owes, on a small U-Net."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import worlds

from progguide_jax.diffusion import samplers, solvers
from progguide_jax.guidance import references
from progguide_jax.systems import build, trained

INSIDE = [name for name, entry in references.REFERENCES.items() if entry.inside]
# what stands beside it, with omega 0
BESIDE = {"sag": ["null"]}
LABEL = jnp.arange(6) % 2


@pytest.fixture(scope="module")
def unet(make_tiny):
    """A U-Net of 8 x 8 pixels that has all that can be disturbed, none of it 0."""
    config = make_tiny()
    config.noise.num_timesteps, config.data.num_classes = 1000, 2
    config.model.unet.update(
        channel_mult=(1, 2), attention_resolutions=(4,), exit=4, sigma_skip=True
    )
    init = jax.jit(
        functools.partial(build.init_params, build.network(config)), static_argnums=0
    )
    draws = np.random.default_rng(1)
    moved = jax.tree.map(
        lambda x: (x + 0.2 * draws.normal(size=x.shape)).astype(x.dtype),
        init((8, 8, 3), jax.random.key(0)),
    )
    return trained.of(config, moved, {})


def sample(name, scale, model, moved=6, **kwargs):
    """moved: from this image on, others."""
    needs = {n: {} for n in (*BESIDE.get(name, ()), name)}
    omega = {references.REFERENCES[n].branch: np.zeros(8) for n in needs}
    omega[references.REFERENCES[name].branch] += scale
    branches = references.branches(model, LABEL, needs)
    x_T = worlds.start(shape=model.shape)
    x_T = jnp.concatenate([x_T[:moved], -x_T[moved:]])
    plan, key = solvers.ddim()(worlds.grid()), jax.random.key(0)
    return samplers.solve(branches, x_T, plan, omega=omega, key=key, **kwargs)


@pytest.mark.parametrize("name", INSIDE)
def test_it_acts_and_omega_0_is_plain(name, unet):
    """And an image does not depend on its neighbours, which are others here. Without
    the branch the program is another, and rounds otherwise."""
    plain, guided = sample(name, 0, unet), sample(name, 1, unet)
    np.testing.assert_allclose(plain, sample("null", 0, unet), atol=1e-4)
    assert not np.allclose(plain, guided, atol=1e-2)
    assert np.isfinite(guided).all()
    beside = sample(name, 1, unet, moved=3)
    np.testing.assert_allclose(beside[:3], guided[:3], atol=1e-4)
    assert not np.allclose(beside[3:], guided[3:], atol=1e-2)


@pytest.mark.slow
@pytest.mark.parametrize("name", INSIDE)
def test_double_batch_is_two_calls(name, unet):
    once = sample(name, 1, unet, double_batch=True)
    np.testing.assert_allclose(once, sample(name, 1, unet), atol=1e-4)
