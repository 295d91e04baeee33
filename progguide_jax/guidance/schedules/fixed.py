"""Curves of tau = t / T alone: 0 is data, 1 is noise."""

import math

import numpy as np

from progguide_jax.guidance.schedules.steps import Steps


def static(tau):
    """The same weight at every step (Ho and Salimans 2022, arXiv:2207.12598).

    Formula: g = 1.
    Convention: omega.
    Neutral: it is.
    """
    return np.ones_like(tau)


def linear(tau):
    """Linear, increasing (Wang et al. 2024, arXiv:2404.13040; the paper, section 4.1).

    Formula: g = 2 (1 - tau).
    Convention: omega.
    Neutral: none; its mean is that of static.
    """
    return 2 * (1 - tau)


def cosine(tau):
    """Cosine, increasing (Wang et al. 2024, arXiv:2404.13040; the paper, section 4.1).

    Formula: g = 1 + cos(pi tau).
    Convention: omega.
    Neutral: none; its mean is that of static.
    """
    return 1 + np.cos(np.pi * tau)


def invlinear(tau):
    """Inverse linear, decreasing: the mirror of linear (the paper, A.1).

    Formula: g = 2 tau.
    Convention: omega.
    Neutral: none; its mean is that of static.
    """
    return 2 * tau


def sine(tau):
    """Sine, decreasing: the mirror of cosine (Wang et al. 2024; the paper, A.1).

    Formula: g = 1 - cos(pi tau).
    Convention: omega.
    Neutral: none; its mean is that of static.
    Deviation: the paper names it without a formula; `sine_bump` is the other reading.
    """
    return 1 - np.cos(np.pi * tau)


def sine_bump(tau):
    """A peak in the middle, the other reading of "sine".

    Formula: g = (pi / 2) sin(pi tau).
    Convention: omega.
    Neutral: none; its mean is that of static.
    """
    return np.pi / 2 * np.sin(np.pi * tau)


def lambda_(tau):
    """A peak in the middle, a capital Lambda (Wang et al. 2024, arXiv:2404.13040).

    Formula: g = 2 (1 - |1 - 2 tau|).
    Convention: omega.
    Neutral: none; its mean is that of static.
    """
    return 2 * (1 - np.abs(1 - 2 * tau))


def vshape(tau):
    """A trough in the middle, a V (Wang et al. 2024, arXiv:2404.13040).

    Formula: g = 2 |1 - 2 tau|.
    Convention: omega.
    Neutral: none; its mean is that of static.
    Deviation: public code takes invlinear where t < T / 2 and linear elsewhere, which
        is a peak in the middle: here a V looks like one.
    """
    return 2 * np.abs(1 - 2 * tau)


def pcs(tau, power: float = 4.0):
    """Power-cosine (Gao et al. 2023, arXiv:2303.14389, MDT).

    Formula: g = (1 - cos(pi (1 - tau)^power)) / 2, whose peak is 1.
    Convention: omega; their code has w = 1 + (w_max - 1) g, the same.
    Neutral: power towards 0 is static.
    """
    if not power > 0:
        raise ValueError(f"pcs: power must be positive, got {power}")
    return (1 - np.cos(np.pi * (1 - tau) ** power)) / 2


def clamp_linear(tau, floor: float | None = None):
    """Linear, never below a floor (Wang et al. 2024, arXiv:2404.13040).

    Formula: omega(t) = max(floor, omega 2 (1 - tau)).
    Convention: omega, and the floor is an omega too; None is omega / 2.
    Neutral: a floor of 0 is linear.
    Deviation: theirs are floors for text-to-image (2 for SD1.5, 4 for SDXL).

    The floor comes after the scaling of normalize, so that the mean exceeds omega.
    """
    _check_floor(floor)
    return linear(tau)


def clamp_cosine(tau, floor: float | None = None):
    """Cosine, never below a floor (Wang et al. 2024, arXiv:2404.13040).

    Formula: omega(t) = max(floor, omega (1 + cos(pi tau))).
    Convention: omega, and the floor is an omega too; None is omega / 2.
    Neutral: a floor of 0 is cosine.
    Deviation: theirs are floors for text-to-image (2 for SD1.5, 4 for SDXL).

    The floor comes after the scaling of normalize, so that the mean exceeds omega.
    """
    _check_floor(floor)
    return cosine(tau)


def _check_floor(floor: float | None) -> None:
    if floor is not None and not 0 <= floor < math.inf:
        raise ValueError(f"floor is {floor}: use an omega of 0 or more")


def c2fg(tau, rate: float = math.log(2)):
    """C2FG (Gao et al. 2026, arXiv:2603.08155).

    Formula: w(t) = w_0 exp(rate (1 - tau)), from w_0 at noise to w_0 e^rate at data.
    Convention: w = 1 + omega, so omega(t) = (1 + omega) exp(rate (1 - tau)) - 1.
    Neutral: a rate of 0 is static.
    Source: accounts that quote the paper's Eq. 14 and its tables; no code is public.
        The text calls the curve a decay, and the formula, which is taken, grows toward
        data.

    The scale is that at noise, and the mean of w is (e^rate - 1) / rate times it.
    Theirs: w_0 1 with rate ln 2 for DiT and 1 for SiT, w_0 1.7 with 0.05 for EDM2
    beside autoguidance, rate 0.2 for Stable Diffusion. w_0 = 1 is the scale 0, which is
    plain conditional sampling here: take a scale of 1e-6.
    """
    if not 0 <= rate < math.inf:
        raise ValueError(f"rate is {rate}: use a number of 0 or more")
    return np.exp(rate * (1 - tau))


def dynamic_cfg(tau, tau_1: float = 0.6, tau_2: float = 0.9):
    """Dynamic CFG, the companion of CADS (Sadat et al. 2023, arXiv:2310.17347).

    Formula: w(t) = w clip((tau_2 - tau) / (tau_2 - tau_1), 0, 1): nothing above tau_2,
        all of it below tau_1.
    Convention: w = 1 + omega: omega is -1, the unconditional model, above tau_2.
    Neutral: a tau_1 of 1 or more is static.
    Source: reimplementations of CADS, which noises the condition by the same ramp; with
        steps left over S for tau, where ours is t / T.
    """
    if not 0 <= tau_1 < tau_2 < math.inf:
        raise ValueError(f"tau_1 {tau_1}, tau_2 {tau_2}: use 0 <= tau_1 < tau_2")
    return np.clip((tau_2 - tau) / (tau_2 - tau_1), 0, 1)


def times_scale(steps: Steps, g: np.ndarray, /, **_) -> np.ndarray:
    """omega = scale g."""
    return steps.scale * g


def from_unconditional(steps: Steps, g: np.ndarray, /, **_) -> np.ndarray:
    """omega of w = (1 + scale) g: g = 0 is the unconditional model, omega = -1."""
    return (1 + steps.scale) * g - 1


def clamped(steps: Steps, g: np.ndarray, /, floor: float | None = None) -> np.ndarray:
    """omega = max(floor, scale g)."""
    return np.maximum(steps.scale / 2 if floor is None else floor, steps.scale * g)
