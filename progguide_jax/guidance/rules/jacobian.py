"""Rules that ask the network elsewhere than at x_t, or for its derivative."""

import math

import jax
import jax.numpy as jnp

from progguide_jax import registry
from progguide_jax.diffusion import prediction
from progguide_jax.guidance.rules import shape


@registry.numeric
def characteristic(
    iterations: int = 10, tolerance: float = 1e-3, rate: float = 1.0
) -> shape.Rule:
    """Characteristic guidance (Zheng and Lan 2023, arXiv:2312.07586).

    Formula: (1 + omega) eps_c(x + omega d) - omega eps_u(x + (1 + omega) d), where d =
        sigma (eps_u(x + (1 + omega) d) - eps_c(x + omega d)), found by
        d <- d - rate (d - the right side) from d = 0.
    Convention: theirs is w = 1 + omega.
    Space: eps.
    Cost: 2 evaluations, and 2 for each iteration; it ends when the root mean square of
        d - the right side is below tolerance for every image.
    Neutral: iterations 0 is CFG.
    Deviation: theirs accelerates the iteration (Anderson), projects the right side of
        each channel on what it was at d = 0, and leaves an image that does not converge
        at CFG. Here it keeps the d that came nearest.
    """
    if iterations < 0:
        raise ValueError(
            f"characteristic: iterations must not be negative, got {iterations}"
        )
    if not (tolerance >= 0 and 0 < rate <= 1):
        raise ValueError(
            "characteristic: tolerance must not be negative and rate lie in (0, 1], "
            f"got {tolerance} and {rate}"
        )
    settings = dict(iterations=iterations, tolerance=tolerance, rate=rate)
    return shape.Rule(settings, _characteristic)


def _characteristic(evaluate, step, carry, *, iterations, tolerance, rate):
    omega, name = step.omega, step.reference

    def off(d, c, u):
        """d - the right side, and its root mean square [B,1,...]."""
        rest = d - step.sigma * (u.eps - c.eps)
        return rest, prediction.norm(rest) / math.sqrt(rest[0].size)

    def unfinished(size):
        return (size > tolerance) & (omega != 0)

    def go(state):
        done, _, _, size, _ = state
        return (done < iterations) & jnp.any(unfinished(size))

    def iterate(state):
        done, d, rest, size, best = state
        d = (d - rate * rest).astype(d.dtype)
        asked = evaluate.branch()
        (c,) = asked("cond", x=step.x + omega * d)
        (u,) = asked(name, x=step.x + (1 + omega) * d)
        rest, found = off(d, c, u)
        better = unfinished(size) & (found < size)
        best = jax.tree.map(lambda a, b: jnp.where(better, a, b), (c, u), best)
        return done + 1, d, rest, jnp.where(better, found, size), best

    c, u = evaluate("cond", name)
    d = jnp.zeros_like(c.eps)
    start = (jnp.int32(0), d, *off(d, c, u), (c, u))
    done, _, _, _, (c, u) = jax.lax.while_loop(go, iterate, start)
    evaluate.record((1 + len(step.weights)) * done)
    # x0 mixes as eps does: (1 + omega) (x + omega d) - omega (x + (1 + omega) d) = x
    return step.mix(lambda c, u: c + omega * (c - u), c, u), carry


@registry.numeric
def reg(strength: float = 1.0) -> shape.Rule:
    """Rectified gradient guidance, REG (Gao et al. 2025, arXiv:2501.18865).

    Formula: eps_c + omega (eps_c - eps_u) (1 - strength sigma g), pixel by pixel, with
        g = d(sum of eps_c) / dx. At strength 1 the factor is alpha times the column
        sums of the Jacobian of x0_c.
    Convention: omega.
    Space: eps.
    Cost: 3 evaluations and a gradient of one, about 5 in all.
    Neutral: strength 0 is CFG; theirs is 1.
    Deviation: strength is ours. Their code for DiT differentiates the sum over all
        channels of a latent, and guides the first three as DiT does; here all of them.
    Source: the authors' code (zhengqigao/REG): this formula for DiT and Stable
        Diffusion; for EDM2 the factor is d(sum of x0_c) / dx at alpha 1, the same.
    """
    if not math.isfinite(strength):
        raise ValueError(f"reg: strength must be finite, got {strength}")
    return shape.Rule(dict(strength=strength), _reg)


def _reg(evaluate, step, carry, *, strength):
    c, u = evaluate("cond", step.reference)
    eps, back = jax.vjp(lambda x: evaluate("cond", x=x)[0].eps, step.x)
    (gradient,) = back(jnp.ones_like(eps))
    weight = step.omega * (1 - strength * step.sigma * gradient).astype(eps.dtype)
    return step.mix(lambda c, u: c + weight * (c - u), c, u), carry


@registry.numeric
def tsr(k: float = 1.1, std: float = 1.0) -> shape.Rule:
    """Temporal score rescaling, TSR (Xu et al. 2025, arXiv:2510.01184).

    Formula: eps times (n std^2 + 1) / (n std^2 / k + 1), n = (alpha / sigma)^2, of eps
        = eps_c + omega (eps_c - eps_u).
    Convention: omega is that of CFG; k is one over a temperature.
    Space: eps.
    Cost: 2 evaluations.
    Neutral: k 1 is CFG.

    Exact for Gaussian data of that std: it samples the variance std^2 / k. For data of
    several modes std is that of one of them, so that their weights stay what they are.
    """
    if not (0 < k < math.inf and 0 < std < math.inf):
        raise ValueError(
            f"tsr: k and std must be positive and finite, got {k} and {std}"
        )
    return shape.Rule(dict(k=k, std=std), _tsr)


def _tsr(evaluate, step, carry, *, k, std):
    c, u = evaluate("cond", step.reference)
    found = step.mix(lambda c, u: c + step.omega * (c - u), c, u)
    # ratio - 1, divided by alpha so that x0 is right where alpha is 0
    extra = step.alpha * std**2 * (1 - 1 / k)
    extra = extra / (step.alpha**2 * std**2 / k + step.sigma**2)
    x0 = found.x0 - step.sigma * extra * found.eps
    eps = found.eps + step.alpha * extra * found.eps
    return prediction.Prediction(x0, eps), carry
