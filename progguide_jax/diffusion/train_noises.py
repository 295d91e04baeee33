"""The noise that a network is trained on, and what it should say of it.

A noise is a function (key, shape [B,...]) -> (n, eps), both of that shape:
x_t = alpha x0 + sigma n, and the network learns eps, whose mean given x_t is
-sigma times the score of x_t. For Gaussian noise the two are one.
"""

import math
from collections.abc import Callable

import jax
import jax.numpy as jnp

from progguide_jax import registry
from progguide_jax.diffusion import prediction

Noise = Callable[[jax.Array, tuple[int, ...]], tuple[jax.Array, jax.Array]]


def gaussian() -> Noise:
    """N(0, I), as everywhere in diffusion."""
    return _gaussian


def _gaussian(key, shape):
    n = jax.random.normal(key, shape)
    return n, n


def student_t(degrees: float = 4.0) -> Noise:
    """The multivariate Student-t distribution with nu degrees of freedom.

    n = z / sqrt(kappa), z ~ N(0, I), kappa ~ chi^2_nu / nu, one kappa an image; that is
    the noise of Pandey et al. 2024 (arXiv:2410.14171). The score of sigma n is
    -(nu + d) n / (sigma (nu + |n|^2)), so eps = (nu + d) n / (nu + |n|^2): by denoising
    score matching its mean given x_t is -sigma times the score of x_t. The mean of n
    itself is not: Tweedie's formula holds for Gaussian noise alone.
    """
    if not 0 < degrees < math.inf:
        raise ValueError(
            f"student_t: degrees must be finite and positive, got {degrees}"
        )

    def noise(key, shape):
        z = jax.random.normal(key, shape)
        draws = jax.random.gamma(jax.random.fold_in(key, 1), degrees / 2, shape[:1])
        kappa = prediction.per_image(draws * 2 / degrees, z)
        n = z / jnp.sqrt(kappa)
        d = math.prod(shape[1:])
        return n, (degrees + d) / (degrees + prediction.dot(n, n)) * n

    return noise


NOISES = {"gaussian": gaussian, "student_t": student_t}


def names() -> list[str]:
    """What `make` knows."""
    return list(NOISES)


def make(name: str, **settings: float) -> Noise:
    """The noise `name`."""
    return registry.make("training noise", name, NOISES, **settings)
