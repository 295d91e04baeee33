"""Levels beside a given one, on the device: another t, or another amount of noise.

log_r is `known(noise_schedule)`: log(sigma / alpha) of the whole timesteps, without the
last one if that is pure noise. Between timesteps it is linear in t, as in
`NoiseSchedule.time_of`.
"""

import jax
import jax.numpy as jnp
import numpy as np

from progguide_jax.diffusion import process


def known(ns: process.NoiseSchedule) -> np.ndarray:
    """log(sigma / alpha) where it is finite: [T] or [T-1]."""
    return ns.log_r[np.isfinite(ns.log_r)]


def at_time(t: jax.Array, log_r: jax.Array) -> process.Level:
    """The level of a fractional t [B] in 0 ... T-1."""
    steps = jnp.arange(len(log_r), dtype=t.dtype)
    here = jnp.interp(t, steps, log_r.astype(t.dtype))
    pure = t >= len(log_r)  # the timestep that log_r leaves out
    return process.Level(t, *_alpha_sigma(jnp.where(pure, jnp.inf, here)))


def noisier(level: process.Level, factor: jax.Array, log_r: jax.Array) -> process.Level:
    """The level whose sigma / alpha is `factor` times that of `level` [B], at most the
    noisiest of log_r; pure noise stays what it is."""
    wide, pure = level.alpha.dtype, level.alpha <= 0
    log_r = log_r.astype(wide)
    here = jnp.log(level.sigma) - jnp.log(jnp.where(pure, 1, level.alpha))
    most = jnp.maximum(log_r[-1], here)  # a level beyond is not made cleaner
    there = jnp.minimum(here + jnp.log(factor), most)
    t = jnp.interp(there, log_r, jnp.arange(len(log_r), dtype=wide))
    moved = (t, *_alpha_sigma(there))
    return process.Level(
        *(
            jnp.where(pure, old.astype(wide), new)
            for old, new in zip(level, moved, strict=True)
        )
    )


def _alpha_sigma(log_r: jax.Array) -> tuple[jax.Array, jax.Array]:
    """alpha^2 = 1 / (1 + r^2) and sigma^2 = r^2 / (1 + r^2), also of infinite r."""
    alpha, sigma = (jnp.sqrt(jax.nn.sigmoid(sign * 2 * log_r)) for sign in (-1, 1))
    return alpha, sigma
