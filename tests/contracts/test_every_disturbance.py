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


def sample(name, scale, model, rows=slice(6), **kwargs):
    needs = {n: {} for n in (*BESIDE.get(name, ()), name)}
    omega = {references.REFERENCES[n].branch: np.zeros(8) for n in needs}
    omega[references.REFERENCES[name].branch] += scale
    branches = references.branches(model, LABEL[rows], needs)
    keys = samplers.image_keys(jax.random.key(0), jnp.arange(6))[rows]
    return samplers.solve(
        branches, worlds.start(shape=model.shape)[rows], solvers.ddim()(worlds.grid()),
        omega=omega, key=keys, **kwargs,
    )  # fmt: skip


@pytest.mark.parametrize("name", INSIDE)
def test_it_acts_and_omega_0_is_plain(name, unet):
    plain, guided = sample(name, 0, unet), sample(name, 1, unet)
    np.testing.assert_allclose(plain, sample("null", 0, unet), atol=1e-6)
    assert not np.allclose(plain, guided, atol=1e-2)
    assert np.isfinite(guided).all()


@pytest.mark.parametrize("name", INSIDE)
def test_an_image_does_not_depend_on_its_neighbours(name, unet):
    whole = sample(name, 1, unet)
    alone = sample(name, 1, unet, slice(4, 5))
    np.testing.assert_allclose(whole[4:5], alone, atol=1e-4)


@pytest.mark.parametrize("name", INSIDE)
def test_double_batch_is_two_calls(name, unet):
    once = sample(name, 1, unet, double_batch=True)
    np.testing.assert_allclose(once, sample(name, 1, unet), atol=1e-4)
