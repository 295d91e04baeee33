"""Curves over tau = t / T: tables, and what "the same energy" means on a grid.

The paper asks for the integral of omega(t) over 0 ... T to be omega T (section 4.1);
Algorithm 1 divides by the mean. On S of T timesteps these differ by up to a few
percent, so the mode is a choice that belongs to a result:

sampling    mean over the timesteps used is 1 (default)
train       mean over t = 0 ... T-1 is 1, then gathered: Algorithm 1 to the letter
continuous  integral over tau in [0, 1] is 1: the paper's closed forms
dt          sum of omega_k delta_k over sum of delta_k is 1, delta_k = t_k - t_{k+1};
            the last step takes the spacing before it, so a uniform grid equals sampling
none        the curve as it is
"""

from collections.abc import Callable

import numpy as np

from progguide_jax.diffusion.levels import Levels
from progguide_jax.diffusion.process import NoiseSchedule

MODES = ("sampling", "train", "continuous", "dt", "none")
_CELLS = 100_000  # of the midpoint rule behind "continuous"; error below 1e-9


def table(values: np.ndarray, num_timesteps: int) -> Callable[[np.ndarray], np.ndarray]:
    """The curve of weights [...,N] over t ascending, t = 0 ... T-1 at equal distances.

    N = T gathers values[..., t]; any other N >= 2 interpolates linearly in t.
    """
    values = np.asarray(values, np.float64)
    n = values.shape[-1] if values.ndim else 0
    if n < 2 or not np.all(np.isfinite(values)):
        raise ValueError("table: values must be finite, [N] or [K,N] with N >= 2")
    return at_nodes(np.linspace(0, num_timesteps - 1, n), values, num_timesteps)


def at_nodes(
    nodes: np.ndarray, values: np.ndarray, num_timesteps: int
) -> Callable[[np.ndarray], np.ndarray]:
    """The curve of weights [...,N] at t = nodes [N], ascending; linear between them."""

    def curve(tau):
        t = np.asarray(tau) * num_timesteps
        rows = [np.interp(t, nodes, row) for row in values.reshape(-1, len(nodes))]
        return np.reshape(rows, values.shape[:-1] + t.shape)

    return curve


def carry(
    values: np.ndarray, source: NoiseSchedule, target: NoiseSchedule | Levels
) -> np.ndarray:
    """A curve [...,T] over the timesteps of `source`, at the noise levels of `target`:
    float64 [...,T'], ascending, for a noise schedule; [...,S] in sampling order for a
    grid, such as one of sigma alone.

    Linear in log(sigma / alpha), the same as linear in the t of `source`; levels that
    `source` does not have take the value at its nearest one. A probed curve is carried
    as G, whose value belongs to a noise level, not as g, which is one per timestep:

        G = curves.carry(gradnorm.cumulative(g), probed, wanted)
        schedules.make("table", scale, timesteps, T, values=G, axis="t")
    """
    values, known = np.asarray(values, np.float64), source.log_r
    if values.ndim < 1 or values.shape[-1] != len(known):
        raise ValueError(
            f"values have shape {values.shape}: pass one for each of the {len(known)} "
            "timesteps of the schedule they come from"
        )
    if isinstance(target, Levels):
        with np.errstate(divide="ignore"):
            wanted = np.log(target.r[:-1])
    else:
        wanted = target.log_r
    whole = np.isfinite(known)  # infinite where alpha is 0, at the noisiest level
    rows = [
        np.where(
            np.isposinf(wanted),
            row[-1],
            np.interp(wanted, known[whole], row[whole]),
        )
        for row in values.reshape(-1, len(known))
    ]
    return np.reshape(rows, values.shape[:-1] + wanted.shape)


def standardise(
    curve: Callable[[np.ndarray], np.ndarray],
    timesteps: np.ndarray,
    num_timesteps: int,
    mode: str,
) -> np.ndarray:
    """curve(t / T) float64 [...,S] at the timesteps [S], scaled as `mode` says.

    `curve` maps tau [N] to weights [...,N]; leading axes are standardised one by one.
    """
    ts = np.asarray(timesteps)
    if np.any(ts < 0) or np.any(ts >= num_timesteps):
        raise ValueError(
            f"timesteps {ts.min()} ... {ts.max()} leave 0 ... {num_timesteps - 1}, "
            "where the curve is defined: use the grid of that many timesteps"
        )
    values = np.asarray(curve(ts / num_timesteps), np.float64)
    match mode:
        case "none":
            return values
        case "sampling":
            mean = values.mean(-1, keepdims=True)
        case "train":
            tau = np.arange(num_timesteps) / num_timesteps
            mean = np.asarray(curve(tau), np.float64).mean(-1, keepdims=True)
        case "continuous":
            tau = (np.arange(_CELLS) + 0.5) / _CELLS
            mean = np.asarray(curve(tau), np.float64).mean(-1, keepdims=True)
        case "dt":
            mean = np.sum(values * _spacing(ts), -1, keepdims=True)
        case _:
            raise ValueError(f"unknown mode {mode!r}: use one of {', '.join(MODES)}")
    if np.any(values < 0) or not np.all(mean > 0):
        raise ValueError(
            "the curve is negative somewhere, or 0 on all of the timesteps, and cannot "
            'be standardised: change it or use normalize="none"'
        )
    return values / mean


def _spacing(ts: np.ndarray) -> np.ndarray:
    """delta_k [S], summing to 1."""
    if len(ts) == 1:
        return np.ones(1)
    delta = -np.diff(ts).astype(np.float64)
    delta = np.append(delta, delta[-1])
    return delta / delta.sum()


def jumps(omega: np.ndarray) -> list[int]:
    """The steps k at which omega [S] or [K,S] in sampling order leaves its value at
    k - 1 by more than half of its range, as at the ends of an interval."""
    rows = np.atleast_2d(np.asarray(omega, np.float64))
    far = np.abs(np.diff(rows)) > 0.5 * np.ptp(rows, axis=-1, keepdims=True)
    return (np.flatnonzero(far.any(0)) + 1).tolist()
