"""Feynman-Kac correctors: particles of CFG's SDE, weighted towards the tilt."""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from progguide_jax.diffusion import (
    arguments,
    asking,
    faults,
    loop,
    noise,
    plans,
    prediction,
    solvers,
)
from progguide_jax.diffusion.levels import Levels
from progguide_jax.guidance import rules


def fkc(
    branches: dict[str, prediction.Branch],
    x_T: jax.Array,
    levels: Levels,
    *,
    omega: float,
    key: jax.Array,
    particles: int = 16,
    threshold: float = 0.5,
) -> jax.Array:
    """Feynman-Kac corrected CFG (Skreta et al. 2025, arXiv:2503.02819).

    Formula: the SDE of CFG, for particles with weights W, d log W = omega (1 + omega) /
        2 |score_c - score_u|^2 d(sigma^2) at alpha = 1; they are drawn again in
        proportion to W (systematic) when their effective number is below threshold
        times `particles`, and at the end.
    Convention: theirs is beta = 1 + omega.
    Space: any.
    Cost: 2 evaluations.
    Neutral: omega 0 is the SDE of the conditional model, -1 of the unconditional one.
    Deviation: a step from noise r to s is DDPM's, with noise of variance s/r (r^2 -
        s^2) at alpha = 1: the geometric mean of Euler and Maruyama's r^2 - s^2 and
        DDPM's (s/r)^2 (r^2 - s^2), whose first errors have opposite signs.

    Every `particles` images in a row are one group, with one condition, and do not
    depend on other groups. omega is one number: where it varies with t the weights
    would need the densities themselves. Exact for many steps and many particles. Logs a
    warning where x_0 is not finite, as `samplers.solve` does.
    """
    x_T = arguments.start(x_T)
    arguments.check_branches(branches, x_T)
    if np.ndim(omega) or not np.isfinite(omega):
        raise ValueError(
            f"fkc: omega is {omega!r:.40}: the tilt is exact for one finite number"
        )
    plan = steps(levels, particles, threshold)
    if len(x_T) % particles:
        raise ValueError(
            f"fkc: {len(x_T)} images are no whole groups of {particles} particles: "
            "choose particles so that it divides the batch"
        )
    for name, branch in branches.items():
        _check_groups(name, branch.cond, particles)
    weights = np.full(len(plan.t), omega, np.float64)
    rows = loop.rows(plan, branches, weights, rules.cfg(), x_T)
    keys = arguments.keys(key, len(x_T))
    lost = jnp.asarray(noise_lost(levels), jnp.promote_types(x_T.dtype, jnp.float32))
    how = (lost, threshold, particles)
    x_0, finite = _fkc(asking.share(branches), x_T, rows, keys, *how)
    why = functools.partial(_of_particle, branches, x_T, rows, keys, *how)
    faults.warn(finite, why)
    return x_0


def steps(levels: Levels, particles: int, threshold: float) -> plans.Plan:
    """Its steps; ValueError at levels and settings that make no sense."""
    if np.any(levels.alpha == 0):
        raise ValueError(
            "fkc: the first level is pure noise (alpha = 0): use a grid that begins "
            "below it"
        )
    if not 0 <= threshold <= 1:
        raise ValueError(f"fkc: threshold must lie in [0, 1], got {threshold}")
    if particles < 1:
        raise ValueError(f"fkc: particles must be at least 1, got {particles}")
    plan, r = solvers.ddpm()(levels), levels.r
    variance = r[1:] * r[:-1] * (1 - (r[1:] / r[:-1]) ** 2)  # at alpha = 1
    plan.matrix[:, 0, plans.Z] = levels.alpha[1:] * np.sqrt(variance)
    return plan


def noise_lost(levels: Levels) -> np.ndarray:
    """d(r^2) / r^2 of each evaluation [S], r = sigma / alpha: the trapezoidal rule, and
    the last one has all that is left."""
    square = levels.r**2
    lost = -np.diff(square)
    around = np.append(lost[:-1], 2 * lost[-1]) + np.append(0, lost[:-1])
    return around / 2 / square[:-1]


