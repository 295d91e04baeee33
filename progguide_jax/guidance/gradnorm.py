"""Gradient-norm probing: g(t, c), its accumulator, G(t, c) and the gn curves.

    g(t, c) = E || d/dc || eps_theta(x_t, c) - eps ||_1 ||_2      (paper, Eq. 5, Alg. 1)
    G(t, c) = sum_{i >= t} g(i, c)                                 (paper, section 4.2)

What Algorithm 1 leaves open is read as: c is the raw label-embedding row; the L1 norm
sums over pixels; the L2 norm is taken per example and then averaged, since the norm of
an averaged gradient tends to 0 at an optimum; the expectation is over (x0, eps) at
fixed t; the null label is left out; what a network says as x0 or v is turned into eps
first, since an error of x0 is (sigma / alpha) and one of v 1 / alpha of that of eps.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from progguide_jax.diffusion import process
from progguide_jax.guidance import curves

EmbEpsFn = Callable[[jax.Array, jax.Array, jax.Array], jax.Array]


def per_example(
    eps_fn_emb: EmbEpsFn,
    x0: jax.Array,
    eps: jax.Array,
    t: jax.Array,
    emb: jax.Array,
    *,
    noise_schedule: process.NoiseSchedule,
) -> jax.Array:
    """float32 [B]: || d/d emb_i || eps_hat_i - eps_i ||_1 ||_2, one backward pass.

    eps_fn_emb(x_t [B,...], t int32 [B], emb [B,D]) -> eps_hat [B,...]. Row i of the
    gradient of the summed error is example i's own gradient because examples do not
    interact; `per_example_vmap` says the same without that assumption.
    """
    x_t = process.add_noise(noise_schedule, x0, t, eps)

    def total_error(emb):
        return jnp.sum(jnp.abs(eps_fn_emb(x_t, t, emb) - eps))

    return _norms(jax.grad(total_error)(emb))


def per_example_vmap(
    eps_fn_emb: EmbEpsFn,
    x0: jax.Array,
    eps: jax.Array,
    t: jax.Array,
    emb: jax.Array,
    *,
    noise_schedule: process.NoiseSchedule,
) -> jax.Array:
    """The same as `per_example` by vmap(grad), whatever the network does to a batch."""

    def error(emb, x0, eps, t):
        x_t = process.add_noise(noise_schedule, x0, t, eps)
        eps_hat = eps_fn_emb(x_t[None], t[None], emb[None])[0]
        return jnp.sum(jnp.abs(eps_hat - eps))

    return _norms(jax.vmap(jax.grad(error))(emb, x0, eps, t))


def _norms(gradient: jax.Array) -> jax.Array:
    return jnp.sqrt(jnp.sum(jnp.square(gradient.astype(jnp.float32)), axis=-1))


def visited(num_timesteps: int, stride: int = 1) -> np.ndarray:
    """The timesteps of a probe: every `stride`th, and both ends."""
    return np.unique([*range(0, num_timesteps, stride), num_timesteps - 1])


class Accumulator(NamedTuple):
    """Per (class, t): how many examples, the sum of g and of g^2; each [K,T]."""

    count: jax.Array
    total: jax.Array
    total_sq: jax.Array


def empty(num_classes: int, num_timesteps: int) -> Accumulator:
    """An accumulator of zeros, float32 [K,T]."""
    return Accumulator(*(jnp.zeros((num_classes, num_timesteps)) for _ in range(3)))


def accumulate(
    acc: Accumulator, g: jax.Array, t: jax.Array, label: jax.Array
) -> Accumulator:
    """Add g [B] at (label [B], t [B])."""
    return Accumulator(
        acc.count.at[label, t].add(1.0),
        acc.total.at[label, t].add(g),
        acc.total_sq.at[label, t].add(jnp.square(g)),
    )


class Curve(NamedTuple):
    """g [K,T] with the standard error of each mean, and the counts behind it."""

    g: np.ndarray
    standard_error: np.ndarray
    count: np.ndarray


def mean_curve(acc: Accumulator, max_empty: float = 0.05, stride: int = 1) -> Curve:
    """g(t, c) averaged over examples, float64 [K,T].

    Empty bins are filled by linear interpolation in t; more than `max_empty` of a
    class's bins empty, of those that a probe of this stride visits, raises ValueError.
    The standard error pools the coefficient of variation over a class's bins, since a
    bin may hold one example: at an optimum the residual's sign is noise and the CV is
    about 0.76 whatever t.
    """
    everywhere, at = np.arange(acc.count.shape[1]), visited(acc.count.shape[1], stride)
    count, total, total_sq = (np.asarray(a, np.float64)[:, at] for a in acc)
    share = np.mean(count == 0, axis=1)
    if np.any(share > max_empty):
        worst = int(np.argmax(share))
        raise ValueError(
            f"{share[worst]:.0%} of the timesteps of class {worst} were never probed: "
            "raise probe.num_examples"
        )
    n = np.maximum(count, 1)
    g = total / n
    # Both sums have the expectation of sum (n - 1) times variance, or times mean^2: g^2
    # itself would overstate mean^2 by variance / n.
    pairs = count > 1
    variance = np.where(pairs, np.maximum(total_sq - n * g**2, 0), 0).sum(1)
    mean_sq = np.where(pairs, (total**2 - total_sq) / n, 0).sum(1)
    with np.errstate(divide="ignore", invalid="ignore"):
        cv = np.sqrt(variance / mean_sq)  # nan where no bin holds two examples
    for c in np.flatnonzero(share):
        seen = count[c] > 0
        g[c] = np.interp(at, at[seen], g[c, seen])
    error = cv[:, None] * g / np.sqrt(n)
    g, error = ([np.interp(everywhere, at, row) for row in a] for a in (g, error))
    return Curve(np.array(g), np.array(error), np.asarray(acc.count, np.float64))


def cumulative(g: np.ndarray) -> np.ndarray:
    """G[..., t] = sum over i >= t of g[..., i]: inclusive suffix sum (Algorithm 1)."""
    return np.cumsum(np.asarray(g)[..., ::-1], axis=-1)[..., ::-1]


def cumulative_error(standard_error: np.ndarray, stride: int = 1) -> np.ndarray:
    """Standard error of `cumulative`, the bins that were visited being independent:
    each stands for `stride` of them."""
    return np.sqrt(stride * cumulative(np.square(standard_error)))


def omega(
    g: np.ndarray, scale: float, timesteps: np.ndarray, normalize: str = "sampling"
) -> np.ndarray:
    """float32 [S] from g [T]; [K,S] from g [K,T] (gn-all), each row of mean `scale`."""
    g = np.asarray(g, np.float64)
    curve = curves.table(cumulative(g), g.shape[-1])
    weights = curves.standardise(curve, timesteps, g.shape[-1], normalize)
    return (scale * weights).astype(np.float32)


def smoothed(g: np.ndarray, window: int = 25) -> np.ndarray:
    """Centred moving average over t, for display: edges average what they have."""
    g = np.atleast_1d(np.asarray(g, np.float64))
    kernel = np.ones(min(window, g.shape[-1]))
    weight = np.convolve(np.ones(g.shape[-1]), kernel, "same")
    rows = [
        np.convolve(row, kernel, "same") / weight for row in g.reshape(-1, g.shape[-1])
    ]
    return np.reshape(rows, g.shape)
