"""A small network for data whose classes differ in brightness (paper, section 3).

It looks at an image through its mean and spread only and answers with two numbers,
a gain and a shift shared by all pixels: enough for isotropic Gaussian classes, whose
exact eps is (sigma / v) (x - alpha m 1) with v = alpha^2 std^2 + sigma^2, and x0 and v
of the same form; and fast enough to train in a minute.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from progguide_jax.diffusion import process
from progguide_jax.networks import layers


class PixFiLM(layers.LabelConditioned):
    """(c + a) x_t + b 1 / sqrt(d), a and b from an MLP, c = `layers.skip_gain`.

    c is sigma_t where the answer is eps, alpha_t where it is x0, 0 where it is v.
    """

    label_dim: int = 32
    width: int = 256
    depth: int = 4

    @nn.compact
    def __call__(
        self,
        x_t: jax.Array,
        level: process.Level,
        label_emb: jax.Array,
        train: bool = False,
    ) -> jax.Array:
        axes = tuple(range(1, x_t.ndim))
        d = np.prod(x_t.shape[1:])
        gain = layers.skip_gain(level, x_t, self.predicts)
        alpha, sigma = (
            process.column(v, x_t).reshape(-1, 1) for v in (level.alpha, level.sigma)
        )
        # at alpha = 0 the ratio is infinite: as if alpha were 1e-9
        log_r = jnp.log(sigma / jnp.maximum(alpha, 1e-9))
        y = (x_t.sum(axes) / d**0.5)[:, None]  # position on the brightness axis
        spread = x_t.std(axes)[:, None]
        features = [y / 4, jnp.tanh(y / 4), jnp.tanh(y), jnp.tanh(4 * y), spread]
        features += [log_r / 4, alpha, sigma]
        features += [layers.timestep_embedding(level.t, 64), label_emb]
        h = jnp.concatenate(features, axis=-1)
        for i in range(self.depth):
            h = nn.swish(nn.Dense(self.width, name=f"dense{i}")(h))
        a, b = jnp.split(
            nn.Dense(2, kernel_init=nn.initializers.zeros, name="out")(h), 2, 1
        )
        a, b = (v.reshape(gain.shape) for v in (a, b))
        return (gain + a) * x_t + b / d**0.5
