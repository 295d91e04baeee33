"""The DDPM U-Net with a label embedding (Ho et al. 2020, appendix B).

At base_channels 128, channel_mult (1, 2, 2, 2), 2 blocks, attention at 16x16 on 32x32x3
images it has the 35,746,307 parameters of the published CIFAR-10 network; the label
table adds (num_classes + 1) x label_dim, 5,632 for CIFAR-10.
"""

import functools
from collections.abc import Sequence

import flax.linen as nn
import jax
import jax.numpy as jnp

from progguide_jax.diffusion import process
from progguide_jax.networks import layers

_zero = nn.initializers.zeros
# DDPM's own choice; uniform draws also compile faster than truncated normals
_uniform = nn.initializers.variance_scaling(1.0, "fan_avg", "uniform")
_Conv = functools.partial(nn.Conv, kernel_size=(3, 3), kernel_init=_uniform)
_Dense = functools.partial(nn.Dense, kernel_init=_uniform)


def _groups(channels: int) -> int:
    return min(32, channels // 4)


class ResBlock(nn.Module):
    """norm, swish, conv, + embedding, norm, swish, dropout, conv; plus the shortcut."""

    channels: int
    dropout: float
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, x: jax.Array, emb: jax.Array, train: bool) -> jax.Array:
        def conv(name, **kwargs):
            return _Conv(self.channels, dtype=self.dtype, name=name, **kwargs)

        h = nn.swish(layers.GroupNorm(_groups(x.shape[-1]), name="norm1")(x))
        h = conv("conv1")(h)
        shift = _Dense(self.channels, dtype=self.dtype, name="emb")(nn.swish(emb))
        h = h + shift[:, None, None, :]
        h = nn.swish(layers.GroupNorm(_groups(self.channels), name="norm2")(h))
        h = nn.Dropout(self.dropout, deterministic=not train)(h)
        h = conv("conv2", kernel_init=_zero)(h)
        if x.shape[-1] != self.channels:
            x = _Dense(self.channels, dtype=self.dtype, name="shortcut")(x)
        return self.join(x, h)

    def join(self, x: jax.Array, h: jax.Array) -> jax.Array:
        """The shortcut and what the block adds to it."""
        return x + h


class AttentionBlock(nn.Module):
    """Single-head self-attention over the pixels of [B,H,W,C], softmax in float32."""

    dtype: jnp.dtype

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        b, h, w, c = x.shape
        y = layers.GroupNorm(_groups(c), name="norm")(x).reshape(b, h * w, c)
        q, k, v = (_Dense(c, dtype=self.dtype, name=n)(y) for n in ("q", "k", "v"))
        y = jnp.einsum("bqk,bkc->bqc", self.weights(q, k), v)
        y = _Dense(c, dtype=self.dtype, kernel_init=_zero, name="out")(y)
        return self.join(x, y.reshape(b, h, w, c))

    def weights(self, q: jax.Array, k: jax.Array) -> jax.Array:
        """How much each query [B,Q,C] takes of each key [B,K,C]: [B,Q,K]."""
        scores = jnp.einsum("bqc,bkc->bqk", q, k).astype(jnp.float32)
        scores = scores * q.shape[-1] ** -0.5
        return nn.softmax(scores, axis=-1).astype(self.dtype)

    def join(self, x: jax.Array, y: jax.Array) -> jax.Array:
        """The shortcut and what attention adds to it."""
        return x + y


class UNet(layers.LabelConditioned):
    """eps, x0 or v [B,H,W,C] float32 from x_t [B,H,W,C], level, label_emb [B,D].

    The row of the label joins the hidden layer of the time embedding, so it passes a
    non-linearity and reaches every block. With sigma_skip the output is
    sigma_t x_t + head: at high noise eps is nearly x_t and the network need not learn
    the identity. For x0 that skip is alpha_t x_t and for v it is 0: the same answer.
    With exit, a width of the decoder, a second head answers from there already; it is
    the variable "exit" of the collection "exits", which only `layers.answers` asks for.
    """

    base_channels: int = 128
    channel_mult: Sequence[int] = (1, 2, 2, 2)
    num_res_blocks: int = 2
    attention_resolutions: Sequence[int] = (16,)
    dropout: float = 0.1
    dtype: str = "float32"
    sigma_skip: bool = False
    exit: int = 0

    @nn.compact
    def __call__(
        self,
        x_t: jax.Array,
        level: process.Level,
        label_emb: jax.Array,
        train: bool = False,
    ) -> jax.Array:
        dtype = jnp.dtype(self.dtype)
        ch = self.base_channels
        emb = self._embedding(level.t, label_emb, dtype)

        def res(h, mult, name):
            return ResBlock(ch * mult, self.dropout, dtype, name=name)(h, emb, train)

        def attend(h, name):
            # where it was made: so on a part of an image too
            there = self.has_variable("params", name)
            if self.is_initializing():
                there = h.shape[1] in self.attention_resolutions
            return AttentionBlock(dtype, name=name)(h) if there else h

        def conv(features, name, strides=1):
            return _Conv(features, strides=strides, dtype=dtype, name=name)

        h = conv(ch, "conv_in")(x_t.astype(dtype))
        skips = [h]
        last = len(self.channel_mult) - 1
        for i, mult in enumerate(self.channel_mult):
            for j in range(self.num_res_blocks):
                h = attend(res(h, mult, f"down{i}_{j}"), f"down{i}_{j}_attention")
                skips.append(h)
            if i < last:
                h = conv(h.shape[-1], f"down{i}_conv", 2)(h)
                skips.append(h)

        h = res(h, self.channel_mult[-1], "middle_0")
        h = AttentionBlock(dtype, name="middle_attention")(h)
        h = res(h, self.channel_mult[-1], "middle_1")

        for i, mult in reversed(list(enumerate(self.channel_mult))):
            for j in range(self.num_res_blocks + 1):
                h = jnp.concatenate([h, skips.pop()], axis=-1)
                h = attend(res(h, mult, f"up{i}_{j}"), f"up{i}_{j}_attention")
            if h.shape[1] == self.exit:
                self.sow("exits", "exit", self._head(h, x_t, level, "exit"))
            if i > 0:
                h = jnp.repeat(jnp.repeat(h, 2, axis=1), 2, axis=2)
                h = conv(h.shape[-1], f"up{i}_conv")(h)
        assert not skips

        return self._head(h, x_t, level, "out")

    def _head(self, h, x_t, level, name):
        """The answer from features h, each of their pixels a square of the image's."""
        b, height, width, c = x_t.shape
        side = height // h.shape[1]
        h = nn.swish(layers.GroupNorm(_groups(h.shape[-1]), name=f"norm_{name}")(h))
        head = _Conv(c * side**2, kernel_init=_zero, name=f"conv_{name}")
        out = head(h.astype(jnp.float32))
        if side > 1:
            out = out.reshape(b, height // side, width // side, side, side, c)
            out = out.transpose(0, 1, 3, 2, 4, 5).reshape(x_t.shape)
        if self.sigma_skip:
            out += layers.skip_gain(level, out, self.predicts) * x_t
        return out

    def _embedding(self, t, label_emb, dtype):
        width = 4 * self.base_channels
        h = layers.timestep_embedding(t, self.base_channels).astype(dtype)
        h = _Dense(width, dtype=dtype, name="time_in")(h)
        label_emb = label_emb.astype(dtype)
        if self.label_dim != width:
            label_emb = _Dense(width, dtype=dtype, name="label_in")(label_emb)
        return _Dense(width, dtype=dtype, name="time_out")(nn.swish(h + label_emb))
