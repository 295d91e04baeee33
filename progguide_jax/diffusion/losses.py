"""How much the squared error of a prediction counts at each noise level.

    loss = E w(t) mean over pixels (prediction - target)^2

in the space of what the network predicts. An error e of eps is one of (sigma / alpha) e
in x0 and of e / alpha in v, so equal weights there are three different losses. A weight
is a function (level, kind of prediction) -> [B].
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from progguide_jax import registry
from progguide_jax.diffusion import process

Weight = Callable[[process.Level, str], jax.Array]


def uniform() -> Weight:
    """1 at every level, whatever is predicted (DDPM eq. 14, where it is eps)."""
    return _uniform


def _uniform(level, kind):
    return jnp.ones_like(level.alpha)


def min_snr(gamma: float = 5.0) -> Weight:
    """Min-SNR-gamma of Hang et al. 2023 (arXiv:2303.09556), section 3.4.

    With SNR = alpha^2 / sigma^2 it is min(SNR, gamma) on x0, which is
    min(SNR, gamma) / SNR on eps and min(SNR, gamma) / (SNR + 1) on v: one loss,
    whatever is predicted. At alpha = 0 these are 0, 1 (the limit) and 0, so pure noise
    itself teaches an x0- or a v-network nothing.
    """
    if not gamma > 0:
        raise ValueError(f"min_snr: gamma must be positive, got {gamma}")

    def weight(level, kind):
        signal, noise = jnp.square(level.alpha), jnp.square(level.sigma)
        match kind:
            case "eps":
                return jnp.minimum(1.0, gamma * noise / signal)
            case "x0":
                return jnp.minimum(signal / noise, gamma)
            case "v":
                return jnp.minimum(signal, gamma * noise) / (signal + noise)
        raise ValueError(f"unknown prediction {kind!r}")

    return weight


WEIGHTS = {"uniform": uniform, "min_snr": min_snr}


def names() -> list[str]:
    """What `make` knows."""
    return list(WEIGHTS)


def make(name: str, **settings: float) -> Weight:
    """The loss weight `name`."""
    return registry.make("loss weight", name, WEIGHTS, **settings)
