"""Bicubic resizing as PyTorch, PIL and the vision transformers do it: dense matrices.

An output pixel i of n looks at the place c = (i + 1/2) m / n of m input pixels and
weighs pixel j by the cubic of Keys 1981, k(x; a), at x = j + 1/2 - c. Two habits:

  antialias   a = -1/2, x divided by max(m / n, 1), weights normalised over the pixels
              that exist. PIL's BICUBIC; PyTorch's bicubic with antialias=True; equal to
              jax.image.resize(method="cubic").
  plain       a = -3/4, x as it is, pixels beyond the border repeat it. PyTorch's
              bicubic without antialias. jax.image.resize has no counterpart.

The matrices are made in float64 at trace time; their products run at the precision that
is in force (jax.default_matmul_precision), which must be "highest" for bicubic_uint8.
"""

import jax
import jax.numpy as jnp
import numpy as np

_BITS = 22  # of PIL's fixed-point weights
_LOW = 12  # of them in the low half


def _keys(x: np.ndarray, a: float) -> np.ndarray:
    """The cubic convolution kernel, zero from |x| = 2 on (Keys 1981, equation 14)."""
    x = np.abs(x)
    near = ((a + 2) * x - (a + 3)) * x * x + 1
    far = (((x - 5) * x + 8) * x - 4) * a
    return np.where(x < 1, near, np.where(x < 2, far, 0.0))


def antialias_matrix(m: int, n: int) -> np.ndarray:
    """float64 [n,m]: m pixels -> n, the antialias habit."""
    centre = (np.arange(n)[:, None] + 0.5) * (m / n)
    offset = np.arange(m)[None] + 0.5 - centre
    weights = _keys(offset / max(m / n, 1.0), -0.5)
    return weights / weights.sum(1, keepdims=True)


def plain_matrix(m: int, n: int, ratio: float) -> np.ndarray:
    """float64 [n,m]: m values -> n, the plain habit; `ratio` stands for m / n."""
    place = (np.arange(n) + 0.5) * ratio - 0.5
    first = np.floor(place).astype(int)
    weights = np.zeros((n, m))
    for k in range(-1, 3):
        column = np.clip(first + k, 0, m - 1)
        weights[np.arange(n), column] += _keys(first + k - place, -0.75)
    return weights


def bicubic(images: jax.Array, height: int, width: int) -> jax.Array:
    """uint8 [B,H,W,C] -> float32 [B,height,width,C], neither rounded nor clipped.

    torch.nn.functional.interpolate(mode="bicubic", antialias=True) of the float image.
    """
    rows = antialias_matrix(images.shape[1], height).astype(np.float32)
    columns = antialias_matrix(images.shape[2], width).astype(np.float32)
    x = jnp.einsum("wj,bijc->biwc", columns, images.astype(jnp.float32))
    return jnp.einsum("hi,biwc->bhwc", rows, x)


def bicubic_uint8(images: jax.Array, size: int) -> jax.Array:
    """uint8 [B,H,W,C] -> float32 [B,size,size,C] of integers 0 ... 255, PIL's numbers.

    The shorter side becomes `size`, the longer int(size longer / shorter), then the
    middle is kept: the preprocessing of CLIP (Radford et al. 2021), with the crop from
    row (tall - size) // 2 on of the CLIP processor of `transformers`. PIL resizes uint8
    along the width, rounds to uint8, resizes along the height and rounds again, in
    fixed-point arithmetic, which is followed exactly.
    """
    h, w = images.shape[1:3]
    tall, wide = (int(size * h / w), size) if w <= h else (size, int(size * w / h))
    top, left = (tall - size) // 2, (wide - size) // 2
    columns = antialias_matrix(w, wide)[left : left + size]
    rows = antialias_matrix(h, tall)[top : top + size]
    x = _fixed_point("nj,bijc->binc", columns, images.astype(jnp.float32))
    return _fixed_point("ni,bijc->bnjc", rows, x)


def _fixed_point(equation: str, weights: np.ndarray, x: jax.Array) -> jax.Array:
    """einsum rounded to 0 ... 255, with weights that are integers over 2^22.

    Accelerators have no fast int32 product: two float32 products, of the weights' high
    and low halves, are exact up to 32 pixels under the kernel (7 x reduction), as
    2^11 x 255 x 32 < 2^24.
    """
    fixed = np.floor(weights * 2**_BITS + 0.5).astype(np.int64)
    high = (fixed + 2 ** (_LOW - 1)) >> _LOW
    low = fixed - (high << _LOW)
    high, low = (
        jnp.einsum(equation, half.astype(np.float32), x).astype(jnp.int32)
        for half in (high, low)
    )
    total = (high << _LOW) + low + 2 ** (_BITS - 1)
    return jnp.clip(total >> _BITS, 0, 255).astype(jnp.float32)
