"""Gaussian blur of images whose width in pixels may be a traced number."""

import jax
import jax.numpy as jnp
import numpy as np

_INFINITE = 9999.0


def gaussian(x: jax.Array, sigma: jax.Array, reach: float) -> jax.Array:
    """x [B,H,W,C] blurred over H and W, reflected at the border (its last row once).

    The kernel ends at `reach` sigma, in whole pixels, and at half of the image; beyond
    9999 pixels sigma stands for infinity, which gives the mean over the image. A sigma
    of 0 leaves x as it is. In float32, and back.
    """
    rows, columns = (_matrix(size, sigma, reach) for size in x.shape[1:3])
    found = jnp.einsum(
        "ih,jw,bhwc->bijc",
        rows,
        columns,
        x.astype(jnp.float32),
        precision=jax.lax.Precision.HIGHEST,
    )
    return found.astype(x.dtype)


def _matrix(size: int, sigma: jax.Array, reach: float) -> jax.Array:
    """[size, size]: what each pixel takes of each."""
    sigma = jnp.asarray(sigma, jnp.float32)
    whole, sigma = sigma > _INFINITE, jnp.clip(sigma, 1e-6, _INFINITE)
    offsets = np.arange(-(size // 2), size // 2 + 1)
    offsets = offsets[np.abs(offsets) < size]
    inside = np.abs(offsets) <= jnp.ceil(2 * reach * sigma - 1e-4) // 2
    kernel = jnp.exp(-0.5 * jnp.square(offsets / sigma))
    kernel = jnp.where(inside, kernel, 0.0)
    kernel = kernel / kernel.sum()
    # of each offset from each pixel: where it lands, as a row of a unit matrix
    place = np.abs(np.arange(size)[:, None] + offsets)
    place = np.where(place >= size, 2 * (size - 1) - place, place)
    blurred = jnp.einsum(
        "o,ios->is",
        kernel,
        np.eye(size, dtype=np.float32)[place],
        precision=jax.lax.Precision.HIGHEST,
    )
    return jnp.where(whole, 1 / size, blurred)
