"""The Inception network of December 2015, on which FID and IS are defined.

Inception-v3 (Szegedy et al. 2016) as the TensorFlow graph classify_image_graph_def.pb
of 2015-12-05 has it, which differs from the usual one: average pools divide by the
pixels inside the image only, the last block has a max-pool branch, images are resized
by TensorFlow 1's bilinear rule, and there are 1008 logits, of which the inception score
leaves the bias out. Modules and weights are named as in the PyTorch ports (torch-
fidelity, pytorch-fid); pretrained/inception_names.py has the other names.

Convolutions are written the way that XLA runs fastest on a CPU, at no cost elsewhere.
"""

import functools
from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

IMAGE_SIZE = 299
_EPSILON = 1e-3  # of the batch norms


def resize(images: jax.Array, size: int = IMAGE_SIZE) -> jax.Array:
    """TensorFlow 1's bilinear resize: [B,H,W,C] -> float32 [B,size,size,C].

    align_corners=False and no half-pixel centres: output i lies at i H / size of the
    input, between its two neighbours there, whatever the ratio (no antialias).
    Source: tensorflow/core/kernels/image/resize_bilinear_op.cc with legacy scaling.
    """
    rows, columns = (jnp.asarray(_weights(n, size)) for n in images.shape[1:3])
    x = images.astype(jnp.float32)
    x = jnp.einsum("ih,bhwc->biwc", rows, x)
    return jnp.einsum("jw,biwc->bijc", columns, x)


def _weights(size_in: int, size_out: int) -> np.ndarray:
    """The resize along one axis as a matrix [out,in]; positions rounded to float32."""
    place = np.arange(size_out, dtype=np.float32) * np.float32(size_in / size_out)
    low = place.astype(np.int64)
    high = np.minimum(low + 1, size_in - 1)
    part = place - low.astype(np.float32)
    weights = np.zeros((size_out, size_in), np.float32)
    each = np.arange(size_out)
    weights[each, low] += 1 - part
    weights[each, high] += part
    return weights


def _pool(x: jax.Array, join: Callable, stride: int = 1) -> jax.Array:
    """`join` over 3x3 windows of [B,H,W,C], no padding; one axis after the other.

    On a CPU 3 to 9 times as fast as lax.reduce_window.
    """
    for axis in (1, 2):
        last = stride * ((x.shape[axis] - 3) // stride)  # where the last window begins
        a, b, c = (
            jax.lax.slice_in_dim(x, i, i + last + 1, stride, axis) for i in range(3)
        )
        x = join(join(a, b), c)
    return x


def _pad(x: jax.Array, value: float) -> jax.Array:
    return jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)), constant_values=value)


def max_pool(x: jax.Array, stride: int = 2) -> jax.Array:
    """Maximum over 3x3 windows of [B,H,W,C]; of the same size at stride 1."""
    return _pool(_pad(x, -jnp.inf) if stride == 1 else x, jnp.maximum, stride)


def avg_pool(x: jax.Array) -> jax.Array:
    """Mean over the pixels of each 3x3 window that lie inside [B,H,W,C]."""
    inside = [np.convolve(np.ones(n), np.ones(3), "same") for n in x.shape[1:3]]
    share = jnp.asarray(1 / np.outer(*inside), x.dtype)[None, :, :, None]
    return _pool(_pad(x, 0), jnp.add) * share


