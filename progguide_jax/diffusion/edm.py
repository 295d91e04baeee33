"""Euler and Heun with churn: the samplers of Karras et al. 2022 (arXiv:2206.00364)."""

import math

import numpy as np

from progguide_jax import registry
from progguide_jax.diffusion import plans
from progguide_jax.diffusion.levels import Levels
from progguide_jax.diffusion.plans import EPS, X0, H, Plan, Solver, X


@plans.factory
def euler(
    churn: float = 0.0,
    churn_min: float = 0.0,
    churn_max: float = math.inf,
    churn_noise: float = 1.0,
) -> Solver:
    """Euler's method (Karras et al. 2022, arXiv:2206.00364, Algorithm 2, lines 4-8).

    Formula: x_s / alpha_s = x_t / alpha_t + (r_s - r_t) eps, r = sigma / alpha.
    Cost: 1 evaluation a step.
    Neutral: without churn it is ddim.

    churn: S_churn; before a step, noise of standard deviation churn_noise raises r by
    min(churn / S, sqrt(2) - 1) of itself wherever churn_min <= r <= churn_max.
    """
    settings = _checked_churn(churn, churn_min, churn_max, churn_noise)

    def plan(levels: Levels) -> Plan:
        m = plans.matrices(levels, 0)
        m[:, 0, X0], m[:, 0, EPS] = levels.alpha[1:], levels.sigma[1:]
        return _churned(levels, plans.one_each(levels, m), *settings)

    return plan


STAGE_OMEGAS = ("stage", "step")


@plans.factory
def heun(
    churn: float = 0.0,
    churn_min: float = 0.0,
    churn_max: float = math.inf,
    churn_noise: float = 1.0,
    stage_omega: str = "stage",
) -> Solver:
    """Heun's method (Karras et al. 2022, arXiv:2206.00364, Algorithms 1 and 2).

    Formula: x_s / alpha_s = x_t / alpha_t + (r_s - r_t)(eps_t + eps_s) / 2, eps_s that
        of Euler's step; the step to data is Euler's.
    Cost: 2 S - 1 evaluations for S steps.

    churn as in `euler`. stage_omega: the second stage takes the omega of its own level
    ("stage", which keeps the order), or that of the step ("step", as published code for
    intervals does).
    """
    settings = _checked_churn(churn, churn_min, churn_max, churn_noise)
    registry.check("stage_omega", stage_omega, STAGE_OMEGAS)

    def plan(levels: Levels) -> Plan:
        if levels.alpha[0] == 0:
            raise ValueError(
                "heun cannot start from pure noise (alpha = 0): use another solver"
            )
        m = plans.matrices(levels, 1)
        m[:, 0, X0], m[:, 0, EPS], m[:, 1, EPS] = levels.alpha[1:], levels.sigma[1:], 1
        plan = _churned(levels, plans.one_each(levels, m), *settings)
        # the second stage: x_s = Euler's + alpha_s (r_s - r_t) (eps_s - eps_t) / 2
        half = plan.alpha_next * (levels.r[1:] - plan.sigma / plan.alpha) / 2
        m = np.zeros_like(m)
        m[:, 0, X], m[:, 0, EPS], m[:, 0, H] = 1, half, -half
        second = plan._replace(
            matrix=m,
            t=levels.t[1:],
            alpha=plan.alpha_next,
            sigma=plan.sigma_next,
            omega=np.minimum(plan.omega + (stage_omega == "stage"), len(half) - 1),
            gain=np.ones_like(half),
            kick=np.zeros_like(half),
        )
        first = plan._replace(on_grid=plan.sigma_next == 0)
        rows = zip(first[:-1], second[:-1], strict=True)
        both = [np.stack(pair, 1).reshape(-1, *pair[0].shape[1:]) for pair in rows]
        # no second stage at data, where there is nothing to evaluate
        kept = np.stack([np.ones(len(m), bool), levels.sigma[1:] > 0], 1).ravel()
        return Plan(*(column[kept] for column in both), levels)

    return plan


def _checked_churn(churn, churn_min, churn_max, churn_noise):
    if not 0 <= churn < math.inf:
        raise ValueError(f"churn must be finite and at least 0, got {churn}")
    if not 0 <= churn_min <= churn_max:
        raise ValueError(
            f"churn_min {churn_min} and churn_max {churn_max}: they must satisfy "
            "0 <= churn_min <= churn_max"
        )
    if not 0 < churn_noise < math.inf:
        raise ValueError(f"churn_noise must be finite and above 0, got {churn_noise}")
    return churn, churn_min, churn_max, churn_noise


def _churned(levels: Levels, plan: Plan, churn, low, high, noise) -> Plan:
    """The plan with its evaluations at noisier levels, and the kicks onto them."""
    r = plan.sigma / np.where(plan.alpha > 0, plan.alpha, np.nan)  # nan: pure noise
    inside = (r >= low) & (r <= high)
    more = np.where(inside, min(churn / len(r), math.sqrt(2) - 1), 0.0)
    if not more.any():
        return plan
    here = more > 0
    raised = r[here] * (1 + more[here])
    t, alpha, sigma, gain, kick = (
        np.array(a) for a in (plan.t, plan.alpha, plan.sigma, plan.gain, plan.kick)
    )
    try:
        t[here], alpha[here], sigma[here] = levels.at(np.log(raised))
    except ValueError as error:
        raise ValueError(f"churn: {error}, or a lower churn_max") from error
    # x / alpha moves by noise of variance raised^2 - r^2
    gain[here] = alpha[here] / plan.alpha[here]
    kick[here] = alpha[here] * noise * np.sqrt(raised**2 - r[here] ** 2)
    return plan._replace(t=t, alpha=alpha, sigma=sigma, gain=gain, kick=kick)
