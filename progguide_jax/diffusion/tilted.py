"""Samplers that aim at the tilted density p_c^(1 + omega) p_u^(-omega).

CFG moves along the score of that density at each noise level, and what it samples is
another one: between two Gaussians of variance 1 and 2 the tilt has 2 / (2 + omega), the
flow of CFG ends with 2^(-omega) and its SDE with (2 - 4^(-omega)) / (1 + 2 omega)
(Bradley and Nakkiran 2024, arXiv:2408.09000).

All take (branches, x_T [B,...], levels, *, omega, key, ...) and return x_0 [B,...]. The
branches are "cond" and one to guide against; key is one key, or one an image [B].
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import numpy as np

from progguide_jax import registry
from progguide_jax.diffusion import particles as particles_lib
from progguide_jax.diffusion import plans, prediction, samplers, solvers
from progguide_jax.diffusion.levels import Levels

fkc = particles_lib.fkc


def gibbs(
    branches: dict[str, prediction.Branch],
    x_T: jax.Array,
    levels: Levels,
    *,
    omega: float | np.ndarray,
    key: jax.Array,
    sigma: float = 1.0,
    repeats: int = 2,
    draft: float = 0.0,
    **how,
) -> jax.Array:
    """Gibbs-like guidance, CFGiG (Moufad et al. 2025, arXiv:2505.21101).

    Formula: a draft without guidance; then `repeats` times noise up to sigma / alpha =
        `sigma` and down again with CFG.
    Convention: theirs is w = 1 + omega.
    Space: any.
    Cost: 1 evaluation a step for the draft, 2 in each repeat.
    Neutral: repeats 0 is the conditional model.

    The score of CFG lacks the gradient of a Renyi divergence that the noised tilt has;
    it vanishes for small noise, so many repeats at a small sigma come near to the tilt.
    again=: the levels of a repeat, by default those of `levels` from the first one at
    most `sigma` noisy. omega: a number, or [S] for them. draft: omega of the draft.
    solver=: ddim by default. how: these two, and rule, projection, double_batch, trace
    of `samplers.solve`. sigma 1 and 2 repeats are what their code begins with.
    """
    solver, again = how.pop("solver", None) or solvers.ddim(), how.pop("again", None)
    again = _below(levels, sigma) if again is None else again
    plan = _gibbs(levels, solver, repeats, again)
    omega = _each("gibbs", omega, len(again.t) - 1)
    weights = _weights(plan, omega, draft)
    return samplers.solve(branches, x_T, plan, omega=weights, key=key, **how)


def _gibbs(levels, solver, repeats, again) -> plans.Plan:
    if levels.sigma[-1] != 0:
        raise ValueError("gibbs: the levels must end on data, sigma = 0")
    if repeats < 0:
        raise ValueError(f"gibbs: repeats must not be negative, got {repeats}")
    draft, repeat = solver(levels), solver(again)
    gain, kick = repeat.gain.copy(), repeat.kick.copy()
    kick[0] = np.hypot(gain[0] * again.sigma[0], kick[0])
    gain[0] *= again.alpha[0]
    repeat = repeat._replace(gain=gain, kick=kick, omega=repeat.omega + 1)
    draft = draft._replace(omega=np.zeros_like(draft.omega))
    return _joined([draft] + [repeat] * repeats)


def _below(levels: Levels, sigma: float) -> Levels:
    """The levels from the first one at most `sigma` noisy."""
    if not sigma <= levels.r[0]:
        raise ValueError(
            f"gibbs: sigma is {sigma}: use at most {levels.r[0]:.4g}, where the grid "
            "begins"
        )
    below = np.flatnonzero((levels.r <= sigma) & (levels.sigma > 0))
    if not len(below):
        raise ValueError(
            f"gibbs: no level is at most sigma = {sigma} noisy: the lowest is "
            f"{levels.r[-2]:.4g}"
        )
    return Levels(*(a[below[0] :] for a in levels[:3]), levels.at)


def pcg(
    branches: dict[str, prediction.Branch],
    x_T: jax.Array,
    levels: Levels,
    *,
    omega: float | np.ndarray,
    key: jax.Array,
    corrections: int = 1,
    size: float = 1.0,
    **how,
) -> jax.Array:
    """Predictor-corrector guidance (Bradley and Nakkiran 2024, arXiv:2408.09000).

    Formula: a DDIM step of the conditional model to the next level, then `corrections`
        steps of Langevin dynamics there, x + h / 2 score + sqrt(h) z, with the score of
        p_c^(1 + omega) p_u^(-omega). h = size sigma'^2 (1 - (r' / r)^2), r = sigma /
        alpha before the DDIM step and r' after it; on data there is none.
    Convention: theirs is gamma' = 1 + omega.
    Space: any.
    Cost: 1 evaluation, and 2 for each correction.
    Neutral: corrections 0 is DDIM of the conditional model.
    Deviation: the paper leaves h open. This one is d(sigma^2) for small steps, so that
        one correction at omega is CFG's SDE at omega / 2 (their theorem 3).

    omega: a number, or [S] at the levels. More corrections come nearer to the tilt at
    each level. how: rule, projection, double_batch, trace of `samplers.solve`.
    """
    plan = _pcg(levels, corrections, size)
    weights = _weights(plan, _each("pcg", omega, len(levels.t) - 1))
    return samplers.solve(branches, x_T, plan, omega=weights, key=key, **how)


def _pcg(levels, corrections, size) -> plans.Plan:
    if corrections < 0 or not 0 < size <= 4:
        raise ValueError(
            "pcg: corrections must not be negative and size lie in (0, 4], got "
            f"{corrections} and {size}"
        )
    predictor, parts = solvers.ddim()(levels), []
    steps = len(levels.t) - 1
    for k in range(steps):
        part = plans.Plan(*(a[k : k + 1] for a in predictor[:-1]), levels)
        parts.append(part._replace(omega=np.zeros(1, int)))
        if k + 1 < steps:
            langevin = _langevin(levels, k + 1, size)
            parts += [langevin._replace(omega=np.array([k + 1]))] * corrections
    return _joined(parts)


def _each(name: str, omega, steps: int) -> np.ndarray:
    """omega of each of the steps."""
    if np.shape(omega) not in ((), (steps,)):
        raise ValueError(
            f"{name}: omega has shape {np.shape(omega)}: pass a number, or one for "
            f"each of the {steps} levels"
        )
    return np.broadcast_to(np.asarray(omega, np.float64), steps)


def _langevin(levels: Levels, k: int, size: float) -> plans.Plan:
    """One step at level k, by the noise that the step to it has lost."""
    here = Levels(*(a[k : k + 1].repeat(2) for a in levels[:3]), levels.at)
    sigma = levels.sigma[k]
    h = size * sigma**2 * (1 - (levels.r[k] / levels.r[k - 1]) ** 2)
    matrix = plans.matrices(here, 0)
    matrix[:, 0, plans.X] = 1
    matrix[:, 0, plans.EPS] = -h / (2 * sigma)  # the score is -eps / sigma
    matrix[:, 0, plans.Z] = np.sqrt(h)
    return plans.one_each(here, matrix)


def _joined(parts: list[plans.Plan]) -> plans.Plan:
    """One plan after the other."""
    columns = zip(*(part[:-1] for part in parts), strict=True)
    return plans.Plan(*map(np.concatenate, columns), parts[0].levels)


def _weights(plan: plans.Plan, omega: np.ndarray, first: float = 0.0) -> np.ndarray:
    """What the plan's omega counts: `first`, where there is no tilt, then the last ones
    of omega [...,S]."""
    last = omega[..., omega.shape[-1] - plan.omega.max() :]
    return np.concatenate([np.full((*omega.shape[:-1], 1), first), last], -1)


def _fkc_steps(levels, omega, solver, particles, threshold):
    return particles_lib.steps(levels, particles, threshold), omega


def _gibbs_steps(levels, omega, solver, sigma, repeats, draft):
    plan = _gibbs(levels, solver, repeats, _below(levels, sigma))
    return plan, {k: _weights(plan, values, draft) for k, values in omega.items()}


def _pcg_steps(levels, omega, solver, corrections, size):
    plan = _pcg(levels, corrections, size)
    return plan, {k: _weights(plan, values) for k, values in omega.items()}


class TiltedEntry(NamedTuple):
    """make: the sampler. steps: (levels, {branch: omega [...,S]}, solver, **settings)
    -> its plan and the omega that this counts. groups: whether images of one group
    depend on each other. any_solver: whether it is made of steps of any solver."""

    make: Callable[..., jax.Array]
    steps: Callable[..., tuple[plans.Plan, dict[str, np.ndarray]]]
    groups: bool = False
    any_solver: bool = False


TILTED = {
    "fkc": TiltedEntry(fkc, _fkc_steps, groups=True),
    "gibbs": TiltedEntry(gibbs, _gibbs_steps, any_solver=True),
    "pcg": TiltedEntry(pcg, _pcg_steps),
}


def names() -> list[str]:
    """The samplers that `sample` knows."""
    return list(TILTED)


def sample(name: str, branches, x_T, levels, **settings) -> jax.Array:
    """x_0 [B,...] by the sampler `name`."""
    registry.check("tilted sampler", name, TILTED)
    return TILTED[name].make(branches, x_T, levels, **settings)
