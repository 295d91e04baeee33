"""In which form of the predictions a rule does its arithmetic.

The result of a rule that measures lengths or angles depends on it: eps, x0, v, or flow,
which is eps - x0, what a flow-matching network predicts. DDIM's step from t to s is
Euler's step of x / (alpha + sigma) along flow, in sigma / (alpha + sigma) as the time:
so a rule stated for flow matching takes here the very steps that it takes there.
"""

import jax
import jax.numpy as jnp

from progguide_jax import registry
from progguide_jax.diffusion import prediction, process

SPACES = (*process.PREDICTIONS, "flow")
_SMALL = 1e-30


def check(rule: str, space: str) -> str:
    """`space` itself; ValueError if there is no such one."""
    return registry.check(f"space of {rule}", space, SPACES)


def of(step: prediction.Step, found: prediction.Prediction, space: str) -> jax.Array:
    """The prediction in this space."""
    if space == "flow":
        return found.eps - found.x0
    level = process.Level(None, step.alpha, step.sigma)
    return process.target(level, *found, space)


def back(step: prediction.Step, array: jax.Array, space: str) -> prediction.Prediction:
    """The prediction that is `array` in this space; in eps alpha must not be 0."""
    if space == "flow":
        whole = step.alpha + step.sigma
        return prediction.Prediction(
            (step.x - step.sigma * array) / whole, (step.x + step.alpha * array) / whole
        )
    return prediction.of_raw(array, step.x, step.alpha, step.sigma, space)


def or_cfg(
    step: prediction.Step,
    found: prediction.Prediction,
    c: prediction.Prediction,
    u: prediction.Prediction,
) -> prediction.Prediction:
    """`found`, or CFG's prediction at pure noise (alpha 0), where eps says nothing of
    x0."""
    cfg = step.mix(lambda c, u: c + step.omega * (c - u), c, u)
    return jax.tree.map(lambda a, b: jnp.where(step.alpha > 0, a, b), found, cfg)


def ratio(a: jax.Array, b: jax.Array) -> jax.Array:
    """a / b for b >= 0, and finite where b is 0."""
    return a / jnp.maximum(b, _SMALL)


def cosine(a: jax.Array, b: jax.Array) -> jax.Array:
    """Of the angle between two arrays, of each image: [B,1,...]."""
    return ratio(prediction.dot(a, b), prediction.norm(a) * prediction.norm(b))
