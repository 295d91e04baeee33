"""What a schedule is asked for: a guidance scale on the steps of a grid."""

import logging
from typing import NamedTuple

import numpy as np

from progguide_jax.diffusion import process
from progguide_jax.diffusion.levels import Levels

_log = logging.getLogger(__name__)


class Steps(NamedTuple):
    """t [S], falling, of num_timesteps. nodes: t and log(sigma / alpha), ascending,
    where noise levels are known. The last two are None where nobody gave them."""

    t: np.ndarray
    num_timesteps: int
    scale: float
    noise_schedule: process.NoiseSchedule | None
    nodes: tuple[np.ndarray, np.ndarray] | None

    def log_r(self, t: np.ndarray) -> np.ndarray:
        """log(sigma / alpha) at t, linear between known levels."""
        if self.nodes is None:
            raise ValueError(
                "sigma and log_snr need the noise levels: pass noise_schedule=, or the "
                "grid itself (samplers' Levels) as timesteps"
            )
        known, log_r = self.nodes
        whole = np.isfinite(log_r)  # infinite where alpha is 0, at the noisiest level
        inner = np.interp(t, known[whole], log_r[whole])
        return np.where(t > known[whole][-1] + 1e-6, log_r[-1], inner)


def of(
    timesteps: np.ndarray | Levels,
    num_timesteps: int,
    scale: float,
    noise_schedule: process.NoiseSchedule | None = None,
) -> Steps:
    """Steps; noise levels are those of the grid, or of the noise schedule."""
    if noise_schedule is not None:
        known = process.of(noise_schedule).num_timesteps
        if known != num_timesteps:
            raise ValueError(
                f"noise_schedule has {known} timesteps and num_timesteps is "
                f"{num_timesteps}: pass that of the model"
            )
    nodes = None
    if isinstance(timesteps, Levels):
        grid, timesteps = timesteps, timesteps.t[:-1]
        nodes = timesteps[::-1], _log_of(grid.r[-2::-1])
    elif noise_schedule is not None:
        nodes = np.arange(num_timesteps), noise_schedule.log_r
    if np.ndim(timesteps) != 1 or not np.size(timesteps):
        raise ValueError(
            f"timesteps is {timesteps!r:.40}: pass the grid itself [S], such as "
            f"samplers.timesteps({num_timesteps}, 50)"
        )
    if nodes is None and 2 * np.max(timesteps) < num_timesteps - 1:
        _log.warning(
            "timesteps begin at %d and num_timesteps is %d: the noisier half of the "
            "curve is left out; pass the num_timesteps that the timesteps are of",
            np.max(timesteps),
            num_timesteps,
        )
    return Steps(np.asarray(timesteps), num_timesteps, scale, noise_schedule, nodes)


def _log_of(r: np.ndarray) -> np.ndarray:
    with np.errstate(divide="ignore"):
        return np.log(r)
