"""How the conditional and the unconditional prediction combine.

A rule is a function (predictions, context, carry) -> (prediction, carry), pure and
per example. A rule with state also has an attribute `init`, x_T -> first carry; it is
not called on a step whose omega is 0 for the whole batch, so it must leave the carry
of an image with omega = 0 alone, or images would depend on each other.
omega is the weight of p_c + omega (p_c - p_u): 0 is the conditional model, -1 the
unconditional one. (Imagen, diffusers and others write w = 1 + omega.)
"""

import functools
from collections.abc import Callable
from typing import NamedTuple

import jax


class Predictions(NamedTuple):
    """eps predicted with the label and with the null label, each [B,...]."""

    cond: jax.Array
    uncond: jax.Array


class Context(NamedTuple):
    """What a rule may see: x_t [B,...]; t and omega, broadcastable to it; the step."""

    x_t: jax.Array
    t: jax.Array
    omega: jax.Array
    step: jax.Array


Rule = Callable[[Predictions, Context, object], tuple[jax.Array, object]]


@functools.cache
def cfg() -> Rule:
    """Classifier-free guidance p_c + omega (p_c - p_u): the paper's Eq. 3."""

    def rule(predictions: Predictions, context: Context, carry):
        p_c, p_u = predictions
        return p_c + context.omega * (p_c - p_u), carry

    return rule
