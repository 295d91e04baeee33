"""Vision transformers whose features serve as a space for scores: DINOv2 and CLIP.

Dosovitskiy et al. 2021 (arXiv:2010.11929) with pre-norm blocks; DINOv2 is Oquab et al.
2024 (arXiv:2304.07193), CLIP is Radford et al. 2021 (arXiv:2103.00020). Features are
not normalised to length one: who uses them decides.
"""

import difflib
import functools
from collections.abc import Callable
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from progguide_jax.extractors import resize


def _quick_gelu(x: jax.Array) -> jax.Array:
    return x * nn.sigmoid(1.702 * x)


class Family(NamedTuple):
    """What all networks of one training share.

    prepare: (uint8 images [B,H,W,3], size) -> float32 [B,size,size,3] in 0 ... 255;
    mean, std: of the channels, for values in 0 ... 1; epsilon: of every LayerNorm;
    clip: no bias on the patches, a LayerNorm before the blocks, no LayerScale in them.
    """

    prepare: Callable[[jax.Array, int], jax.Array]
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    activation: Callable[[jax.Array], jax.Array]
    epsilon: float
    clip: bool


# Images as in the FD-DINOv2 of EDM2 (Karras et al. 2024, arXiv:2312.02696): squeezed to
# a square in float32, overshoot kept. dgm-eval (Stein et al. 2023, arXiv:2306.04675)
# resizes with PIL, which rounds and clips.
DINOV2 = Family(
    prepare=lambda images, size: resize.bicubic(images, size, size),
    mean=(0.485, 0.456, 0.406),
    std=(0.229, 0.224, 0.225),
    activation=functools.partial(nn.gelu, approximate=False),
    epsilon=1e-6,
    clip=False,
)
CLIP = Family(
    prepare=resize.bicubic_uint8,
    mean=(0.48145466, 0.4578275, 0.40821073),
    std=(0.26862954, 0.26130258, 0.27577711),
    activation=_quick_gelu,
    epsilon=1e-5,
    clip=True,
)


class ViT(nn.Module):
    """A vision transformer, for inference at `size` x `size` pixels.

    width, depth, heads, patch: the transformer; table: side of the trained grid of
    position embeddings, resampled to the grid in use where it differs; table_offset:
    DINOv2's own code resamples by (grid + 0.1) / table instead of grid / table, the
    `transformers` library does not (0); projection: width of a linear map behind the
    last LayerNorm, 0 for none.
    """

    family: Family
    width: int
    depth: int
    heads: int
    patch: int
    table: int
    table_offset: float = 0.0
    projection: int = 0
    size: int = 224

    @nn.compact
    def __call__(self, images: jax.Array) -> dict[str, jax.Array]:
        """uint8 [B,H,W,3] of any size -> {"features": float32 [B,D]}.

        Features: the class token behind the last LayerNorm [width], or its projection.
        ValueError for images of another kind.
        """
        if images.dtype != jnp.uint8 or images.ndim != 4 or images.shape[3] != 3:
            raise ValueError(
                "a vision transformer takes images uint8 [N, H, W, 3], got "
                f"{images.dtype} {list(images.shape)}: convert them to 8-bit RGB"
            )
        # a TPU or GPU would otherwise multiply with 8 or 11 bits
        with jax.default_matmul_precision("highest"):
            return {"features": self._features(images)}

    def _features(self, images: jax.Array) -> jax.Array:
        family, grid = self.family, self.size // self.patch
        norm = functools.partial(_norm, family.epsilon)
        mean, std = (np.array(v, np.float32) for v in (family.mean, family.std))
        x = family.prepare(images, self.size) / 255
        x = (x - mean.reshape(1, 1, 1, 3)) / std.reshape(1, 1, 1, 3)
        x = nn.Conv(
            self.width,
            (self.patch, self.patch),
            self.patch,
            "VALID",
            use_bias=not family.clip,
            name="patch",
        )(x).reshape(len(images), grid * grid, self.width)
        small = nn.initializers.normal(0.02)
        cls = self.param("cls", small, (self.width,))
        cls = jnp.broadcast_to(cls.reshape(1, 1, -1), (len(images), 1, self.width))
        positions = self.param("positions", small, (self.table**2 + 1, self.width))
        positions = _resample(positions, self.table, grid, self.table_offset)
        x = jnp.concatenate([cls, x], axis=1) + positions[None]
        if family.clip:
            x = norm("pre_norm")(x)
        for i in range(self.depth):
            x = _Block(family, self.heads, name=f"block{i}")(x)
        features = norm("norm")(x[:, 0])
        if self.projection:
            dense = nn.Dense(self.projection, use_bias=False, name="projection")
            features = dense(features)
        return features


