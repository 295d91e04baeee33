"""A small network for data whose classes differ in brightness (paper, section 3).

It looks at an image through its mean and spread only and answers with two numbers,
a gain and a shift shared by all pixels: enough for isotropic Gaussian classes, whose
exact eps is (sigma / v) (x - alpha m 1), and fast enough to train in a minute.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from progguide_jax.diffusion import process
from progguide_jax.models import layers


class PixFiLM(nn.Module):
    """eps_hat = (sigma_t + a) x_t + b 1 / sqrt(d), a and b from an MLP."""

    noise_schedule: process.NoiseSchedule
    num_classes: int
    label_dim: int = 32
    width: int = 256
    depth: int = 4

    def setup(self):
        self.label_table = layers.LabelEmbedding(self.num_classes, self.label_dim)

    def embed_label(self, label: jax.Array) -> jax.Array:
        """Rows float32 [B,D] of label int [B]; label num_classes is the null label."""
        return self.label_table(label)

    @nn.compact
    def __call__(
        self, x_t: jax.Array, t: jax.Array, label_emb: jax.Array, train: bool = False
    ) -> jax.Array:
        ns = self.noise_schedule
        axes = tuple(range(1, x_t.ndim))
        d = np.prod(x_t.shape[1:])
        alpha, sigma = (process.at(v, t, x_t) for v in (ns.alpha, ns.sigma))
        sigma_1, log_r = sigma.reshape(-1, 1), jnp.log(sigma / alpha).reshape(-1, 1)
        y = (x_t.sum(axes) / d**0.5)[:, None]  # position on the brightness axis
        spread = x_t.std(axes)[:, None]
        features = [y / 4, jnp.tanh(y / 4), jnp.tanh(y), jnp.tanh(4 * y), spread]
        features += [log_r / 4, alpha.reshape(-1, 1), sigma_1]
        features += [layers.timestep_embedding(t, 64), label_emb]
        h = jnp.concatenate(features, axis=-1)
        for i in range(self.depth):
            h = nn.swish(nn.Dense(self.width, name=f"dense{i}")(h))
        a, b = jnp.split(
            nn.Dense(2, kernel_init=nn.initializers.zeros, name="out")(h), 2, 1
        )
        a, b = (v.reshape(sigma.shape) for v in (a, b))
        return (sigma + a) * x_t + b / d**0.5
