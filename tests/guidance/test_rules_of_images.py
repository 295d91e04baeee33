"""Frequency-decoupled guidance against a pyramid that is built pixel by pixel."""

import jax.numpy as jnp
import numpy as np
import pytest

from progguide_jax.diffusion import prediction
from progguide_jax.guidance import rules

ALPHA, SIGMA = 0.6, 0.8
KERNEL = np.array([1, 4, 6, 4, 1]) / 16


def apply(rule, x, x0_c, x0_u, omega):
    """x0 of one step whose predictions are these clean images."""
    x = jnp.asarray(x)
    step = prediction.Step(
        x=x, t=500.0, alpha=ALPHA, sigma=SIGMA, alpha_next=0.8, sigma_next=0.6,
        weights={"null": omega}, index=0, keys=None, predicts="x0",
    )  # fmt: skip

    def evaluate(*names):
        x0 = {"cond": x0_c, "null": x0_u}
        return [step.from_x0(jnp.asarray(x0[name])) for name in names]

    return np.asarray(rule(evaluate, step, None)[0].x0)


def mirrored(i, n):
    """An index outside of 0 ... n - 1 mirrored at the border pixel."""
    i = abs(i)
    return i if i < n else 2 * (n - 1) - i


def blurred(a):
    """[H,W,C], all 25 neighbours of every pixel."""
    height, width, _ = a.shape
    result = np.zeros_like(a)
    for i, j in np.ndindex(height, width):
        for di, dj in np.ndindex(5, 5):
            row, column = mirrored(i + di - 2, height), mirrored(j + dj - 2, width)
            result[i, j] += KERNEL[di] * KERNEL[dj] * a[row, column]
    return result


def down(a):
    a = blurred(a)
    return (a[::2, ::2] + a[1::2, ::2] + a[::2, 1::2] + a[1::2, 1::2]) / 4


def up(a):
    """Linear between the centres of pixels, constant outside of them."""
    height, width, _ = a.shape
    result = np.zeros((2 * height, 2 * width, a.shape[2]))
    for i, j in np.ndindex(2 * height, 2 * width):
        y, x = (
            np.clip((i + 0.5) / 2 - 0.5, 0, None),
            np.clip((j + 0.5) / 2 - 0.5, 0, None),
        )
        for row, column in np.ndindex(height, width):
            weight = max(0, 1 - abs(min(y, height - 1) - row))
            weight *= max(0, 1 - abs(min(x, width - 1) - column))
            result[i, j] += weight * a[row, column]
    return blurred(result)


def pyramid(a):
    coarse = down(a)
    return a - up(coarse), coarse


def formula(c, u, omega, high, low, parallel):
    """Each level guided by itself, then built up."""
    levels = []
    for p_c, p_u, share in zip(pyramid(c), pyramid(u), (high, low), strict=True):
        shift = p_c - p_u
        along = (shift * p_c).sum() / (p_c * p_c).sum() * p_c
        levels.append(p_c + omega * share * (shift - along + parallel * along))
    fine, coarse = levels
    return up(coarse) + fine


@pytest.fixture
def images(x64):
    return np.random.default_rng(0).normal(size=(3, 2, 6, 10, 3))


@pytest.mark.parametrize(
    ("high", "low", "parallel"), [(1.0, 0.5, 1.0), (0.9, 1.7, 0.3), (1.0, 1.0, 0.0)]
)
def test_fdg_is_its_pyramid(high, low, parallel, images):
    x, c, u = images
    rule = rules.fdg(high=high, low=low, parallel=parallel)
    expected = [
        formula(a, b, 3.0, high, low, parallel) for a, b in zip(c, u, strict=True)
    ]
    np.testing.assert_allclose(apply(rule, x, c, u, 3.0), expected, atol=1e-9)


def test_fdg_of_a_flat_difference_is_low(images):
    """A difference of one colour has no fine structure."""
    x, c, _ = images
    flat = np.array([0.3, -0.2, 0.1])
    found = apply(rules.fdg(high=7.0, low=0.5), x, c, c - flat, 2.0)
    np.testing.assert_allclose(found, c + 2 * 0.5 * flat, atol=1e-12)


@pytest.mark.parametrize("shape", [(2, 4, 3), (2, 7, 8, 3), (2, 4, 8, 3), (2, 9)])
def test_fdg_takes_images_only(shape):
    x = np.zeros(shape)
    with pytest.raises(ValueError, match=r"fdg takes images \[B,H,W,C\] with even"):
        apply(rules.fdg(), x, x, x, 1.0)
