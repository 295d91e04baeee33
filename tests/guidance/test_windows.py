"""Sliding window guidance against NumPy that goes pixel by pixel."""

import functools

import jax.numpy as jnp
import numpy as np
import pytest
import toy_system
from toy_system import LABEL, NS, T, X

from progguide_jax.diffusion import prediction, process
from progguide_jax.guidance import references


def knows_all(np_, x, sigma, label):
    """eps that depends on every pixel there is to see."""
    label = np_.asarray(label).reshape(-1, 1, 1, 1)
    return sigma * (x - x.mean((1, 2), keepdims=True)) + 0.3 * label


def model(kind):
    def perturbed(branch):
        def window(cond, way, size):
            assert way == "window"
            return branch(cond)

        return window

    return toy_system.of(functools.partial(knows_all, jnp), kind, perturbed)


def by_hand(size, corners, masked):
    """eps of the mean over the windows that hold a pixel."""
    sigma, x = NS.sigma[T].reshape(-1, 1, 1, 1), X.astype(np.float64)
    found = knows_all(np, x, sigma, LABEL)
    for i in range(6):
        for j in range(6):
            said = []
            for r, c in [(r, c) for r in corners for c in corners]:
                if r <= i < r + size and c <= j < c + size:
                    part = x[:, r : r + size, c : c + size]
                    eps = knows_all(np, part, sigma, LABEL)
                    said.append(eps[:, i - r, j - c])
            if len(said) > 1 or not masked:
                found[:, i, j] = np.mean(said, axis=0)
    return found


@pytest.mark.parametrize("kind", process.PREDICTIONS)
@pytest.mark.parametrize(
    ("settings", "size", "corners", "masked"),
    [
        ({}, 4, (0, 2), True),
        ({"masked": False}, 4, (0, 2), False),
        ({"size": 3, "windows": 3, "masked": False}, 3, (0, 2, 3), False),
    ],
)
def test_the_mean_over_the_windows(kind, settings, size, corners, masked):
    made = references.branches(model(kind), jnp.asarray(LABEL), {"swg": settings})
    level = NS.level(T)
    alpha, sigma = (prediction.per_image(v, X) for v in level[1:])

    def said(branch, **given):
        raw = branch.fn(jnp.asarray(X), level, branch.cond, **given)
        return prediction.of_raw(raw, X, alpha, sigma, branch.predicts)

    given = {"given": {"cond": said(made["cond"])}} if masked else {}
    assert made["swg"].uses == (("cond",) if masked else ())
    wanted = by_hand(size, corners, masked)
    np.testing.assert_allclose(said(made["swg"], **given).eps, wanted, atol=1e-4)
    assert np.abs(wanted - said(made["cond"]).eps).max() > 0.01


def test_windows_that_leave_pixels_out():
    needs = {"swg": {"size": 2, "masked": False}}
    with pytest.raises(ValueError, match="2 x 2 windows of 2 pixels in 6 x 6 leave"):
        references.branches(model("eps"), jnp.asarray(LABEL), needs)
