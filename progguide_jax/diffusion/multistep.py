"""Solvers with a memory: DPM-Solver++(2M) and UniPC-2, exact in log-SNR."""

import math
from collections.abc import Iterable, Sequence

import numpy as np

from progguide_jax.diffusion import plans
from progguide_jax.diffusion.levels import Levels
from progguide_jax.diffusion.plans import X0, H, Plan, Solver, X, Z


@plans.factory
def dpmpp_2m(stochastic: bool = False, restart: bool = False) -> Solver:
    """DPM-Solver++(2M) (Lu et al. 2022, arXiv:2211.01095, Algorithm 2).

    Formula: x_s = (sigma_s / sigma_t) x - alpha_s phi (x0 + h / (2 h_0)
        (x0 - x0_before)) with h = lambda_s - lambda_t, h_0 that of the step before and
        phi = exp(-h) - 1. The SDE ("sde-dpmsolver++") has exp(-2h) - 1 for phi, exp(-h)
        in front of x and adds sigma_s sqrt(1 - exp(-2h)) z.
    Cost: 1 evaluation a step.

    stochastic: the SDE's instead of the ODE's. Of order 1 at the first step and onto
    data. restart: also at `jumps` of omega, steps [S] which plan(levels, jumps) takes:
    the x0 before belongs to another omega there, and with it the error is of order 1.
    """

    def plan(levels: Levels, jumps: Sequence[int] = ()) -> Plan:
        h, decay = _log_steps(_several(levels, "dpmpp_2m"))
        phi = decay**2 - 1 if stochastic else decay - 1
        m = plans.matrices(levels, 1)
        back = _second_order(h, jumps if restart else ()) * phi * levels.alpha[1:]
        m[:, 0, X] = levels.sigma[1:] / levels.sigma[:-1]
        if stochastic:
            m[:, 0, X] *= decay
            m[:, 0, Z] = levels.sigma[1:] * np.sqrt(1 - decay**2)
        m[:, 0, X0] = -levels.alpha[1:] * phi - back
        m[:, 0, H] = back
        m[:, 1, X0] = 1
        return plans.one_each(levels, m)

    return plan


@plans.factory
def unipc(restart: bool = False) -> Solver:
    """UniPC-2 (Zhao et al. 2023, arXiv:2302.04867), "bh2": B(h) = exp(-h) - 1.

    Formula: the predictor is DPM-Solver++(2M); a corrector mends the last step by the
        x0 of this evaluation. Memory: the mended x, and x0 of the two evaluations
        before. The corrector is of order 1 after the first step.
    Cost: 1 evaluation a step.

    Without the corrector it would be dpmpp_2m. restart: at the `jumps` of omega it
    begins again, as dpmpp_2m does.
    """

    def plan(levels: Levels, jumps: Sequence[int] = ()) -> Plan:
        h, decay = _log_steps(_several(levels, "unipc"))
        fresh = {0, *jumps} if restart else {0}
        m = plans.matrices(levels, 3)
        mended, old, older = H, H + 1, H + 2
        half = _second_order(h, fresh)
        for k in range(len(m)):
            # the corrected x as a row over (x0, eps, x, z, mended, old, older)
            corrected = np.zeros(7)
            if k in fresh:
                corrected[X] = 1
            else:
                alpha, phi = levels.alpha[k], decay[k - 1] - 1
                now, before = _corrector(h, k, after_first=k - 1 in fresh)
                corrected[mended] = levels.sigma[k] / levels.sigma[k - 1]
                corrected[X0] = -alpha * phi * now
                corrected[older] = -alpha * phi * before
                corrected[old] = -alpha * phi * (1 - now - before)
            m[k, 1] = corrected
            m[k, 2, X0] = m[k, 3, old] = 1
            # 2M from the corrected x
            alpha, phi = levels.alpha[k + 1], decay[k] - 1
            m[k, 0] = levels.sigma[k + 1] / levels.sigma[k] * corrected
            m[k, 0, X0] -= alpha * phi * (1 + half[k])
            m[k, 0, old] += alpha * phi * half[k]
        return plans.one_each(levels, m)

    return plan


def _corrector(h: np.ndarray, k: int, after_first: bool) -> tuple[float, float]:
    """Weights of (x0 at level k, x0 at level k - 2) for the step onto level k; that of
    level k - 1 is what is missing to one."""
    step = h[k - 1]
    if after_first or not math.isfinite(h[k - 2]) or not math.isfinite(step):
        return 0.5, 0.0
    ratio = -h[k - 2] / step
    phi = math.expm1(-step)
    first = phi / -step - 1
    second = first / -step - 0.5
    matrix = np.array([[1.0, 1.0], [ratio, 1.0]])
    before, now = np.linalg.solve(matrix, [first / phi, 2 * second / phi])
    return now, before / ratio


def _several(levels: Levels, name: str) -> Levels:
    if len(levels.t) < 3:
        raise ValueError(
            f"{name} learns from the step before and there is one step: take more, or "
            "use ddim"
        )
    return levels


def _log_steps(levels: Levels) -> tuple[np.ndarray, np.ndarray]:
    """h = lambda_s - lambda_t [S], infinite from pure noise and onto data; exp(-h)."""
    alpha_t, alpha_s, sigma_t, sigma_s, _ = plans.steps(levels)
    decay = alpha_t * sigma_s / (alpha_s * sigma_t)
    with np.errstate(divide="ignore"):
        return -np.log(decay), decay


def _second_order(h: np.ndarray, fresh: Iterable[int]) -> np.ndarray:
    """h / (2 h_0) [S], the weight of x0 - x0_before; 0 where a step has order 1: the
    first one, those of `fresh`, the one after pure noise, and the one onto data."""
    weight = np.zeros(len(h))
    both = np.isfinite(h[1:]) & np.isfinite(h[:-1])
    weight[1:][both] = h[1:][both] / (2 * h[:-1][both])
    weight[list(fresh)] = 0
    return weight
