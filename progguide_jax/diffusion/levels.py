"""Sampling grids: the noise levels that a solver steps through.

A level is (t, alpha, sigma) with x_t = alpha x0 + sigma eps. t may be fractional: a
network embeds it as a number. Grids made for sigma (Karras, log-SNR) stand here in the
coordinates of a variance-preserving schedule, alpha^2 + sigma^2 = 1, if one is given;
without one alpha = 1 and t = sigma, as denoisers trained on x0 + sigma eps want it.
Solvers do not care: all of them are exact under a change of alpha.
"""

import logging
import numbers
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from progguide_jax import registry
from progguide_jax.diffusion import process

_log = logging.getLogger(__name__)


class Levels(NamedTuple):
    """S + 1 levels, float64 [S+1] each, sigma / alpha falling; the last one is data.

    at: log(sigma / alpha) -> (t, alpha, sigma), for solvers that leave the grid.
    """

    t: np.ndarray
    alpha: np.ndarray
    sigma: np.ndarray
    at: Callable[[np.ndarray], tuple[np.ndarray, np.ndarray, np.ndarray]]

    @property
    def r(self) -> np.ndarray:
        """sigma / alpha, float64 [S+1]: EDM's sigma; infinite where alpha is 0."""
        with np.errstate(divide="ignore"):
            return self.sigma / self.alpha


def of(levels: Levels) -> Levels:
    """levels itself; ValueError for anything else, such as timesteps."""
    if not isinstance(levels, Levels):
        raise ValueError(
            f"the grid is a {type(levels).__name__}: pass levels, such as "
            "levels.from_timesteps(noise_schedule, timesteps) or "
            "levels.karras(noise_schedule, 20)"
        )
    return levels


def timesteps(
    num_timesteps: int, num_steps: int, spacing: str = "leading", offset: int = 0
) -> np.ndarray:
    """The sampling grid: int32 [S], noisiest first, strictly falling.

    leading   k (T // S) for k = S-1 ... 0        (DDIM; the paper's 200 steps); an S
              that does not divide T leaves out the noisiest timesteps
    trailing  round(T - k T / S) - 1              (reaches T-1)
    linspace  round(linspace(T-1, 0, S))
    `offset` is added to every t (latent diffusion uses leading with 1).
    """
    if not 1 <= num_steps <= num_timesteps:
        raise ValueError(
            f"num_steps must lie in 1 ... {num_timesteps} (the training timesteps), "
            f"got {num_steps}"
        )
    spacing = registry.check("spacing", spacing, SPACINGS)
    k = np.arange(num_steps)
    t = SPACINGS[spacing](k, num_timesteps, num_steps).astype(np.int32) + offset
    if t[0] >= num_timesteps or t[-1] < 0:
        raise ValueError(
            f"offset {offset} moves the grid to {t[-1]} ... {t[0]}, outside "
            f"0 ... {num_timesteps - 1}: use one in "
            f"{offset - t[-1]} ... {offset + num_timesteps - 1 - t[0]}"
        )
    return t