class _Block(nn.Module):
    """x + attention(norm(x)), then x + perceptron(norm(x)); DINOv2 scales the terms."""

    family: Family
    heads: int

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        family, width = self.family, x.shape[-1]
        norm = functools.partial(_norm, family.epsilon)

        def scaled(h, name):
            if family.clip:
                return h
            return h * self.param(name, nn.initializers.ones, (width,))[None, None]

        x = x + scaled(self._attention(norm("norm1")(x)), "scale1")
        h = nn.Dense(4 * width, name="fc1")(norm("norm2")(x))
        h = nn.Dense(width, name="fc2")(family.activation(h))
        return x + scaled(h, "scale2")

    def _attention(self, x: jax.Array) -> jax.Array:
        b, n, width = x.shape
        q, k, v = (
            nn.Dense(width, name=name)(x).reshape(b, n, self.heads, -1)
            for name in ("query", "key", "value")
        )
        scores = jnp.einsum("bqhd,bkhd->bhqk", q * q.shape[-1] ** -0.5, k)
        mixed = jnp.einsum("bhqk,bkhd->bqhd", nn.softmax(scores), v)
        return nn.Dense(width, name="out")(mixed.reshape(b, n, width))


def _norm(epsilon: float, name: str) -> nn.LayerNorm:
    # the fast variance is a difference of large numbers
    return nn.LayerNorm(epsilon=epsilon, use_fast_variance=False, name=name)


def _resample(positions: jax.Array, table: int, grid: int, offset: float) -> jax.Array:
    """[table^2 + 1,D] -> [grid^2 + 1,D]; row 0 belongs to the class token and stays."""
    if table == grid:
        return positions
    ratio = table / (grid + offset)
    matrix = resize.plain_matrix(table, grid, ratio).astype(np.float32)
    square = positions[1:].reshape(table, table, -1)
    square = jnp.einsum("hi,wj,ijd->hwd", matrix, matrix, square)
    return jnp.concatenate([positions[:1], square.reshape(grid * grid, -1)])


# Both definitions of FD-DINOv2 run the authors' code, hence their offset.
_dinov2 = functools.partial(ViT, DINOV2, patch=14, table=37, table_offset=0.1)
_clip = functools.partial(ViT, CLIP)
MODELS: dict[str, Callable[[], ViT]] = {
    "dinov2_vits14": functools.partial(_dinov2, width=384, depth=12, heads=6),
    "dinov2_vitl14": functools.partial(_dinov2, width=1024, depth=24, heads=16),
    "clip_vitb32": functools.partial(
        _clip, width=768, depth=12, heads=12, patch=32, table=7, projection=512
    ),
    "clip_vitb16": functools.partial(
        _clip, width=768, depth=12, heads=12, patch=16, table=14, projection=512
    ),
    "clip_vitl14": functools.partial(
        _clip, width=1024, depth=24, heads=16, patch=14, table=16, projection=768
    ),
}


def create(name: str) -> ViT:
    """The network `name` of MODELS. ValueError names the nearest."""
    if name not in MODELS:
        near = difflib.get_close_matches(name, MODELS, n=1)
        hint = f"did you mean {near[0]!r}? " if near else ""
        raise ValueError(
            f"unknown vision transformer {name!r}: {hint}use one of {', '.join(MODELS)}"
        )
    return MODELS[name]()