def _check_groups(name: str, cond, particles: int) -> None:
    for leaf in jax.tree.leaves(cond):
        if isinstance(leaf, jax.core.Tracer):
            continue
        groups = np.asarray(leaf).reshape(-1, particles, *np.shape(leaf)[1:])
        if np.any(groups != groups[:, :1]):
            raise ValueError(
                f"fkc: the conditions of the branch {name!r} differ within a group of "
                f"{particles} images: repeat each one that often"
            )


def scan(
    branches, x_T, rows, keys, lost, threshold, particles: int, states: bool = False
):
    """x_0 [B,...] of `loop.rows`, to be called under jit; lost: `noise_lost`. states:
    x after each row instead, [N,B,...]."""
    batch = len(x_T)
    groups = keys.reshape(-1, particles)[:, 0]

    def body(state, scanned):
        x, log_weight = state
        row, part = scanned
        step, evaluate = loop.at_row(branches, x, row, keys)
        c, u = evaluate("cond", step.reference)
        found = step.mix(lambda c, u: c + step.omega * (c - u), c, u)
        omega = step.omega.astype(log_weight.dtype)
        apart = prediction.dot(c.eps - u.eps, c.eps - u.eps).reshape(batch)
        log_weight += omega * (1 + omega) / 2 * apart * part
        draws = noise.fold_in(keys, row.index)
        z = noise.initial_noise(draws, x.shape[1:], x.dtype)
        matrix = row.plan.matrix[0]
        x = sum(m * a for m, a in zip(matrix, (*found, x, z), strict=True))
        again = noise.fold_in(noise.fold_in(groups, row.index), 3)
        # at the end too, unless all weigh the same
        share = jnp.where(row.index == len(lost) - 1, 0.9999, threshold)
        drawn = _drawn_again(x, log_weight, again, share * particles, particles)
        return drawn, drawn[0] if states else None

    state = (x_T, jnp.zeros(batch, lost.dtype))
    (x_0, _), path = jax.lax.scan(body, state, (rows, lost))
    return path if states else x_0


@functools.partial(jax.jit, static_argnames="particles")
def _fkc(branches, x_T, rows, keys, lost, threshold, particles):
    """x_0, and which images of it are finite [B]."""
    x_0 = scan(branches, x_T, rows, keys, lost, threshold, particles)
    return x_0, faults.are_finite(x_0)


_states = jax.jit(
    functools.partial(scan, states=True), static_argnames=("particles", "states")
)


def fault(branches, x_T, rows, keys, lost, threshold, particles: int) -> str:
    """Where these groups went astray, which are drawn once more; "" if they did not."""
    shared = asking.share(branches)
    states = _states(shared, x_T, rows, keys, lost, threshold, particles)
    states = np.concatenate([np.asarray(x_T)[None], np.asarray(states)])
    return faults.first(shared, states, rows, keys)


def _of_particle(branches, x_T, rows, keys, lost, threshold, particles, index) -> str:
    """The same of the group of the particle `index` of a batch."""
    first = index // particles * particles
    group = slice(first, first + particles)
    return fault(
        faults.some(branches, group), x_T[group], rows, keys[group], lost, threshold,
        particles,
    )  # fmt: skip


def _drawn_again(x, log_weight, keys, least, particles: int):
    """(x, log-weights) with the groups of an effective number below `least` drawn anew,
    in proportion to their weights: systematically, one uniform number a group."""

    def group(log_weight, key):
        weight = jax.nn.softmax(log_weight)
        few = 1 / jnp.sum(weight**2) < least
        own = jnp.arange(particles)
        marks = (own + jax.random.uniform(key, dtype=weight.dtype)) / particles
        drawn = jnp.searchsorted(jnp.cumsum(weight), marks)
        drawn = jnp.where(few, jnp.minimum(drawn, particles - 1), own)
        return drawn, jnp.where(few, 0, log_weight)

    drawn, log_weight = jax.vmap(group)(log_weight.reshape(-1, particles), keys)
    first = jnp.arange(0, len(x), particles)
    return x[(drawn + first[:, None]).reshape(-1)], log_weight.reshape(-1)


def one_of(x: jax.Array, keys: jax.Array, particles: int) -> jax.Array:
    """One of each group [B/particles,...], all as likely: keys, one a group. Always the
    first would not do: drawing again puts copies of early particles first."""
    kept = jax.vmap(lambda key: jax.random.randint(key, (), 0, particles))(keys)
    return x[jnp.arange(0, len(x), particles) + kept]