def _convolve(x: jax.Array, kernel: jax.Array, stride: int, padding: str) -> jax.Array:
    """[B,H,W,C] by a kernel HWIO, no padding ("VALID") or to the same size ("SAME")."""
    height, width = kernel.shape[:2]
    if (height, width) == (1, 1):
        return jnp.einsum("bhwc,cd->bhwd", x, kernel[0, 0])
    # XLA's CPU convolution is up to 5 times as fast with padding as without: pad, crop
    crop = padding == "VALID" and stride == 1
    x = jax.lax.conv_general_dilated(
        x,
        kernel,
        (stride, stride),
        "SAME" if crop else padding,
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
    )
    return x[:, height // 2 : -(height // 2), width // 2 : -(width // 2)] if crop else x


class ConvNorm(nn.Module):
    """Convolution without bias, batch norm by stored statistics, relu; [B,H,W,C]."""

    features: int
    kernel_size: tuple[int, int] = (1, 1)
    stride: int = 1
    padding: str = "SAME"

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        shape = (*self.kernel_size, x.shape[-1], self.features)
        kernel = self.param("kernel", nn.initializers.lecun_normal(), shape)
        zeros, ones, per_channel = (
            nn.initializers.zeros,
            nn.initializers.ones,
            shape[3:],
        )
        scale = self.param("scale", ones, per_channel)
        bias = self.param("bias", zeros, per_channel)
        mean = self.param("mean", zeros, per_channel)
        var = self.param("var", ones, per_channel)
        gain = scale * jax.lax.rsqrt(var + _EPSILON)
        y = _convolve(x, kernel, self.stride, self.padding)
        shift = bias - mean * gain
        return nn.relu(y * gain[None, None, None] + shift[None, None, None])


class BlockA(nn.Module):
    """35x35: branches 1x1, 5x5, twice 3x3, average pool."""

    pool_features: int

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        a = ConvNorm(64, name="branch1x1")(x)
        b = ConvNorm(48, name="branch5x5_1")(x)
        b = ConvNorm(64, (5, 5), name="branch5x5_2")(b)
        c = ConvNorm(64, name="branch3x3dbl_1")(x)
        c = ConvNorm(96, (3, 3), name="branch3x3dbl_2")(c)
        c = ConvNorm(96, (3, 3), name="branch3x3dbl_3")(c)
        d = ConvNorm(self.pool_features, name="branch_pool")(avg_pool(x))
        return jnp.concatenate([a, b, c, d], axis=-1)


class BlockB(nn.Module):
    """35x35 -> 17x17: branches 3x3, twice 3x3, max pool."""

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        a = ConvNorm(384, (3, 3), 2, "VALID", name="branch3x3")(x)
        b = ConvNorm(64, name="branch3x3dbl_1")(x)
        b = ConvNorm(96, (3, 3), name="branch3x3dbl_2")(b)
        b = ConvNorm(96, (3, 3), 2, "VALID", name="branch3x3dbl_3")(b)
        return jnp.concatenate([a, b, max_pool(x)], axis=-1)


class BlockC(nn.Module):
    """17x17: branches 1x1, 7x7 and twice 7x7 as rows and columns, average pool."""

    width: int

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        n, row, column = self.width, (1, 7), (7, 1)
        a = ConvNorm(192, name="branch1x1")(x)
        b = ConvNorm(n, name="branch7x7_1")(x)
        b = ConvNorm(n, row, name="branch7x7_2")(b)
        b = ConvNorm(192, column, name="branch7x7_3")(b)
        c = ConvNorm(n, name="branch7x7dbl_1")(x)
        c = ConvNorm(n, column, name="branch7x7dbl_2")(c)
        c = ConvNorm(n, row, name="branch7x7dbl_3")(c)
        c = ConvNorm(n, column, name="branch7x7dbl_4")(c)
        c = ConvNorm(192, row, name="branch7x7dbl_5")(c)
        d = ConvNorm(192, name="branch_pool")(avg_pool(x))
        return jnp.concatenate([a, b, c, d], axis=-1)


class BlockD(nn.Module):
    """17x17 -> 8x8: branches 3x3, 7x7 and 3x3, max pool."""

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        a = ConvNorm(192, name="branch3x3_1")(x)
        a = ConvNorm(320, (3, 3), 2, "VALID", name="branch3x3_2")(a)
        b = ConvNorm(192, name="branch7x7x3_1")(x)
        b = ConvNorm(192, (1, 7), name="branch7x7x3_2")(b)
        b = ConvNorm(192, (7, 1), name="branch7x7x3_3")(b)
        b = ConvNorm(192, (3, 3), 2, "VALID", name="branch7x7x3_4")(b)
        return jnp.concatenate([a, b, max_pool(x)], axis=-1)


class BlockE(nn.Module):
    """8x8: branches 1x1, 3x3 and twice 3x3 that end in a row and a column, pool."""

    pool: Callable[[jax.Array], jax.Array]

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        a = ConvNorm(320, name="branch1x1")(x)
        b = ConvNorm(384, name="branch3x3_1")(x)
        b1 = ConvNorm(384, (1, 3), name="branch3x3_2a")(b)
        b2 = ConvNorm(384, (3, 1), name="branch3x3_2b")(b)
        c = ConvNorm(448, name="branch3x3dbl_1")(x)
        c = ConvNorm(384, (3, 3), name="branch3x3dbl_2")(c)
        c1 = ConvNorm(384, (1, 3), name="branch3x3dbl_3a")(c)
        c2 = ConvNorm(384, (3, 1), name="branch3x3dbl_3b")(c)
        d = ConvNorm(192, name="branch_pool")(self.pool(x))
        return jnp.concatenate([a, b1, b2, c1, c2, d], axis=-1)


class Inception(nn.Module):
    """images [B,H,W,3], uint8 or float of 0...255 -> {"features", "logits"}, float32.

    features [B,2048] are the graph's pool_3, logits [B,1008] those without bias.
    precision: of matrix products and convolutions, as jax.default_matmul_precision
    takes it; below "highest" an accelerator rounds their inputs and scores move.
    ValueError for another shape.
    """

    precision: str = "highest"

    @nn.compact
    def __call__(self, images: jax.Array) -> dict[str, jax.Array]:
        if images.ndim != 4 or images.shape[-1] != 3:
            raise ValueError(f"images must be [B,H,W,3]: got {list(images.shape)}")
        with jax.default_matmul_precision(self.precision):
            x = (resize(images) - 128) / 128
            x = ConvNorm(32, (3, 3), 2, "VALID", name="Conv2d_1a_3x3")(x)
            x = ConvNorm(32, (3, 3), 1, "VALID", name="Conv2d_2a_3x3")(x)
            x = max_pool(ConvNorm(64, (3, 3), name="Conv2d_2b_3x3")(x))
            x = ConvNorm(80, name="Conv2d_3b_1x1")(x)
            x = ConvNorm(192, (3, 3), 1, "VALID", name="Conv2d_4a_3x3")(x)
            x = max_pool(x)
            x = BlockA(32, name="Mixed_5b")(x)
            x = BlockA(64, name="Mixed_5c")(x)
            x = BlockA(64, name="Mixed_5d")(x)
            x = BlockB(name="Mixed_6a")(x)
            x = BlockC(128, name="Mixed_6b")(x)
            x = BlockC(160, name="Mixed_6c")(x)
            x = BlockC(160, name="Mixed_6d")(x)
            x = BlockC(192, name="Mixed_6e")(x)
            x = BlockD(name="Mixed_7a")(x)
            x = BlockE(avg_pool, name="Mixed_7b")(x)
            x = BlockE(functools.partial(max_pool, stride=1), name="Mixed_7c")(x)
            features = x.mean((1, 2))
            logits = nn.Dense(1008, use_bias=False, name="fc")(features)
        return {"features": features, "logits": logits}
