"""Noise of its own for each image, whatever the batch it is made in."""

import jax
import jax.numpy as jnp


def image_keys(key: jax.Array, index: jax.Array) -> jax.Array:
    """One key per image [B] from its index [B]: image i depends on (key, i) alone."""
    return jax.vmap(lambda i: jax.random.fold_in(key, i))(jnp.asarray(index))


def fold_in(keys: jax.Array, data: jax.Array) -> jax.Array:
    """The same number folded into each of the keys [B]."""
    return jax.vmap(lambda k: jax.random.fold_in(k, data))(keys)


def initial_noise(
    keys: jax.Array, shape: tuple[int, ...], dtype=jnp.float32
) -> jax.Array:
    """x_T ~ N(0, I) of `shape` for each of the keys [B]: [B, *shape]."""
    wide = jnp.promote_types(dtype, jnp.float32)  # 8-bit uniforms have no tails
    draw = jax.vmap(lambda k: jax.random.normal(k, shape, wide))
    return draw(keys).astype(dtype)
