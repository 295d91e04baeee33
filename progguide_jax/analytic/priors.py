"""The prior probabilities of two classes, as the embedding of a label.

Bayes' rule adds the log of their ratio to the logit of x_t, so any pair of them is an
exact model, the label and no label among them.
"""

import jax
import jax.numpy as jnp


def of_label(label: jax.Array) -> jax.Array:
    """[B,2] of labels 0, 1 and 2, the null label: (1, 0), (0, 1) and (1/2, 1/2)."""
    table = jnp.array([[1, 0], [0, 1], [0.5, 0.5]], jnp.result_type(float))
    return table[jnp.asarray(label)]


def logit(priors: jax.Array, like: jax.Array) -> jax.Array:
    """log(second / first) [B], in the dtype of `like`. They need not add to 1; a
    negative one counts as 0, and two of them as no label."""
    first, second = jnp.moveaxis(jnp.maximum(priors, 0).astype(like.dtype), -1, 0)
    known = first + second > 0
    first, second = jnp.where(known, first, 1), jnp.where(known, second, 1)
    return jnp.log(second) - jnp.log(first)
