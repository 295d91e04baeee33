"""Guidance weight schedules omega(t): the idea of progressive guidance.

    eps_hat = eps_c + omega(t) (eps_c - eps_u)                            (paper, Eq. 3)

weak while the image is noise (t near T), strong later. A schedule here is an array:
`make` evaluates a curve g(tau), tau = t / T, on the sampling timesteps, standardises
it and multiplies by the guidance scale. tau = 1 is noise, so an "increasing" schedule
is one whose g falls with tau: omega[0] < omega[-1] in sampling order.

Schedules that are stated for w = 1 + omega, counted from the unconditional prediction,
are written so: omega = (1 + scale) g - 1, which may be negative.
"""

import functools
import logging
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from progguide_jax import registry
from progguide_jax.diffusion import process
from progguide_jax.diffusion.levels import Levels
from progguide_jax.guidance import curves
from progguide_jax.guidance.schedules import fixed, gated, measured, stepwise
from progguide_jax.guidance.schedules import steps as steps_lib

_log = logging.getLogger(__name__)
# The largest scale in print is 100 (DreamFusion; the two Gaussians of Figure 2), and a
# curve of that mean peaks a few times higher.
_BEYOND_USE = 1000.0

static, linear, cosine = fixed.static, fixed.linear, fixed.cosine
invlinear, sine, sine_bump = fixed.invlinear, fixed.sine, fixed.sine_bump
lambda_, vshape, pcs = fixed.lambda_, fixed.vshape, fixed.pcs
AXES, Steps, steps_of = measured.AXES, steps_lib.Steps, steps_lib.of


class Schedule(NamedTuple):
    """curve: (steps, **settings) -> g(tau), and the standardisation that g has unless
    one is asked for. omega: (steps, g [S], **settings) -> omega [S]. own_mean: whether
    omega fixes the mean, so that no standardisation may be asked for."""

    curve: Callable[..., Callable[[np.ndarray], np.ndarray]]
    normalize: str = "sampling"
    omega: Callable[..., np.ndarray] = fixed.times_scale
    own_mean: bool = False


def _of_tau(curve):
    @functools.wraps(curve)  # its signature says which settings it has
    def make(steps, **settings):
        curve(np.zeros(1), **settings)  # a bad one is said here
        return functools.partial(curve, **settings)

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
    "interval": Schedule(gated.interval, "none"),
    "neg_perturb": Schedule(gated.neg_perturb, "none"),
    "table": Schedule(measured.table),
    "gn": Schedule(measured.gn),
    "gn_all": Schedule(measured.gn_all),
    "clamp_linear": Schedule(_of_tau(fixed.clamp_linear), omega=fixed.clamped),
    "clamp_cosine": Schedule(_of_tau(fixed.clamp_cosine), omega=fixed.clamped),
    "c2fg": Schedule(_of_tau(fixed.c2fg), "none", fixed.from_unconditional),
    "dg_cfg": Schedule(measured.dg_cfg),
    "dynamic_cfg": Schedule(
        _of_tau(fixed.dynamic_cfg), "none", fixed.from_unconditional
    ),
    "negative_window": Schedule(
        gated.negative_window, "none", gated.early_or_late, own_mean=True
    ),
    "beta": Schedule(stepwise.beta, "none", fixed.from_unconditional),
    "muse_linear": Schedule(stepwise.muse_linear, "none"),
    "slides_cosine": Schedule(stepwise.slides_cosine, "none", stepwise.above_floor),
    "tv": Schedule(stepwise.tv, "none", stepwise.rise_and_fall, own_mean=True),
    "tv_interval": Schedule(stepwise.tv_interval, "none"),
    "tv_stepup": Schedule(stepwise.tv_stepup, "none", fixed.from_unconditional),
    "tv_stepdown": Schedule(stepwise.tv_stepdown, "none", fixed.from_unconditional),
}


def names() -> list[str]:
    """The schedules that `make` knows."""
    return list(SCHEDULES)


def beyond_use(*weights: float | np.ndarray) -> str:
    """What to say where one of these is beyond all use, else ""."""
    if not any(np.abs(weight).max() > _BEYOND_USE for weight in weights):
        return ""
    return (
        f"a guidance weight is above {_BEYOND_USE:g}: images will saturate, no "
        "published method uses more than 100"
    )


