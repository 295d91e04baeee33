"""Guidance weight schedules omega(t): the idea of progressive guidance.

    eps_hat = eps_c + omega(t) (eps_c - eps_u)                            (paper, Eq. 3)

weak while the image is noise (t near T), strong later. A schedule here is an array:
`make` evaluates a curve g(tau), tau = t / T, on the sampling timesteps, standardises
it and multiplies by the guidance scale. tau = 1 is noise, so an "increasing" schedule
is one whose g falls with tau: omega[0] < omega[-1] in sampling order.
"""

import functools
import inspect
import logging
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from progguide_jax import registry
from progguide_jax.guidance import curves, gradnorm

_log = logging.getLogger(__name__)


def static(tau):
    """g = 1."""
    return np.ones_like(tau)


def linear(tau):
    """g = 2 (1 - tau): increasing (paper, section 4.1)."""
    return 2 * (1 - tau)


def cosine(tau):
    """g = 1 + cos(pi tau): increasing (paper, section 4.1)."""
    return 1 + np.cos(np.pi * tau)


def invlinear(tau):
    """g = 2 tau: decreasing, the mirror of linear (paper, A.1)."""
    return 2 * tau


def sine(tau):
    """g = 1 - cos(pi tau): decreasing, mirrors cosine (A.1 names it, no formula)."""
    return 1 - np.cos(np.pi * tau)


def sine_bump(tau):
    """g = (pi / 2) sin(pi tau): a peak in the middle, the other reading of "sine"."""
    return np.pi / 2 * np.sin(np.pi * tau)


def lambda_(tau):
    """g = 2 (1 - |1 - 2 tau|): a peak in the middle, a capital Lambda."""
    return 2 * (1 - np.abs(1 - 2 * tau))


def vshape(tau):
    """g = 2 |1 - 2 tau|: a trough in the middle, a V."""
    return 2 * np.abs(1 - 2 * tau)


def pcs(tau, power: float = 4.0):
    """g = (1 - cos(pi (1 - tau)^power)) / 2: power-cosine, peak 1 (Gao et al. 2023)."""
    if not power > 0:
        raise ValueError(f"pcs: power must be positive, got {power}")
    return (1 - np.cos(np.pi * (1 - tau) ** power)) / 2


class Schedule(NamedTuple):
    """curve(tau, **shape) and the standardisation it has unless one is asked for."""

    curve: Callable[..., np.ndarray]
    normalize: str = "sampling"


def _interval(num_timesteps, t_min: float | None = None, t_max: float | None = None):
    """g = 1 for t_min <= t <= t_max, else 0 (Kynkaanniemi et al. 2024, in t)."""
    t_min, t_max = _limits(num_timesteps, t_min, t_max)

    def curve(tau):
        t = tau * num_timesteps
        # tau = t / T rounds: compare with a margin far below one timestep
        return ((t >= t_min - 1e-6) & (t <= t_max + 1e-6)).astype(np.float64)

    return curve


def _limits(num_timesteps, t_min, t_max) -> tuple[float, float]:
    last = num_timesteps - 1
    if t_min is None and t_max is None:
        raise ValueError(
            f"give t_min, t_max or both, in timesteps 0 ... {last}: without limits it "
            "is the same everywhere"
        )
    for name, limit in (("t_min", t_min), ("t_max", t_max)):
        fraction = isinstance(limit, float) and 0 < limit <= 1
        if fraction or (limit is not None and 0 < limit < 1):
            raise ValueError(
                f"{name} {limit} is a fraction and limits are timesteps 0 ... {last}: "
                f"{limit} of them is {name}={limit * num_timesteps:g}"
            )
    t_min, t_max = 0 if t_min is None else t_min, last if t_max is None else t_max
    if not t_min <= min(t_max, last):
        raise ValueError(
            f"t_min {t_min} ... t_max {t_max} holds no timestep of 0 ... {last}: use "
            "0 <= t_min <= t_max"
        )
    return t_min, t_max


def _neg_perturb(num_timesteps, t_min: float | None = None, t_max: float | None = None):
    """g = 0 for t_min <= t <= t_max, else 1 (paper, A.1: negative perturbation)."""
    inside = _interval(num_timesteps, t_min, t_max)
    return lambda tau: 1 - inside(tau)


AXES = ("t", "steps")


def _table(num_timesteps, timesteps, values, axis: str = ""):
    """A curve of values [N] or [K,N] over t ascending (axis "t"), or [S] or [K,S], one
    for each sampling step from noise to data (axis "steps")."""
    values, timesteps = np.asarray(values, np.float64), np.asarray(timesteps)
    same = values.ndim > 0 and values.shape[-1] == len(timesteps)
    if not axis and same:
        raise ValueError(
            f"values are as many as the {len(timesteps)} sampling steps: say "
            'axis="t" if they ascend from t = 0, axis="steps" if they begin at noise'
        )
    if registry.check("axis", axis or "t", AXES) == "t":
        return curves.table(values, num_timesteps)
    if not same:
        raise ValueError(
            f"values have shape {values.shape}: axis 'steps' takes one for each of the "
            f"{len(timesteps)} sampling steps"
        )
    return curves.at_nodes(timesteps[::-1], values[..., ::-1], num_timesteps)


def _gn(num_timesteps, g):
    """G(t) averaged over classes, from g [T] or [K,T] (paper, Algorithm 1)."""
    g = np.atleast_2d(_checked_gradnorm(g, num_timesteps))
    return curves.table(gradnorm.cumulative(g.mean(0)), num_timesteps)


def _gn_all(num_timesteps, g):
    """G(t, c) for each class, from g [K,T]: [K,S] (paper, section 4.2)."""
    g = _checked_gradnorm(g, num_timesteps)
    if g.ndim != 2:
        raise ValueError(
            f"gn_all: g has shape {g.shape}, expected [K, {num_timesteps}]"
        )
    return curves.table(gradnorm.cumulative(g), num_timesteps)


