"""Schedules that switch: guidance in a window of noise levels, or outside of it."""

import math
from collections.abc import Callable

import numpy as np

from progguide_jax.guidance.schedules.steps import Steps

# tau = t / T rounds: ends are compared with margins far below one timestep
_MARGIN_T, _MARGIN_LOG_R = 1e-6, 1e-9


def interval(
    steps: Steps,
    t_min: float | None = None,
    t_max: float | None = None,
    sigma_min: float | None = None,
    sigma_max: float | None = None,
    log_snr_min: float | None = None,
    log_snr_max: float | None = None,
    step_min: int | None = None,
    step_max: int | None = None,
):
    """Guidance in a limited interval (Kynkaanniemi et al. 2024, arXiv:2404.07724).

    Formula: g = 1 for t_min <= t <= t_max, or sigma_min < sigma / alpha <= sigma_max,
        or log_snr_min <= log(alpha^2 / sigma^2) < log_snr_max, or
        step_min <= k <= step_max (k = 0 the noisiest step), else 0.
    Convention: omega; outside is their w = 1, the conditional model.
    Neutral: an interval over all steps is static.
    Deviation: the paper has sigma_min < sigma <= sigma_max, its code step indices, both
        ends inside; a solver with two stages has one flag a step in their code, here
        `stage_omega="step"` of that solver.

    One end may be left out; the ends are of one kind. EDM2-XXL: steps 17 ... 22 of 32,
    sigma (0.19, 1.61], at w = 2; SDXL: sigma (0.28, 5.42] at w = 16.
    """
    kinds = {
        "t": (t_min, t_max),
        "sigma": (sigma_min, sigma_max),
        "log_snr": (log_snr_min, log_snr_max),
        "step": (step_min, step_max),
    }
    given = [k for k, ends in kinds.items() if any(end is not None for end in ends)]
    if len(given) > 1:
        raise ValueError(
            f"the ends are given in {' and in '.join(given)}: give {given[0]}_min and "
            f"{given[0]}_max only, or those of another kind"
        )
    match given:
        case ["sigma"]:
            low, high = _ends("sigma", sigma_min, sigma_max, 0, math.inf)
            if not (low >= 0 and high > 0):
                raise ValueError(f"sigma_min {low} ... sigma_max {high}: use 0 or more")
            return _inside_log_r(steps, "sigma", _log(low), _log(high), np.exp)
        case ["log_snr"]:
            low, high = _ends("log_snr", *kinds["log_snr"], -math.inf, math.inf)
            return _inside_log_r(
                steps, "log_snr", -high / 2, -low / 2, lambda log_r: -2 * log_r
            )
        case ["step"]:
            return _inside_t(steps, *_times_of_steps(steps, step_min, step_max))
    return _inside_t(steps, *_limits(steps.num_timesteps, t_min, t_max))


def neg_perturb(steps: Steps, t_min: float | None = None, t_max: float | None = None):
    """Negative perturbation: no guidance in a window (the paper, A.1).

    Formula: g = 0 for t_min <= t <= t_max, else 1.
    Convention: omega.
    Neutral: a window between two steps is static.
    """
    inside = _inside_t(steps, *_limits(steps.num_timesteps, t_min, t_max))
    return lambda tau: 1 - inside(tau)


def negative_window(steps: Steps, switch: float = 0.5, late: float = -1.0):
    """A negative window (Ventura et al. 2026, arXiv:2602.00716).

    Formula: omega for the first switch S of the S steps, then `late`.
    Convention: omega; `late` is one too: -1 is the unconditional model, 0 the
        conditional one.
    Neutral: a switch of 1 is static.
    Deviation: their theory (section 4.2) has a weight linear in the time of a
        variance-exploding process, from omega down to -1 or more; this is what they ran
        on Stable Diffusion 1.5 (appendix F.3.2, Euler ancestral, 30 steps), the switch
        after half to 70 % of the steps.
    Source: accounts of the paper's version 4 that give both sections.
    """
    if not 0 < switch <= 1:
        raise ValueError(
            f"switch is {switch}: use a share of the steps, 0 < switch <= 1"
        )
    if not -1 <= late < math.inf:
        raise ValueError(f"late is {late}: use an omega of -1 or more")
    early = math.ceil(switch * len(steps.t) - 1e-9)
    return _inside_t(steps, steps.t[early - 1], steps.num_timesteps)


def early_or_late(
    steps: Steps, g: np.ndarray, /, late: float = -1.0, **_
) -> np.ndarray:
    """The scale where g is 1 and `late` where it is 0."""
    return np.where(g > 0, steps.scale, late)


def _inside_t(steps: Steps, low: float, high: float) -> Callable:
    def curve(tau):
        t = tau * steps.num_timesteps
        return ((t >= low - _MARGIN_T) & (t <= high + _MARGIN_T)).astype(np.float64)

    return curve


def _inside_log_r(steps: Steps, kind: str, low, high, shown: Callable) -> Callable:
    """1 where low < log(sigma / alpha) <= high; shown(log_r) is the unit of `kind`."""
    on_grid = steps.log_r(steps.t)
    if high < on_grid.min() - _MARGIN_LOG_R or low >= on_grid.max():
        ends = sorted([shown(on_grid.min()), shown(on_grid.max())])
        raise ValueError(
            f"{kind}_min and {kind}_max hold no noise level of the grid: its {kind} is "
            f"{ends[0]:.4g} ... {ends[1]:.4g}"
        )

    def curve(tau):
        log_r = steps.log_r(tau * steps.num_timesteps)
        above, below = log_r > low + _MARGIN_LOG_R, log_r <= high + _MARGIN_LOG_R
        return (above & below).astype(np.float64)

    return curve


def _ends(kind: str, low, high, lowest: float, highest: float) -> tuple[float, float]:
    low, high = lowest if low is None else low, highest if high is None else high
    if not low < high:
        raise ValueError(
            f"{kind}_min {low} ... {kind}_max {high} holds no noise level: use "
            f"{kind}_min < {kind}_max"
        )
    return low, high


def _log(value: float) -> float:
    return math.log(value) if value > 0 else -math.inf


def _times_of_steps(steps: Steps, first, last) -> tuple[float, float]:
    """t of the last and of the first step of the interval."""
    end = len(steps.t) - 1
    first, last = 0 if first is None else first, end if last is None else last
    whole = all(isinstance(k, int | np.integer) for k in (first, last))
    if not (whole and 0 <= first <= min(last, end)):
        raise ValueError(
            f"step_min {first} ... step_max {last} holds no step of 0 ... {end}: use "
            "whole numbers 0 <= step_min <= step_max"
        )
    return steps.t[min(last, end)], steps.t[first]


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
