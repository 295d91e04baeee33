"""Timestep grids, solvers and the one sampling loop.

A solver of this family is linear in what a step knows, so it is four numbers a step:

    x_s = a x0_hat + b eps_hat + c x_t + d z,      z ~ N(0, I)

computed on the host in float64 from alpha_bar_t and alpha_bar_s of the step t -> s
(alpha_bar_s = 1 on the last one). The loop scans over those numbers, t and omega: it
never learns the name of a schedule, so one compilation serves every curve of a length.
"""

import functools
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from progguide_jax.diffusion import process
from progguide_jax.guidance import rules

SPACINGS = ("leading", "trailing", "linspace")
VARIANCES = ("small", "large")

EpsFn = Callable[[jax.Array, jax.Array, object], jax.Array]


def timesteps(
    num_timesteps: int, num_steps: int, spacing: str = "leading", offset: int = 0
) -> np.ndarray:
    """The sampling grid: int32 [S], noisiest first, strictly falling.

    leading   k (T // S) for k = S-1 ... 0        (DDIM; the paper's 200 steps); an S
              that does not divide T leaves out the noisiest timesteps
    trailing  round(T - k T / S) - 1              (reaches T-1)
    linspace  round(linspace(T-1, 0, S))
    `offset` is added to every t (latent diffusion uses leading with 1).
    """
    if not 1 <= num_steps <= num_timesteps:
        raise ValueError(
            f"num_steps must lie in 1 ... {num_timesteps} (the training timesteps), "
            f"got {num_steps}"
        )
    k = np.arange(num_steps)
    match spacing:
        case "leading":
            t = k[::-1] * (num_timesteps // num_steps)
        case "trailing":
            t = np.round(num_timesteps - k * num_timesteps / num_steps) - 1
        case "linspace":
            t = np.round(np.linspace(num_timesteps - 1, 0, num_steps))
        case _:
            raise ValueError(
                f"unknown spacing {spacing!r}: use one of {', '.join(SPACINGS)}"
            )
    t = t.astype(np.int32) + offset
    if t[0] >= num_timesteps or t[-1] < 0:
        raise ValueError(
            f"offset {offset} moves the grid to {t[-1]} ... {t[0]}, outside "
            f"0 ... {num_timesteps - 1}: use one in "
            f"{offset - t[-1]} ... {offset + num_timesteps - 1 - t[0]}"
        )
    return t


class Solver(NamedTuple):
    """(alpha_bar_t, alpha_bar_s) float64 [S] -> coefficients (a, b, c, d), each [S]."""

    coefficients: Callable[[np.ndarray, np.ndarray], tuple[np.ndarray, ...]]
    stochastic: bool


@functools.cache
def ddim(eta: float = 0.0) -> Solver:
    """DDIM (Song et al. 2020, eq. 12 and 16); eta = 1 is the posterior of the grid."""
    if not 0.0 <= eta <= 1.0:
        raise ValueError(f"eta must lie in [0, 1], got {eta}")

    def coefficients(alpha_bar_t, alpha_bar_s):
        var_t, var_s = 1 - alpha_bar_t, 1 - alpha_bar_s
        var_z = eta**2 * var_s / var_t * (1 - alpha_bar_t / alpha_bar_s)
        zero = np.zeros_like(var_t)
        return np.sqrt(alpha_bar_s), np.sqrt(var_s - var_z), zero, np.sqrt(var_z)

    return Solver(coefficients, eta > 0)


@functools.cache
def ddpm(variance: str = "small") -> Solver:
    """Ancestral sampling in the x0-posterior-mean form (DDPM eq. 6-7), on any grid.

    variance "small" is beta_tilde, "large" beta; the last step adds no noise.
    """
    if variance not in VARIANCES:
        raise ValueError(
            f"unknown variance {variance!r}: use one of {', '.join(VARIANCES)}"
        )

    def coefficients(alpha_bar_t, alpha_bar_s):
        alpha_step = alpha_bar_t / alpha_bar_s
        beta, var_t, var_s = 1 - alpha_step, 1 - alpha_bar_t, 1 - alpha_bar_s
        a = np.sqrt(alpha_bar_s) * beta / var_t
        c = np.sqrt(alpha_step) * var_s / var_t
        var_z = beta * var_s / var_t if variance == "small" else beta * (var_s > 0)
        return a, np.zeros_like(a), c, np.sqrt(var_z)

    return Solver(coefficients, True)


def image_keys(key: jax.Array, index: jax.Array) -> jax.Array:
    """One key per image [B] from its index [B]: image i depends on (key, i) alone."""
    return jax.vmap(lambda i: jax.random.fold_in(key, i))(jnp.asarray(index))


def fold_in(keys: jax.Array, data: jax.Array) -> jax.Array:
    """The same number folded into each of the keys [B]."""
    return jax.vmap(lambda k: jax.random.fold_in(k, data))(keys)


def initial_noise(
    keys: jax.Array, shape: tuple[int, ...], dtype=jnp.float32
) -> jax.Array:
    """x_T ~ N(0, I) of `shape` for each of the keys [B]: [B, *shape]."""
    wide = jnp.promote_types(dtype, jnp.float32)  # 8-bit uniforms have no tails
    draw = jax.vmap(lambda k: jax.random.normal(k, shape, wide))
    return draw(keys).astype(dtype)


class _Steps(NamedTuple):
    """What the loop scans over; each [S] (omega [S] or [S,B])."""

    step: np.ndarray
    t: np.ndarray
    alpha: np.ndarray
    sigma: np.ndarray
    a: np.ndarray
    b: np.ndarray
    c: np.ndarray
    d: np.ndarray
    omega: jax.Array


def sample(
    eps_fn: EpsFn,
    x_T: jax.Array,
    *,
    cond,
    null_cond,
    noise_schedule: process.NoiseSchedule,
    timesteps: np.ndarray,
    omega: jax.Array,
    solver: Solver | None = None,
    rule: rules.Rule | None = None,
    key: jax.Array | None = None,
    clip_x0: float | None = None,
    trajectory: bool = False,
    double_batch: bool = False,
):
    """Sample from x_T [B,...] in one `lax.scan` over (t, t_next, omega).

    eps_fn(x_t [B,...], t int32 [B], cond) -> eps [B,...]. Pass a
    `jax.tree_util.Partial` to hand parameters over as arguments instead of constants.
    cond: any pytree with leading axis B; null_cond: the same tree for "no condition",
    each leaf with the axis B or without. timesteps: int [S], strictly falling, on the
    host. omega: [S] or [S,B]; a step whose omega is 0 for the whole batch evaluates
    the conditional network only. key: one key, or one per image [B]; solvers that add
    noise need it. clip_x0: bound on |x0_hat|, eps_hat is derived again from what was
    clipped. double_batch: one forward of 2B instead of two of B.

    Returns x_0 [B,...] in the dtype of x_T, or (x_0, x [S+1,B,...] from x_T to x_0).
    """
    solver = solver or ddim()
    x_T = jnp.asarray(x_T)
    if not jnp.issubdtype(x_T.dtype, jnp.floating):
        raise ValueError(f"x_T is {x_T.dtype}: pass floating-point noise")
    ts = _check_timesteps(timesteps, noise_schedule.num_timesteps)
    omega = jnp.asarray(omega, x_T.dtype)
    batch = x_T.shape[0]
    if omega.shape not in ((len(ts),), (len(ts), batch)):
        raise ValueError(
            f"omega has shape {omega.shape}: expected [S] = ({len(ts)},) or "
            f"[S,B] = ({len(ts)}, {batch})"
        )
    if solver.stochastic and key is None:
        raise ValueError("this solver adds noise: pass key=jax.random.key(seed)")
    if clip_x0 is not None and not clip_x0 > 0:
        raise ValueError(f"clip_x0 is a bound on |x0| and must be positive: {clip_x0}")
    keys = None
    if solver.stochastic:
        if not jnp.issubdtype(key.dtype, jax.dtypes.prng_key):
            key = jax.random.wrap_key_data(key)
        keys = key if key.ndim else image_keys(key, jnp.arange(batch))
        if keys.shape != (batch,):
            raise ValueError(f"key has shape {key.shape}: expected () or ({batch},)")
    alpha_bar_t = noise_schedule.alpha_bar[ts]
    alpha_bar_s = np.append(alpha_bar_t[1:], 1.0)
    coefficients = solver.coefficients(alpha_bar_t, alpha_bar_s)
    steps = (np.sqrt(alpha_bar_t), np.sqrt(1 - alpha_bar_t), *coefficients)
    cond = jax.tree.map(jnp.asarray, cond)
    null_cond = jax.tree.map(
        lambda n, c: jnp.broadcast_to(jnp.asarray(n, c.dtype), c.shape), null_cond, cond
    )
    if not isinstance(eps_fn, jax.tree_util.Partial):
        eps_fn = jax.tree_util.Partial(eps_fn)
    return _scan(
        eps_fn,
        x_T,
        cond,
        null_cond,
        _Steps(
            np.arange(len(ts), dtype=np.int32),
            ts,
            *(np.asarray(s, x_T.dtype) for s in steps),
            omega,
        ),
        keys,
        rule=rule or rules.cfg(),
        clip_x0=clip_x0,
        trajectory=trajectory,
        double_batch=double_batch,
    )


def _check_timesteps(timesteps, num_timesteps: int) -> np.ndarray:
    ts = np.asarray(timesteps)
    if ts.ndim != 1 or not np.issubdtype(ts.dtype, np.integer) or len(ts) == 0:
        raise ValueError("timesteps must be integers of shape [S], S >= 1")
    if len(ts) > num_timesteps:
        raise ValueError(
            f"{len(ts)} sampling steps on {num_timesteps} training timesteps: use at "
            f"most {num_timesteps}"
        )
    if np.any(np.diff(ts) >= 0) or ts[0] >= num_timesteps or ts[-1] < 0:
        raise ValueError(
            f"timesteps must fall strictly within {num_timesteps - 1} ... 0"
        )
    return ts.astype(np.int32)


@functools.partial(
    jax.jit, static_argnames=("rule", "clip_x0", "trajectory", "double_batch")
)
def _scan(
    eps_fn,
    x_T,
    cond,
    null_cond,
    steps: _Steps,
    keys,
    *,
    rule,
    clip_x0,
    trajectory,
    double_batch,
):
    batch = x_T.shape[0]

    def predict(x, t, cond):
        return eps_fn(x, t, cond).astype(x.dtype)

    def predict_both(x, t):
        if not double_batch:
            return predict(x, t, cond), predict(x, t, null_cond)
        # row by row c, u, c, u, ...: each device doubles the rows that it holds
        both = jax.tree.map(
            lambda c, n: jnp.stack([c, n], 1).reshape(2 * batch, *c.shape[1:]),
            cond,
            null_cond,
        )
        eps = predict(jnp.repeat(x, 2, axis=0), jnp.repeat(t, 2), both)
        eps = eps.reshape(batch, 2, *x.shape[1:])
        return eps[:, 0], eps[:, 1]

    def body(state, s: _Steps):
        x, carry = state
        t = jnp.full((batch,), s.t)
        omega = s.omega
        if omega.ndim:
            omega = jnp.reshape(omega, (batch,) + (1,) * (x.ndim - 1))

        def guided(carry):
            predictions = rules.Predictions(*predict_both(x, t))
            context = rules.Context(x, s.t, omega, s.step)
            eps, carry = rule(predictions, context, carry)
            return eps.astype(x.dtype), carry

        def conditional(carry):
            return predict(x, t, cond), carry

        eps, carry = jax.lax.cond(jnp.any(omega != 0), guided, conditional, carry)
        x0 = (x - s.sigma * eps) / s.alpha
        if clip_x0 is not None:
            x0 = jnp.clip(x0, -clip_x0, clip_x0)
            eps = (x - s.alpha * x0) / s.sigma
        x_next = s.a * x0 + s.b * eps + s.c * x
        if keys is not None:
            noise = initial_noise(fold_in(keys, s.step), x.shape[1:], x.dtype)
            x_next += s.d * noise
        x_next = x_next.astype(x.dtype)
        return (x_next, carry), (x_next if trajectory else None)

    carry = rule.init(x_T) if hasattr(rule, "init") else None
    (x_0, _), path = jax.lax.scan(body, (x_T, carry), steps)
    if trajectory:
        return x_0, jnp.concatenate([x_T[None], path])
    return x_0
