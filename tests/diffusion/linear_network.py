"""A network that is linear in x, and what the tests of arguments hand over with it."""

import jax
import jax.numpy as jnp
import numpy as np

from progguide_jax.diffusion import levels, process, samplers

NS = process.ddpm_linear()
TS = samplers.timesteps(1000, 6)
LABELS = [0, 1, 2, 0, 1, 2, 0, 1]
X_T = jax.random.normal(jax.random.key(0), (8, 4, 4, 3))
GRID = levels.from_timesteps(NS, TS)
CURVE = np.linspace(0.1, 0.6, 6)


def net(params, x, t, cond):
    """Another slope for each label."""
    return params * x * (1 + 0.1 * jnp.reshape(cond, (-1, 1, 1, 1)))
