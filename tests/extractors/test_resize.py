"""Bicubic resizing against PIL, which is at hand, and PyTorch's numbers, kept."""

import hashlib
import pathlib

import jax
import numpy as np
import PIL.Image
import pytest

from progguide_jax.extractors import resize

GOLDEN = np.load(pathlib.Path(__file__).parents[1] / "golden" / "vit.npz")
BICUBIC = PIL.Image.Resampling.BICUBIC


def images(key: str) -> np.ndarray:
    """The images of make_vit.py."""
    if f"images_{key}" in GOLDEN:
        return GOLDEN[f"images_{key}"]
    h, w = map(int, key.split("x"))
    return np.tile(GOLDEN["images_40x40"][:1], (1, 7, 6, 1))[:, :h, :w]


def noise(*shape: int) -> np.ndarray:
    """Pixels at both ends of the range more often than not: much overshoot."""
    drawn = np.random.default_rng(0).integers(-200, 456, shape)
    return drawn.clip(0, 255).astype(np.uint8)


def compiled(f, *args):
    with jax.default_matmul_precision("highest"):
        lowered = jax.jit(f, static_argnums=range(1, len(args))).lower(*args)
        # compiling well takes longer than these programs run
        program = lowered.compile({"xla_backend_optimization_level": 0})
    return np.asarray(program(args[0]))


def bicubic(x, height, width):
    return compiled(resize.bicubic, x, height, width)


def bicubic_uint8(x, size):
    return compiled(resize.bicubic_uint8, x, size)


@pytest.mark.parametrize(
    ("shape", "size"),
    [
        ((32, 32), (224, 224)),
        ((300, 230), (224, 224)),
        ((100, 17), (8, 48)),
        ((20, 20), (20, 20)),
    ],
)
def test_bicubic_is_pils_on_floats(shape, size):
    x = noise(1, *shape, 3)
    planes = [PIL.Image.fromarray(x[0, ..., c].astype(np.float32)) for c in range(3)]
    expected = np.stack([p.resize(size[::-1], BICUBIC) for p in planes], -1)
    result = bicubic(x, *size)[0]
    np.testing.assert_allclose(result, expected, atol=2e-4)
    if shape != size and shape[0] < size[0]:
        assert result.min() < -5 and result.max() > 260  # the overshoot is kept


@pytest.mark.parametrize("key", ["40x40", "45x61", "250x230"])
def test_bicubic_is_torchs(key):
    # PyTorch places its pixels in float32: 4e-3 of 255
    result = bicubic(images(key), 224, 224).transpose(0, 3, 1, 2)[:, :, ::23, ::19]
    np.testing.assert_allclose(result, GOLDEN[f"torch_{key}"], atol=4e-3)


@pytest.mark.parametrize("key", ["40x40", "45x61", "250x230"])
def test_bicubic_uint8_is_the_clip_processors(key):
    result = bicubic_uint8(images(key), 224).astype(np.uint8)
    assert hashlib.sha256(result.tobytes()).hexdigest() == str(GOLDEN[f"pil_{key}"])


@pytest.mark.parametrize(
    ("shape", "size"),
    [
        ((32, 32, 3), 224),
        ((448, 448, 3), 224),
        ((333, 500, 3), 224),
        ((97, 64, 3), 224),  # an odd margin
        ((64, 97, 3), 31),
        ((1600, 1600, 1), 224),  # 29 pixels under the kernel
    ],
)
def test_bicubic_uint8_is_pils_bit_by_bit(shape, size):
    x = noise(2, *shape)
    h, w = shape[:2]
    tall, wide = (int(size * h / w), size) if w <= h else (size, int(size * w / h))
    box = (slice((tall - size) // 2, None), slice((wide - size) // 2, None))
    resized = [
        PIL.Image.fromarray(i.squeeze(-1) if shape[2] == 1 else i).resize(
            (wide, tall), BICUBIC
        )
        for i in x
    ]
    expected = np.stack([np.asarray(i)[box][:size, :size] for i in resized])
    np.testing.assert_array_equal(
        bicubic_uint8(x, size), expected.reshape(2, size, size, shape[2])
    )


def test_plain_matrix_by_hand():
    # half-way between two values: k(1/2) = 19/32, k(3/2) = -3/32 for a = -3/4
    near, far = 19 / 32, -3 / 32
    halves = [[far + near, near, far, 0], [0, far, near, near + far]]
    np.testing.assert_allclose(resize.plain_matrix(4, 2, 2.0), halves)
    np.testing.assert_array_equal(resize.plain_matrix(5, 5, 1.0), np.eye(5))