def _checked_gradnorm(g, num_timesteps: int) -> np.ndarray:
    g = np.asarray(g, np.float64)
    if g.ndim not in (1, 2) or g.shape[-1] != num_timesteps:
        raise ValueError(
            f"gn: g has shape {g.shape}, expected [{num_timesteps}] or "
            f"[K, {num_timesteps}]: probe with the noise schedule you sample with"
        )
    if not np.all(np.isfinite(g)) or np.any(g < 0):
        raise ValueError("gn: g must be finite and not negative")
    return g


def _own(function):
    """The curve of a user's function of t (0 ... T-1) or of tau = t / T."""
    first = next(iter(inspect.signature(function).parameters), None)
    if first not in ("t", "tau"):
        raise ValueError(
            "name the argument of your function t, for timesteps 0 ... T-1, or tau, "
            f"for t / T: it is {first!r}"
        )

    def make(num_timesteps):
        def curve(tau):
            at = np.asarray(tau) * (num_timesteps if first == "t" else 1)
            try:
                return np.broadcast_to(np.asarray(function(at), np.float64), at.shape)
            except (TypeError, ValueError) as error:
                raise ValueError(
                    f"your function of {first} must take an array and return one as "
                    f"long ({error}): use np.where instead of if"
                ) from error

        return curve

    return make


def _of_tau(curve):
    @functools.wraps(curve)  # its signature says which shape it has
    def make(num_timesteps, **shape):
        return functools.partial(curve, **shape)

    return make


SCHEDULES = {
    "static": Schedule(_of_tau(static)),
    "linear": Schedule(_of_tau(linear)),
    "cosine": Schedule(_of_tau(cosine)),
    "invlinear": Schedule(_of_tau(invlinear)),
    "sine": Schedule(_of_tau(sine)),
    "sine_bump": Schedule(_of_tau(sine_bump)),
    "lambda": Schedule(_of_tau(lambda_)),
    "vshape": Schedule(_of_tau(vshape)),
    "pcs": Schedule(_of_tau(pcs), "none"),
    "interval": Schedule(_interval, "none"),
    "neg_perturb": Schedule(_neg_perturb, "none"),
    "table": Schedule(_table),
    "gn": Schedule(_gn),
    "gn_all": Schedule(_gn_all),
}


def names() -> list[str]:
    """The schedules that `make` knows."""
    return list(SCHEDULES)


def check_scale(name: str, scale: float) -> None:
    """ValueError unless the guidance scale makes sense for the schedule `name`."""
    lowest = -1.0 if name == "static" else 0.0  # -1 is the unconditional model
    if not np.isfinite(scale) or scale < lowest:
        raise ValueError(
            f"guidance scale {scale} makes no sense for {name!r}: use a finite number, "
            f"at least {lowest:g} (0 = plain conditional sampling)"
        )


def make(
    name: str | Callable,
    scale: float,
    timesteps: np.ndarray,
    num_timesteps: int,
    normalize: str | None = None,
    **shape,
) -> np.ndarray:
    """omega float32 [S] in sampling order ([K,S] for gn_all and for tables [K,N]).

    name: one of `names()`, or a function of an array, t (0 ... T-1) or tau (t / T) by
    the name of its argument. scale: the guidance scale, 0 = plain conditional sampling;
    the mean of omega over the timesteps [S] equals it, except for `pcs` (its peak),
    `interval` and `neg_perturb` (their height). A table is a curve like the others: its
    values are scaled to that mean; normalize="none" gives scale times the values.
    normalize: one of `curves.MODES`; None = the schedule's own, "sampling" for a
    function. shape: `power` for pcs; `t_min`, `t_max` for interval and neg_perturb;
    `values` and `axis` for table; `g` for gn and gn_all.
    Raises ValueError on an unknown name, a scale that makes no sense, and a curve that
    is 0 on all timesteps; logs a warning where it is the same on all of them.
    """
    if callable(name):
        schedule, name = Schedule(_own(name)), getattr(name, "__name__", "own")
    else:
        schedule = SCHEDULES[registry.check("schedule", name, SCHEDULES)]
    check_scale(name, scale)
    mode = schedule.normalize if normalize is None else normalize
    registry.check("normalize", mode, curves.MODES)
    if np.ndim(timesteps) != 1:
        raise ValueError(
            f"timesteps is {timesteps!r:.40}: pass the grid itself [S], such as "
            f"samplers.timesteps({num_timesteps}, 50)"
        )
    if "timesteps" in inspect.signature(schedule.curve).parameters:
        shape["timesteps"] = timesteps
    try:
        curve = schedule.curve(num_timesteps, **shape)
        weights = curves.standardise(curve, timesteps, num_timesteps, mode)
    except TypeError as error:  # "_gn() missing 1 required positional argument: 'g'"
        reason = str(error).split("() ", 1)[-1]
        raise ValueError(f"schedule {name!r}: {reason}") from error
    if not np.all(np.isfinite(weights)):
        raise ValueError(f"schedule {name!r}: the curve is not finite everywhere")
    if scale:
        _check_acts(name, weights)
    return (scale * weights).astype(np.float32)


def _check_acts(name: str, weights: np.ndarray) -> None:
    steps = weights.shape[-1]
    if not weights.any():
        raise ValueError(
            f"schedule {name!r}: 0 on all {steps} sampling timesteps: widen it, or use "
            "a scale of 0"
        )
    if name != "static" and steps > 1 and np.all(np.ptp(weights, axis=-1) == 0):
        _log.warning(
            "schedule %r has one value on all %d sampling timesteps: it is static",
            name,
            steps,
        )
