"""Curves that are given, measured or derived: tables, probed G(t), functions."""

import inspect
import logging

import numpy as np

from progguide_jax import registry
from progguide_jax.guidance import curves, gradnorm
from progguide_jax.guidance.schedules.steps import Steps

_log = logging.getLogger(__name__)

AXES = ("t", "steps")


def table(steps: Steps, values, axis: str = ""):
    """A table: values [N] or [K,N], a row for each class.

    Formula: g is linear between the values, over t ascending from 0 (axis "t"), or one
        for each sampling step from noise to data (axis "steps").
    Convention: omega once scaled; normalize="none" gives scale times the values.
    Neutral: equal values are static.
    """
    values, timesteps = np.asarray(values, np.float64), steps.t
    same = values.ndim > 0 and values.shape[-1] == len(timesteps)
    if not axis and same:
        raise ValueError(
            f"values are as many as the {len(timesteps)} sampling steps: say "
            'axis="t" if they ascend from t = 0, axis="steps" if they begin at noise'
        )
    if registry.check("axis", axis or "t", AXES) == "t":
        return curves.table(values, steps.num_timesteps)
    if not same:
        raise ValueError(
            f"values have shape {values.shape}: axis 'steps' takes one for each of the "
            f"{len(timesteps)} sampling steps"
        )
    return curves.at_nodes(timesteps[::-1], values[..., ::-1], steps.num_timesteps)


def gn(steps: Steps, g):
    """Progressive guidance by gradient norms (the paper, Algorithm 1).

    Formula: g = G(t), the mean over classes of G(t, c) = sum of g(i, c) over i >= t,
        from a probed g [T] or [K,T].
    Convention: omega.
    Neutral: a probed g at t = T - 1 alone is static; a constant one is linear.
    """
    g = np.atleast_2d(_checked_gradnorm(g, steps.num_timesteps))
    return curves.table(gradnorm.cumulative(g.mean(0)), steps.num_timesteps)


def gn_all(steps: Steps, g):
    """Progressive guidance with a curve for each class (the paper, section 4.2).

    Formula: g = G(t, c) = sum of g(i, c) over i >= t, from a probed g [K,T]: [K,S].
    Convention: omega; each class is scaled by itself.
    Neutral: a probed g that is the same in each class is gn.
    """
    g = _checked_gradnorm(g, steps.num_timesteps)
    if g.ndim != 2:
        raise ValueError(
            f"gn_all: g has shape {g.shape}, expected [K, {steps.num_timesteps}]"
        )
    return curves.table(gradnorm.cumulative(g), steps.num_timesteps)


def _checked_gradnorm(g, num_timesteps: int) -> np.ndarray:
    g = np.asarray(g, np.float64)
    if g.ndim not in (1, 2) or g.shape[-1] != num_timesteps:
        raise ValueError(
            f"gn: g has shape {g.shape}, expected [{num_timesteps}] or "
            f"[K, {num_timesteps}]: probe with the noise schedule you sample with, or "
            "pass its G as a table (curves.carry)"
        )
    if not np.all(np.isfinite(g)) or np.any(g < 0):
        raise ValueError("gn: g must be finite and not negative")
    return g


def dg_cfg(steps: Steps):
    """DG-CFG (Jiang and Ma 2026, arXiv:2607.19725).

    Formula: g = (1 - alpha_bar) sqrt(alpha_bar) / beta, beta_t the noise of one step,
        1 - alpha_bar_t / alpha_bar_{t-1}: small at both ends.
    Convention: their w = 1 + C (w_0 - 1) g, with C such that the mean over time is w_0,
        is omega g over its mean.
    Neutral: none; its mean is that of static.
    Source: accounts of the paper, whose text was not at hand. Open: whether beta_t is
        that of one training step, as here, or the rate of the SDE (about T times it,
        which C takes out), and over which steps C is taken.

    It needs the noise schedule, and is stated for variance-preserving ones with DDIM,
    not for flow matching.
    """
    if steps.noise_schedule is None:
        raise ValueError(
            "dg_cfg needs the noise schedule: pass noise_schedule="
            f"process.ddpm_linear({steps.num_timesteps}), or that of the model"
        )
    alpha_bar = steps.noise_schedule.alpha_bar
    noise = 1 - alpha_bar / np.append(1, alpha_bar[:-1])
    g = (1 - alpha_bar) * np.sqrt(alpha_bar) / noise
    return curves.table(g, steps.num_timesteps)


def own(function):
    """The curve of a user's function of t (0 ... T-1) or of tau = t / T."""
    first = _argument(function)
    if first not in ("t", "tau"):
        raise ValueError(
            "name the argument of your function t, for timesteps 0 ... T-1, or tau, "
            f"for t / T: it is {first!r}"
        )

    def make(steps: Steps):
        def curve(tau):
            at = np.asarray(tau) * (steps.num_timesteps if first == "t" else 1)
            cause = None
            try:
                found = function(at)
                values = np.asarray(() if found is None else found, np.float64)
                reason = f"it returned {'None' if found is None else values.shape}"
            except (TypeError, ValueError) as error:
                values, reason, cause = np.zeros(0), str(error), error
            if values.shape not in ((), (1,), at.shape):
                raise ValueError(
                    f"your function of {first} must take an array and return one as "
                    f"long, {at.shape} ({reason}): use np.where instead of if"
                ) from cause
            return np.broadcast_to(values, at.shape)

        return curve

    return make


def own_omega(function):
    """omega = scale g; says so where a function of t tells t = 0 from the other
    timesteps only, as one does that is written for t / T."""

    def omega(steps: Steps, g: np.ndarray) -> np.ndarray:
        later = g[steps.t > 0]
        if _argument(function) == "t" and len(later) > 1:
            if np.ptp(later) == 0 and np.any(g != later[0]):
                _log.warning(
                    "your function of t has one value at t = 0 and another at all the "
                    "other steps: t is 0 ... %d; name the argument tau for t / T",
                    steps.num_timesteps - 1,
                )
        return steps.scale * g

    return omega


def _argument(function) -> str | None:
    return next(iter(inspect.signature(function).parameters), None)
