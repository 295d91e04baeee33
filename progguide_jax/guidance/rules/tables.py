"""Rules that take a table which was measured before."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from progguide_jax import registry
from progguide_jax.diffusion import noise, prediction, process, system
from progguide_jax.guidance.rules import shape, spaces


@registry.numeric
def recfg(ratio: float = 1.0) -> shape.Rule:
    """ReCFG (Xia et al. 2024, arXiv:2410.18737).

    Formula: eps_c + omega (eps_c - ratio eps_u), the ratio a function of t that is
        measured beforehand, a number or one for each pixel.
    Convention: theirs is gamma_1 = 1 + omega, and gamma_0 = -omega ratio.
    Space: eps.
    Cost: 2 evaluations; once beforehand 2 for each image and timestep of the table.
    Neutral: ratio 1 is CFG.
    Deviation: the paper has E[eps_c] / E[eps_u], where E[eps_c] is 0 for an exact
        model. As in its public code the ratio is E[eps_c eps_u] / E[eps_u^2]. There
        each class has a table of its own, here all have one.

    ratio: a number, or an array [T] or [T,...] over t as `recfg_ratio` measures it,
    linear between whole timesteps. One reference only, that of the table. At pure noise
    (alpha 0) it is CFG, since eps says nothing of x0 there.
    """
    table = np.asarray(ratio, np.float64)
    if not np.all(np.isfinite(table)):
        raise ValueError("recfg: ratio has entries that are not finite")
    settings = {"ratio": table if table.ndim else ratio}
    return shape.Rule(settings, _recfg, references="one")


def _recfg(evaluate, step, carry, *, ratio):
    asked = evaluate("cond", step.reference)
    c, u = (p.eps for p in asked)
    wide = jnp.promote_types(c.dtype, jnp.float32)
    now = _at(jnp.asarray(ratio, wide), jnp.asarray(step.t, wide))
    if now.ndim not in (0, c.ndim - 1):
        raise ValueError(
            f"recfg: ratio has the shape {np.shape(ratio)} and x {c.shape}: give a "
            f"number, [T] or {('T', *c.shape[1:])}"
        )
    now = now[None] if now.ndim else now
    found = step.from_eps(c + step.omega * (c - now * u))
    return spaces.or_cfg(step, found, *asked), carry


def _at(table: jax.Array, t: jax.Array) -> jax.Array:
    """A table [T,...] at a fractional t; a number as it is."""
    if not table.ndim:
        return table
    t = jnp.clip(t, 0, len(table) - 1)
    low = jnp.floor(t).astype(jnp.int32)
    high = jnp.minimum(low + 1, len(table) - 1)
    return table[low] + (t - low) * (table[high] - table[low])


def recfg_ratio(
    model: system.System,
    x0: jax.Array,
    cond: Any,
    *,
    timesteps: np.ndarray,
    key: jax.Array,
    per_pixel: bool = True,
    reference: prediction.Branch | None = None,
) -> np.ndarray:
    """The ratio that `recfg` takes, measured on clean images x0 [B,...] of the
    conditions: float64 [T], or [T,...] with one for each pixel.

    timesteps: where it is measured, on fresh noise; linear between them. reference:
    against what is guided, default the null branch.
    """
    timesteps = np.unique(np.asarray(timesteps))
    steps = model.noise_schedule.num_timesteps
    if not (len(timesteps) and 0 <= timesteps[0] and timesteps[-1] < steps):
        raise ValueError(f"timesteps must lie in 0 ... {steps - 1} and not be empty")
    branch = model.branch(cond)
    null = reference or model.branch(system.null_like(model.null, cond))
    measured = []
    for t in timesteps:
        keys = noise.image_keys(jax.random.fold_in(key, int(t)), jnp.arange(len(x0)))
        eps = noise.initial_noise(keys, x0.shape[1:], x0.dtype)
        level = model.noise_schedule.level(jnp.full(len(x0), t), x0.dtype)
        c, u = _eps_of(branch, null, x0, eps, level)
        axes = 0 if per_pixel else None
        size = np.mean(u * u, axis=axes)
        measured.append(np.mean(c * u, axis=axes) / np.where(size > 0, size, 1))
    rows = np.stack(measured).reshape(len(timesteps), -1)
    every = np.stack(
        [np.interp(np.arange(steps), timesteps, column) for column in rows.T], axis=1
    )
    return every.reshape(steps, *np.shape(measured[0]))


def _eps_of(branch, null, x0, eps, level) -> list[np.ndarray]:
    """eps of both branches at this level, on the host."""
    found = _both(branch, null, x0, eps, level)
    return [np.asarray(a, np.float64) for a in found]


@jax.jit
def _both(branch, null, x0, eps, level):
    alpha, sigma = (process.column(a, x0) for a in level[1:])
    x = alpha * x0 + sigma * eps
    return [
        prediction.of_raw(b.fn(x, level, b.cond), x, alpha, sigma, b.predicts).eps
        for b in (branch, null)
    ]