SPACINGS = {
    "leading": lambda k, T, S: k[::-1] * (T // S),
    "trailing": lambda k, T, S: np.round(T - k * T / S) - 1,
    "linspace": lambda k, T, S: np.round(np.linspace(T - 1, 0, S)),
}


def from_timesteps(
    ns: process.NoiseSchedule, timesteps: np.ndarray, final: str = "data"
) -> Levels:
    """The levels of timesteps int [S], strictly falling. Logs a warning where they
    begin in the cleaner half of the schedule: x_T is no pure noise there.

    final: where the last step ends: "data" (alpha 1) or "first", the level of t = 0, as
    latent diffusion and Stable Diffusion do (`set_alpha_to_one=False`).
    """
    if callable(timesteps) or isinstance(timesteps, Levels):
        raise ValueError(
            "timesteps is a grid of levels, or makes one: pass int [S], such as "
            f"samplers.timesteps({process.of(ns).num_timesteps}, 50), or use "
            "samplers.solve, which takes solver(levels)"
        )
    ts, last = np.asarray(timesteps), process.of(ns).num_timesteps - 1
    if ts.ndim == 0:
        raise ValueError(
            f"timesteps is {timesteps}: pass the grid itself, samplers.timesteps("
            f"{ns.num_timesteps}, {timesteps or 50})"
        )
    if ts.ndim != 1 or not np.issubdtype(ts.dtype, np.integer) or len(ts) == 0:
        raise ValueError("timesteps must be integers of shape [S], S >= 1")
    if len(ts) > ns.num_timesteps:
        raise ValueError(
            f"{len(ts)} sampling steps on {ns.num_timesteps} training timesteps: use "
            f"at most {ns.num_timesteps}"
        )
    if np.any(np.diff(ts) >= 0) or ts[0] > last or ts[-1] < 0:
        raise ValueError(f"timesteps must fall strictly within {last} ... 0")
    if 2 * ts[0] < last:
        _log.warning(
            "sampling begins at t = %d of 0 ... %d, where x_T is an image with noise: "
            "for a whole trajectory use samplers.timesteps(%d, %d)",
            ts[0],
            last,
            last + 1,
            max(len(ts), 2),
        )
    registry.check("final", final, ("data", "first"))
    if final == "first" and ts[-1] == 0:
        raise ValueError(
            'the last timestep is 0 and final is "first": there is no step left from '
            't = 0 to itself; use final="data", or an offset of 1'
        )
    end = 1.0 if final == "data" else ns.alpha_bar[0]
    alpha_bar = np.append(ns.alpha_bar[ts], end)
    return Levels(
        np.append(ts.astype(np.float64), 0.0),
        np.sqrt(alpha_bar),
        np.sqrt(1 - alpha_bar),
        _variance_preserving(ns),
    )


def karras(
    ns: process.NoiseSchedule | None,
    num_steps: int,
    sigma_min: float | None = None,
    sigma_max: float | None = None,
    rho: float = 7.0,
) -> Levels:
    """sigma^(1/rho) at equal distances, then 0 (Karras et al. 2022, eq. 5).

    sigma stands for sigma / alpha. Its ends are those of the noise schedule, or
    0.002 and 80 without one; ValueError if they leave what the schedule covers.
    """
    registry.check_numbers("karras", karras, {"rho": rho})
    if not rho > 0:
        raise ValueError(f"rho must be positive, got {rho}")
    low, high = _ends(ns, num_steps, sigma_min, sigma_max)
    ramp = np.linspace(high ** (1 / rho), low ** (1 / rho), num_steps)
    return _of_log_r(ns, rho * np.log(ramp))


def log_snr(
    ns: process.NoiseSchedule | None,
    num_steps: int,
    sigma_min: float | None = None,
    sigma_max: float | None = None,
) -> Levels:
    """log(sigma / alpha), half the negative log-SNR, at equal distances, then data.

    The ends are as in `karras`.
    """
    low, high = _ends(ns, num_steps, sigma_min, sigma_max)
    return _of_log_r(ns, np.linspace(np.log(high), np.log(low), num_steps))


# grids of sigma: name -> (ns, num_steps, ...) -> Levels
SIGMA_GRIDS = {"karras": karras, "log_snr": log_snr}


def names() -> list[str]:
    """The grids that `make` knows."""
    return [*SPACINGS, *SIGMA_GRIDS]


def make(
    name: str, ns: process.NoiseSchedule, num_steps: int, offset: int = 0, **settings
) -> Levels:
    """The grid `name`; settings are those of `karras` and `log_snr`."""
    registry.check("spacing", name, names())
    if name in SPACINGS:
        return from_timesteps(ns, timesteps(ns.num_timesteps, num_steps, name, offset))
    if offset:
        raise ValueError(f"offset {offset} moves timesteps: leave it out with {name!r}")
    return SIGMA_GRIDS[name](ns, num_steps, **settings)


def _ends(ns, num_steps: int, low, high) -> tuple[float, float]:
    if ns is not None:
        process.of(ns)
    registry.check_numbers("levels", log_snr, {"sigma_min": low, "sigma_max": high})
    if not isinstance(num_steps, numbers.Integral) or num_steps < 1:
        raise ValueError(
            f"num_steps must be an int of at least 1, got {num_steps!r:.40}"
        )
    if ns is None:
        first, last = 0.002, 80.0
    else:
        covered = np.exp(ns.log_r[np.isfinite(ns.log_r)])
        first, last = covered[0], covered[-1]
        for key, end in (("sigma_min", low), ("sigma_max", high)):
            if end is not None and not first * (1 - 1e-9) <= end <= last * (1 + 1e-9):
                raise ValueError(
                    f"{key} {end:g} leaves the range of {ns.name}: use {first:.4g} ... "
                    f"{last:.4g}"
                )
    low, high = first if low is None else low, last if high is None else high
    if not (0 < low <= high < np.inf and (low < high or num_steps == 1)):
        raise ValueError(
            f"sigma_min {low:g} and sigma_max {high:g}: they must satisfy "
            "0 < sigma_min < sigma_max"
        )
    return float(low), float(high)


def _of_log_r(ns, log_r: np.ndarray) -> Levels:
    """The levels of log(sigma / alpha) [S] and data."""
    at = _variance_exploding if ns is None else _variance_preserving(ns)
    t, alpha, sigma = at(log_r)
    return Levels(np.append(t, 0.0), np.append(alpha, 1.0), np.append(sigma, 0.0), at)


def _variance_preserving(ns: process.NoiseSchedule):
    def at(log_r):
        log_r = np.asarray(log_r, np.float64)
        # r / sqrt(1 + r^2) and 1 / sqrt(1 + r^2), without an overflow of r^2
        alpha = np.exp(-np.logaddexp(0, 2 * log_r) / 2)
        sigma = np.exp(-np.logaddexp(0, -2 * log_r) / 2)
        return ns.time_of(log_r), alpha, sigma

    return at


def _variance_exploding(log_r):
    sigma = np.exp(log_r)
    return sigma, np.ones_like(sigma), sigma
