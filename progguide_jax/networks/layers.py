"""Pieces that the networks share."""

import flax.linen as nn
import jax
import jax.numpy as jnp

from progguide_jax.diffusion import process


def timestep_embedding(t: jax.Array, dim: int) -> jax.Array:
    """Sines and cosines of t [B] at dim/2 frequencies 1 ... 1e-4: float32 [B,dim].

    DDPM's form of the Transformer's position embedding.
    """
    half = dim // 2
    frequency = jnp.exp(-jnp.log(10_000.0) * jnp.arange(half) / (half - 1))
    angle = t.astype(jnp.float32)[:, None] * frequency[None]
    return jnp.concatenate([jnp.sin(angle), jnp.cos(angle)], axis=-1)


def skip_gain(level: process.Level, like: jax.Array, kind: str) -> jax.Array:
    """c [B,1,...] such that c x_t is the exact prediction if x0 were N(0, I).

    There E[eps | x_t] = sigma x_t, E[x0 | x_t] = alpha x_t and hence v = 0. For any
    data of mean 0 it is right at pure noise, where eps is x_t and x0 unknown, and near
    the data, where x0 is x_t.
    """
    match kind:
        case "eps":
            return process.column(level.sigma, like)
        case "x0":
            return process.column(level.alpha, like)
        case "v":
            return jnp.zeros_like(process.column(level.alpha, like))
    raise ValueError(
        f"unknown prediction {kind!r}: use one of {', '.join(process.PREDICTIONS)}"
    )


def answers(module: nn.Module, params: dict, *args, **kwargs) -> list[jax.Array]:
    """What the network answers, and what each of its early exits does."""
    answer, left = module.apply({"params": params}, *args, mutable=["exits"], **kwargs)
    return [answer, *jax.tree.leaves(left)]


class GroupNorm(nn.Module):
    """Group normalisation of [B,H,W,C] over space and each group's channels.

    Sums each channel first, then folds mean, variance, scale and shift into one
    multiply-add per element; equal to flax's `nn.GroupNorm`, with the same parameters.
    Statistics are float32 whatever the dtype of x, which the result keeps.
    """

    num_groups: int
    epsilon: float = 1e-6

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        b, h, w, c = x.shape
        scale = self.param("scale", nn.initializers.ones, (c,))
        bias = self.param("bias", nn.initializers.zeros, (c,))
        x32 = x.astype(jnp.float32)
        size = h * w * (c // self.num_groups)

        def group_mean(channel_sum):  # [B,C] -> [B,G,1]
            grouped = channel_sum.reshape(b, self.num_groups, -1)
            return grouped.sum(-1, keepdims=True) / size

        mean = group_mean(x32.sum((1, 2)))
        var = group_mean(jnp.square(x32).sum((1, 2))) - jnp.square(mean)
        rstd = jax.lax.rsqrt(jnp.maximum(var, 0.0) + self.epsilon)
        gain = scale.reshape(1, self.num_groups, -1) * rstd
        shift = bias.reshape(1, self.num_groups, -1) - mean * gain
        gain, shift = gain.reshape(b, 1, 1, c), shift.reshape(b, 1, 1, c)
        return (x32 * gain + shift).astype(x.dtype)


class LabelEmbedding(nn.Module):
    """A table of num_classes + 1 rows [D], the last one for the null label."""

    num_classes: int
    dim: int

    @nn.compact
    def __call__(self, label: jax.Array) -> jax.Array:
        table = self.param(
            "table",
            nn.initializers.normal(self.dim**-0.5),
            (self.num_classes + 1, self.dim),
        )
        return table[label]


class LabelConditioned(nn.Module):
    """What the networks share: the label table, and the question that they answer.

    A network defines __call__(x_t, level, label_emb, train=False). The rows of the
    labels are an argument, so that probing can differentiate with respect to them.
    predicts: what the answer is, one of `process.PREDICTIONS`.
    """

    num_classes: int
    label_dim: int = 512
    predicts: str = "eps"

    def setup(self):
        self.label_table = LabelEmbedding(self.num_classes, self.label_dim)

    def embed_label(self, label: jax.Array) -> jax.Array:
        """Rows float32 [B,D] of label int [B]; label num_classes is the null label."""
        return self.label_table(label)
