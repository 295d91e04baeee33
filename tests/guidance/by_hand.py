"""DDIM in float64 NumPy with a rule written out, and the same by the toolkit."""

import jax
import jax.numpy as jnp
import numpy as np

from progguide_jax.diffusion import levels, prediction, process, samplers, solvers

NS = process.ddpm_linear()
GRID = levels.from_timesteps(NS, levels.timesteps(1000, 8))
LABEL = np.array([0.0, 1.0, 2.0])


def network(xp, x, alpha, sigma, label):
    """eps of something like data near a curved function of x; label -1: none."""
    label = xp.reshape(xp.asarray(label, x.dtype), (-1, 1, 1, 1))
    near = xp.sin(x * (1 + 0.1 * label)) + 0.4 * label
    near = near + 0.1 * x.mean((1, 2, 3), keepdims=True)  # pixels know each other
    return sigma / (0.2 * alpha**2 + sigma**2) * (x - alpha * near)


def velocity(z, time, conditioned):
    """eps - x0 of flow matching at z = (1 - time) x0 + time eps; the network is one of
    alpha x0 + sigma eps with the same ratio and alpha^2 + sigma^2 = 1."""
    alpha, sigma = 1 - time, time
    size = np.hypot(alpha, sigma)
    label = LABEL if conditioned else 0 * LABEL - 1
    eps = network(np, z / size, alpha / size, sigma / size, label)
    return eps - (z - sigma * eps) / alpha


def branches(fn=network, label=LABEL):
    def eps(x, level, label):
        alpha, sigma = (prediction.per_image(a, x) for a in level[1:])
        return fn(jnp, x, alpha, sigma, label)

    eps = jax.tree_util.Partial(eps)
    return {
        "cond": prediction.Branch(eps, jnp.asarray(label)),
        "null": prediction.Branch(eps, jnp.full(len(label), -1.0)),
    }


def from_pure_noise():
    """(levels that begin at alpha = 0, branches of a v-network of N(label, 0.5^2))."""
    ns = process.zero_terminal_snr(NS)
    grid = levels.from_timesteps(ns, levels.timesteps(1000, 6, "trailing"))
    assert grid.alpha[0] == 0

    def v(x, level, label):
        alpha, sigma = (prediction.per_image(a, x) for a in level[1:])
        m = prediction.per_image(label, x)
        x0 = m + 0.25 * alpha / (0.25 * alpha**2 + sigma**2) * (x - alpha * m)
        return (alpha * x - x0) / sigma

    fn = jax.tree_util.Partial(v)
    cond, null = (prediction.Branch(fn, jnp.full(3, m), "v") for m in (1.0, 0.0))
    return grid, {"cond": cond, "null": null}


def start():
    return np.random.default_rng(0).normal(size=(len(LABEL), 4, 6, 2))


def ours(rule, omega, x_T=None, given=None, grid=GRID, **kwargs):
    x_T = start() if x_T is None else x_T
    given = branches() if given is None else given
    plan = solvers.ddim()(grid)
    return samplers.solve(
        given, jnp.asarray(x_T), plan, omega=jnp.asarray(omega), rule=rule, **kwargs
    )


def ddim(guided, x=None, fn=network, label=LABEL, grid=GRID):
    """x_0 by eps = guided(k, x, alpha, sigma, ask), ask(x, conditioned) -> eps."""
    x = start() if x is None else x
    for k in range(len(grid.t) - 1):
        alpha, sigma = grid.alpha[k], grid.sigma[k]

        def ask(x, conditioned, alpha=alpha, sigma=sigma):
            return fn(np, x, alpha, sigma, label if conditioned else 0 * label - 1)

        eps = guided(k, x, alpha, sigma, ask)
        x0 = (x - sigma * eps) / alpha
        x = grid.alpha[k + 1] * x0 + grid.sigma[k + 1] * eps
    return x


def sums(a):
    """Over each image, [B,1,1,1]."""
    return a.sum((1, 2, 3), keepdims=True)
