"""Models that the contracts of the registries are checked on."""

import jax
import jax.numpy as jnp
import numpy as np

from progguide_jax.diffusion import levels, noise, prediction, process, system

NS = process.ddpm_linear()
HALF, STD = 4.0, 0.25  # the two classes at +-HALF on one axis


def two_classes(x, level, label):
    """Exact eps of x0 | label ~ N(+-HALF, STD^2), label 0, 1; 2: of the mixture."""
    alpha, sigma = (prediction.per_image(a, x) for a in level[1:])
    label = prediction.per_image(jnp.asarray(label), x)
    v = (alpha * STD) ** 2 + sigma**2
    sign = jnp.where(label == 2, jnp.tanh(alpha * HALF * x / v), 2.0 * label - 1)
    return sigma / v * (x - alpha * HALF * sign)


def curved(x, level, label):
    """A network stand-in, nonlinear: data near tanh of the label, every pixel for
    itself, so that Delta is not parallel to anything."""
    alpha, sigma = (prediction.per_image(a, x) for a in level[1:])
    label = prediction.per_image(jnp.asarray(label, x.dtype), x)
    x0 = jnp.tanh(x + 0.4 * (label - 1)) * (1 + 0.3 * jnp.sin(3 * x * label))
    return sigma / (0.1 * alpha**2 + sigma**2) * (x - alpha * x0)


def curved_v(x, level, label):
    """The v of `curved`, without a division by alpha."""
    alpha, sigma = (prediction.per_image(a, x) for a in level[1:])
    eps = curved(x, level, label)
    label = prediction.per_image(jnp.asarray(label, x.dtype), x)
    near = jnp.tanh(x + 0.4 * (label - 1)) * (1 + 0.3 * jnp.sin(3 * x * label))
    x0 = near + 0.1 * alpha * (x - alpha * near) / (0.1 * alpha**2 + sigma**2)
    return alpha * eps - sigma * x0


def as_kind(eps_fn, kind):
    """The same model predicting x0 or v."""

    def raw(x, level, label):
        eps = eps_fn(x, level, label)
        alpha, sigma = (prediction.per_image(a, x) for a in level[1:])
        x0 = (x - sigma * eps) / alpha
        return {"eps": eps, "x0": x0, "v": alpha * eps - sigma * x0}[kind]

    return raw


def embed(label):
    """[B,2], of which the first number is the label."""
    label = jnp.asarray(label, jnp.result_type(float))
    return jnp.stack([label, 1.5 - label], -1)


def model(eps_fn=curved, shape=(4, 3), kind="eps") -> system.System:
    fn = jax.tree_util.Partial(as_kind(eps_fn, kind))

    def of_embedding(x, level, emb):
        return fn(x, level, emb[:, 0])

    of_embedding = jax.tree_util.Partial(of_embedding)
    return system.System(
        branch=lambda cond: prediction.Branch(fn, cond, kind),
        noise_schedule=NS,
        shape=shape,
        condition=np.asarray,
        null=2,
        decode=lambda x: x,
        origin={},
        other=system.other_labels(2),
        embed=embed,
        branch_of_embedding=lambda emb: prediction.Branch(of_embedding, emb, kind),
    )


def start(batch=6, shape=(4, 3), dtype=jnp.float32):
    keys = noise.image_keys(jax.random.key(3), jnp.arange(batch))
    return noise.initial_noise(keys, shape, dtype)


def grid(steps=8) -> levels.Levels:
    return levels.from_timesteps(NS, levels.timesteps(1000, steps))
