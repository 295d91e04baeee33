"""Schedules that their papers state for step k of S, k = 0 the noisiest, not for t."""

import math
from collections.abc import Callable

import numpy as np

from progguide_jax.guidance.schedules.steps import Steps


def on_steps(steps: Steps, values: np.ndarray) -> Callable[[np.ndarray], np.ndarray]:
    """The curve of values [S], one a step; linear in t between steps."""
    nodes, values = steps.t[::-1], np.asarray(values, np.float64)[::-1]

    def curve(tau):
        t = np.asarray(tau) * steps.num_timesteps
        k = np.minimum(np.searchsorted(nodes, t - 1e-6), len(nodes) - 1)
        at_a_step = np.abs(nodes[k] - t) < 1e-6  # t / T rounds: a step has its value
        return np.where(at_a_step, values[k], np.interp(t, nodes, values))

    return curve


def muse_linear(steps: Steps):
    """A linear ramp over the steps (Chang et al. 2023, arXiv:2301.00704, Muse).

    Formula: g = k / (S - 1), from 0 to 1.
    Convention: omega, which is the last and highest weight; the mean is half of it.
    Neutral: none; with half the omega it is `linear` up to one step of the grid.
    """
    return on_steps(steps, np.linspace(0, 1, len(steps.t)))


def slides_cosine(steps: Steps, floor: float = 0.0):
    """A cosine in w over the steps, as shown in slides on weight schedulers.

    Formula: w = floor + (w_max - floor) (1 + cos(pi (S - k) / S)) / 2.
    Convention: w = 1 + omega, and omega is that of w_max; w < 1 lies between the two
        predictions, so the first steps follow the unconditional model.
    Neutral: a floor of 1 + omega is static.

    A floor of 1 begins at the conditional model instead. The mean of w is about half of
    floor + w_max.
    """
    if not 0 <= floor < math.inf:
        raise ValueError(f"floor is {floor}: use a w = 1 + omega of 0 or more")
    count = len(steps.t)
    left = np.arange(count, 0, -1) / count
    return on_steps(steps, (1 + np.cos(np.pi * left)) / 2)


def above_floor(steps: Steps, g: np.ndarray, /, floor: float = 0.0) -> np.ndarray:
    """omega of w = floor + (1 + scale - floor) g."""
    return (floor - 1) + (1 + steps.scale - floor) * g


def beta(steps: Steps, a: float = 2.0, b: float = 2.0):
    """The weight of beta-CFG (Malarz et al. 2025, arXiv:2502.10574).

    Formula: w = w_0 Beta(p; a, b), the density of a beta distribution at
        p = k / (S - 1).
    Convention: w = 1 + omega, so omega(t) = (1 + omega) Beta(p) - 1: it is negative at
        both ends, where the unconditional model is followed.
    Neutral: a = b = 1 is static.
    Deviation: they divide the difference of the predictions by a power of its norm too;
        that is a rule.

    Theirs: a = b = 2, or a = 2 and b = 3, at w_0 = 7.5.
    """
    if not (1 <= a < math.inf and 1 <= b < math.inf):
        raise ValueError(f"a {a}, b {b}: use numbers of 1 or more")
    p = np.linspace(0, 1, len(steps.t))
    area = math.exp(math.lgamma(a) + math.lgamma(b) - math.lgamma(a + b))
    return on_steps(steps, p ** (a - 1) * (1 - p) ** (b - 1) / area)


def tv(steps: Steps):
    """TV-CFG: weak, strong, weak (Jin et al. 2025, arXiv:2509.22007).

    Formula: w rises over half of the steps from 1 to 2 w_0 - 1 and falls back, and is
        scaled so that the sum of w_k (t_k - t_{k+1}) / t_0 is w_0; the last step ends
        at 0.
    Convention: w = 1 + omega; omega is near 0 at both ends, not at it.
    Neutral: none; its mean over t is that of static.
    Deviation: as in their code, whose last step begins at the low weight; by accounts
        of the paper's formula it ends there.
    """
    half, odd = divmod(len(steps.t), 2)
    up = np.arange(half) / max(half, 1)
    down = np.linspace(1, 0, half + odd)
    _shares(steps)
    return on_steps(steps, np.concatenate([up, down]) if half else np.zeros(odd))


def rise_and_fall(steps: Steps, g: np.ndarray) -> np.ndarray:
    """omega of w = 1 + 2 scale g, scaled to a mean over t of 1 + scale."""
    w = 1 + 2 * steps.scale * g
    return (1 + steps.scale) * w / np.sum(w * _shares(steps)) - 1


def tv_interval(steps: Steps, left: float = 0.15, right: float = 0.78):
    """The interval that TV-CFG is compared with (Jin et al. 2025, arXiv:2509.22007).

    Formula: one weight where left < t / t_0 < right, such that the sum of
        w_k (t_k - t_{k+1}) / t_0 is w_0, and w = 1 elsewhere.
    Convention: w = 1 + omega: the same as omega / (share of t inside), and 0 elsewhere.
    Neutral: left below 0 and right above 1 are static.
    """
    if not left < right:
        raise ValueError(f"left {left}, right {right}: use left < right")
    shares, place = _shares(steps), steps.t / steps.t[0]
    inside = (left < place) & (place < right)
    share = shares[inside].sum()
    if not share > 0:
        raise ValueError(
            f"left {left} ... right {right} holds none of the {len(steps.t)} steps: "
            "widen it"
        )
    return on_steps(steps, inside / share)


def tv_stepup(steps: Steps, ratio: float = 3.0, switch: float = 0.25):
    """Early low weight, to compare with TV-CFG (Jin et al. 2025, arXiv:2509.22007).

    Formula: w = w_0 / ratio where k / (S - 1) < switch, then w_0.
    Convention: w = 1 + omega: omega is negative early if 1 + omega < ratio.
    Neutral: a ratio of 1 is static.
    """
    return on_steps(steps, np.where(_early(steps, ratio, switch), 1 / ratio, 1))


def tv_stepdown(steps: Steps, ratio: float = 3.0, switch: float = 0.25):
    """Early high weight, to compare with TV-CFG (Jin et al. 2025, arXiv:2509.22007).

    Formula: w = w_0 where k / (S - 1) < switch, then w_0 / ratio.
    Convention: w = 1 + omega: omega is negative late if 1 + omega < ratio.
    Neutral: a ratio of 1 is static.
    """
    return on_steps(steps, np.where(_early(steps, ratio, switch), 1, 1 / ratio))


def _early(steps: Steps, ratio: float, switch: float) -> np.ndarray:
    if not 0 < ratio < math.inf:
        raise ValueError(f"ratio is {ratio}: it must be positive")
    if not 0 <= switch <= 1:
        raise ValueError(f"switch is {switch}: use a share of the steps, 0 ... 1")
    return np.linspace(0, 1, len(steps.t)) < switch


def _shares(steps: Steps) -> np.ndarray:
    """(t_k - t_{k+1}) / t_0 [S], the last step ending at 0: they sum to 1."""
    if not steps.t[0] > 0:
        raise ValueError(
            "tv schedules weigh steps by t: use a grid that begins above 0"
        )
    return -np.diff(steps.t, append=0) / steps.t[0]
