"""A classifier of noisy images: the U-Net's way down, and a pooling by attention.

Dhariwal and Nichol 2021 (arXiv:2105.05233, section 4): classifier guidance needs one
that was trained on x_t at every noise level.
"""

import functools
from collections.abc import Sequence

import flax.linen as nn
import jax
import jax.numpy as jnp

from progguide_jax.diffusion import process
from progguide_jax.networks import layers, unet

_Conv = functools.partial(nn.Conv, kernel_size=(3, 3))


class Encoder(nn.Module):
    """Logits float32 [B,K] of the classes from x_t [B,H,W,C] and level.

    A fresh one gives every class the same probability.
    """

    num_classes: int
    base_channels: int = 64
    channel_mult: Sequence[int] = (1, 2, 2, 2)
    num_res_blocks: int = 1
    attention_resolutions: Sequence[int] = (16, 8)
    dropout: float = 0.0
    dtype: str = "float32"

    @nn.compact
    def __call__(
        self, x_t: jax.Array, level: process.Level, train: bool = False
    ) -> jax.Array:
        dtype, width = jnp.dtype(self.dtype), 4 * self.base_channels
        emb = layers.timestep_embedding(level.t, self.base_channels).astype(dtype)
        emb = nn.Dense(width, dtype=dtype, name="time_in")(emb)
        emb = nn.Dense(width, dtype=dtype, name="time_out")(nn.swish(emb))
        h = _Conv(self.base_channels, dtype=dtype, name="conv_in")(x_t.astype(dtype))
        for i, mult in enumerate(self.channel_mult):
            if i > 0:
                name = f"down{i - 1}_conv"
                h = _Conv(h.shape[-1], strides=2, dtype=dtype, name=name)(h)
            for j in range(self.num_res_blocks):
                channels, name = self.base_channels * mult, f"down{i}_{j}"
                block = unet.ResBlock(channels, self.dropout, dtype, name=name)
                h = block(h, emb, train)
                if h.shape[1] in self.attention_resolutions:
                    h = unet.AttentionBlock(dtype, name=f"{name}_attention")(h)
        groups = min(32, h.shape[-1] // 4)
        h = nn.swish(layers.GroupNorm(groups, name="norm_out")(h))
        return self._pooled(h.astype(jnp.float32))

    def _pooled(self, h: jax.Array) -> jax.Array:
        """What the mean of the pixels, asking each of them and itself, is told."""
        b, height, width, c = h.shape
        h = h.reshape(b, height * width, c)
        h = jnp.concatenate([h.mean(1, keepdims=True), h], axis=1)
        normal = nn.initializers.normal(c**-0.5)
        h = h + self.param("position", normal, (1, *h.shape[1:]))
        q, k, v = (nn.Dense(c, name=f"pool_{n}")(h) for n in ("q", "k", "v"))
        weights = nn.softmax(jnp.einsum("bc,bkc->bk", q[:, 0], k) * c**-0.5, axis=-1)
        found = jnp.einsum("bk,bkc->bc", weights, v)
        head = nn.Dense(self.num_classes, kernel_init=nn.initializers.zeros, name="out")
        return head(found)