def check_scale(name: str, scale: float) -> None:
    """ValueError unless the guidance scale makes sense for the schedule `name`."""
    if np.ndim(scale) or not np.issubdtype(np.asarray(scale).dtype, np.number):
        raise ValueError(
            f"guidance scale is {scale!r:.40}: pass one number, in the order "
            "make(name, scale, timesteps, num_timesteps)"
        )
    lowest = -1.0 if name == "static" else 0.0  # -1 is the unconditional model
    if not np.isfinite(scale) or scale < lowest:
        raise ValueError(
            f"guidance scale {scale} makes no sense for {name!r}: use a finite number, "
            f"at least {lowest:g} (0 = plain conditional sampling)"
        )


def check_normalize(name: str, normalize: str | None) -> str:
    """The standardisation of a schedule: `normalize`, or its own where that is None;
    ValueError if there is none of that name or the schedule takes no other."""
    return _mode(name, SCHEDULES[name], normalize)


def make(
    name: str | Callable,
    scale: float,
    timesteps: np.ndarray | Levels,
    num_timesteps: int,
    normalize: str | None = None,
    *,
    noise_schedule: process.NoiseSchedule | None = None,
    **shape,
) -> np.ndarray:
    """omega float32 [S] in sampling order ([K,S] for gn_all and for tables [K,N]).

    name: one of `names()`, or a function of an array, t (0 ... T-1) or tau (t / T) by
    the name of its argument. scale: the guidance scale; 0 is plain conditional sampling
    whatever the schedule is. The mean of omega over the steps equals it where the
    schedule's own standardisation is "sampling"; where that is "none", it is what the
    docstring says: a peak (pcs), a height (interval), w - 1 of a weight w (beta).
    timesteps: those of the steps [S], or the grid (Levels). normalize: one of
    `curves.MODES`; None = the schedule's own, "sampling" for a function. A table is a
    curve like the others, scaled to that mean; normalize="none" gives scale times its
    values. noise_schedule: for schedules that read noise levels; for the ends of an
    interval a grid does too. shape: the schedule's settings, such as `power` for pcs;
    `values` and `axis` for table; `g` for gn and gn_all.
    Raises ValueError on an unknown name, a scale that makes no sense, and weights that
    are 0 on all timesteps; logs a warning where they are the same on all of them, or
    beyond use.
    """
    if callable(name):
        schedule = Schedule(measured.own(name), omega=measured.own_omega(name))
        name = getattr(name, "__name__", "own")
    else:
        schedule = SCHEDULES[registry.check("schedule", name, SCHEDULES)]
    check_scale(name, scale)
    mode = _mode(name, schedule, normalize)
    known = list(registry.defaults(schedule.curve))[1:]
    registry.check_settings(f"schedule {name!r}", shape, known)
    registry.check_numbers(name, schedule.curve, shape)
    steps = steps_of(timesteps, num_timesteps, scale, noise_schedule)
    try:
        curve = schedule.curve(steps, **shape)
        g = curves.standardise(curve, steps.t, num_timesteps, mode)
        omega = schedule.omega(steps, g, **shape)
    except TypeError as error:  # "gn() missing 1 required positional argument: 'g'"
        reason = str(error).split("() ", 1)[-1]
        raise ValueError(f"schedule {name!r}: {reason}") from error
    if not np.all(np.isfinite(omega)):
        raise ValueError(f"schedule {name!r}: the curve is not finite everywhere")
    if not scale:
        return np.zeros(omega.shape, np.float32)
    _check_acts(name, omega)
    if words := beyond_use(scale, omega):
        _log.warning(words)
    return omega.astype(np.float32)


def _mode(name: str, schedule: Schedule, normalize: str | None) -> str:
    mode = schedule.normalize if normalize is None else normalize
    registry.check("normalize", mode, curves.MODES)
    if schedule.own_mean and mode != "none":
        raise ValueError(
            f"normalize is {mode!r} and schedule {name!r} has a scaling of its own: "
            'use "none"'
        )
    return mode


def _check_acts(name: str, omega: np.ndarray) -> None:
    steps = omega.shape[-1]
    if not omega.any():
        raise ValueError(
            f"schedule {name!r}: 0 on all {steps} sampling timesteps: widen it, or use "
            "a scale of 0"
        )
    if name != "static" and steps > 1 and np.all(np.ptp(omega, axis=-1) == 0):
        _log.warning(
            "schedule %r has one value on all %d sampling timesteps: it is static",
            name,
            steps,
        )
