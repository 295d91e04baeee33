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
from progguide_jax.diffusion import particles, plans, prediction, samplers, solvers
from progguide_jax.diffusion.levels import Levels

fkc = particles.fkc


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
    again: Levels | None = None,
    solver: plans.Solver | None = None,
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
    again: the levels of a repeat, by default those of `levels` from the first one at
    most `sigma` noisy. omega: a number, or [S] for them. draft: omega of the draft.
    solver: ddim by default. how: rule, projection, double_batch, trace of
    `samplers.solve`. sigma 1 and 2 repeats are what their code begins with.
    """
    solver = solver or solvers.ddim()
    if levels.sigma[-1] != 0:
        raise ValueError("gibbs: the levels must end on data, sigma = 0")
    if repeats < 0:
        raise ValueError(f"gibbs: repeats must not be negative, got {repeats}")
    if again is None:
        below = np.flatnonzero((levels.r <= sigma) & (levels.sigma > 0))
        if not len(below):
            raise ValueError(
                f"gibbs: no level is at most sigma = {sigma} noisy: the lowest is "
                f"{levels.r[-2]:.4g}"
            )
        again = Levels(*(a[below[0] :] for a in levels[:3]), levels.at)
    repeat = solver(again)
    gain, kick = repeat.gain.copy(), repeat.kick.copy()
    kick[0] = np.hypot(gain[0] * again.sigma[0], kick[0])
    gain[0] *= again.alpha[0]
    repeat = repeat._replace(gain=gain, kick=kick)
    plan = _joined([solver(levels)] + [repeat] * repeats)
    weights = [np.full(len(levels.t) - 1, draft)]
    weights += [_each("gibbs", omega, len(again.t) - 1)] * repeats
    weights = np.concatenate(weights)
    return samplers.solve(branches, x_T, plan, omega=weights, key=key, **how)


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
    if corrections < 0 or not 0 < size <= 4:
        raise ValueError(
            "pcg: corrections must not be negative and size lie in (0, 4], got "
            f"{corrections} and {size}"
        )
    predictor, steps = solvers.ddim()(levels), len(levels.t) - 1
    omega = _each("pcg", omega, steps)
    parts, weights = [], []
    for k in range(steps):
        parts.append(plans.Plan(*(a[k : k + 1] for a in predictor[:-1]), levels))
        weights.append(0.0)
        if k + 1 < steps:
            parts += [_langevin(levels, k + 1, size)] * corrections
            weights += [omega[k + 1]] * corrections
    plan = _joined([part._replace(omega=np.zeros(1, int)) for part in parts])
    weights = np.array(weights)
    return samplers.solve(branches, x_T, plan, omega=weights, key=key, **how)


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
    """One plan after the other; the omega of each begins where the one before ends."""
    ends = np.cumsum([part.omega.max() + 1 for part in parts])
    parts = [
        part._replace(omega=part.omega + end - part.omega.max() - 1)
        for part, end in zip(parts, ends, strict=True)
    ]
    columns = zip(*(part[:-1] for part in parts), strict=True)
    return plans.Plan(*map(np.concatenate, columns), parts[0].levels)


class TiltedEntry(NamedTuple):
    """make: the sampler. groups: whether images of one group depend on each other."""

    make: Callable[..., jax.Array]
    groups: bool = False


TILTED = {
    "fkc": TiltedEntry(fkc, groups=True),
    "gibbs": TiltedEntry(gibbs),
    "pcg": TiltedEntry(pcg),
}


def names() -> list[str]:
    """The samplers that `sample` knows."""
    return list(TILTED)


def sample(name: str, branches, x_T, levels, **settings) -> jax.Array:
    """x_0 [B,...] by the sampler `name`."""
    registry.check("tilted sampler", name, TILTED)
    return TILTED[name].make(branches, x_T, levels, **settings)
