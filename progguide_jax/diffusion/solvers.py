"""Solvers by name: what a step makes of x_t and the predictions.

A solver is a function Levels -> Plan (`plans`), made by a factory.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from progguide_jax import registry
from progguide_jax.diffusion import edm, multistep, plans
from progguide_jax.diffusion.levels import Levels
from progguide_jax.diffusion.plans import EPS, X0, Plan, Solver, X, Z


@plans.factory
def ddim(eta: float = 0.0) -> Solver:
    """DDIM (Song et al. 2020, arXiv:2010.02502, eq. 12 and 16).

    Formula: x_s = alpha_s x0 + sqrt(sigma_s^2 - v) eps + sqrt(v) z with
        v = eta^2 (sigma_s / sigma_t)^2 (sigma_t^2 - sigma_s^2 alpha_t^2 / alpha_s^2).
    Cost: 1 evaluation a step.
    Neutral: eta 1 is the posterior of the grid, ddpm with the small variance.
    """
    if not 0.0 <= eta <= 1.0:
        raise ValueError(f"eta must lie in [0, 1], got {eta}")

    def plan(levels: Levels) -> Plan:
        _, alpha_s, sigma_t, sigma_s, var_step = plans.steps(levels)
        var_z = eta**2 * (sigma_s / sigma_t) ** 2 * var_step
        m = plans.matrices(levels, 0)
        m[:, 0, X0] = alpha_s
        m[:, 0, EPS] = np.sqrt(np.maximum(sigma_s**2 - var_z, 0))
        m[:, 0, Z] = np.sqrt(var_z)
        return plans.one_each(levels, m)

    return plan


VARIANCES = ("small", "large")


@plans.factory
def ddpm(variance: str = "small") -> Solver:
    """Ancestral sampling (Ho et al. 2020, arXiv:2006.11239, eq. 6-7), on any grid.

    Formula: x_s = (alpha_s b / sigma_t^2) x0 + (alpha_t / alpha_s)(sigma_s / sigma_t)^2
        x_t + sqrt(v) z with b = sigma_t^2 - sigma_s^2 alpha_t^2 / alpha_s^2; v is
        b (sigma_s / sigma_t)^2 ("small", beta_tilde) or b ("large", beta).
    Cost: 1 evaluation a step.
    Neutral: the small variance is ddim at eta 1. The step to data adds no noise.
    """
    registry.check("variance", variance, VARIANCES)

    def plan(levels: Levels) -> Plan:
        alpha_t, alpha_s, sigma_t, sigma_s, var_step = plans.steps(levels)
        ratio = (sigma_s / sigma_t) ** 2
        var_z = var_step * (ratio if variance == "small" else sigma_s > 0)
        m = plans.matrices(levels, 0)
        m[:, 0, X0] = alpha_s * var_step / sigma_t**2
        m[:, 0, X] = alpha_t / alpha_s * ratio
        m[:, 0, Z] = np.sqrt(var_z)
        return plans.one_each(levels, m)

    return plan


euler, heun = edm.euler, edm.heun
dpmpp_2m, unipc = multistep.dpmpp_2m, multistep.unipc


class SolverEntry(NamedTuple):
    """make: settings -> Solver; order: of its error in the step size, None where noise
    makes that a matter of distributions."""

    make: Callable[..., Solver]
    order: int | None


SOLVERS = {
    "ddim": SolverEntry(ddim, 1),
    "ddpm": SolverEntry(ddpm, None),
    "euler": SolverEntry(euler, 1),
    "heun": SolverEntry(heun, 2),
    "dpmpp_2m": SolverEntry(dpmpp_2m, 2),
    "unipc": SolverEntry(unipc, 3),
}


def names() -> list[str]:
    """The solvers that `make` knows."""
    return list(SOLVERS)


def make(name: str, **settings) -> Solver:
    """The solver `name`."""
    table = {k: entry.make for k, entry in SOLVERS.items()}
    return registry.make("solver", name, table, **settings)
