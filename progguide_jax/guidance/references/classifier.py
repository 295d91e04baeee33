"""Guided by the gradient of a classifier."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from progguide_jax.diffusion import closures, prediction, system


def classifier(
    model: system.System, cond: Any, log_prob: Callable[..., jax.Array]
) -> prediction.Branch:
    """Classifier guidance (Dhariwal and Nichol 2021, arXiv:2105.05233).

    Formula: eps_ref = eps_c + sigma grad log p(c | x_t), so that
        eps_c + omega (eps_c - eps_ref) = eps_c - omega sigma grad log p(c | x_t).
    Convention: their scale s on a conditional model is omega; on an unconditional one
        it is 1 + omega.
    Space: eps.
    Cost: 1 evaluation and a gradient of the classifier.
    Neutral: a classifier that says the same of every x_t; an exact one is null.
    Deviation: theirs shifts the mean of a DDPM step, which is the same for small steps;
        ours changes eps, as their Algorithm 2 does for DDIM.

    log_prob(x_t [B,...], level, condition) -> log p(condition | x_t) [B], in natural
    logarithms and trained on noisy images, as configs/classifier.py trains one for
    guidance.classifier.workdir; x0 classifiers mislead. Image i may enter
    the i-th number only, so a BatchNorm must be frozen. Parameters belong into a
    `jax.tree_util.Partial`. At pure noise it does nothing to an x0- or v-network.
    """
    if not callable(log_prob):
        raise ValueError(
            "classifier: log_prob must be a function (x, level, condition) -> [B], got "
            f"{type(log_prob).__name__}"
        )
    if not isinstance(log_prob, jax.tree_util.Partial):
        log_prob = jax.tree_util.Partial(closures.by_variables(log_prob))
    eps = model.branch(cond).predicts == "eps"
    fn = jax.tree_util.Partial(_eps if eps else _x0, log_prob)
    return prediction.Branch(fn, cond, "eps" if eps else "x0", uses=("cond",))


def _gradient(log_prob, x, level, cond):
    """Of the sum over the batch: that of each image by its own pixels."""

    def total(x):
        found = log_prob(x, level, cond)
        if jnp.shape(found) != (len(x),):
            raise ValueError(
                f"classifier: log_prob returned shape {jnp.shape(found)} for {len(x)} "
                "images: return one number an image"
            )
        return jnp.sum(found)

    return jax.grad(total)(x)


def _eps(log_prob, x, level, cond, given):
    sigma = prediction.per_image(level.sigma, x)
    return given["cond"].eps + sigma * _gradient(log_prob, x, level, cond)


def _x0(log_prob, x, level, cond, given):
    alpha, sigma = (prediction.per_image(a, x) for a in level[1:])
    slope = sigma**2 / jnp.where(alpha > 0, alpha, jnp.inf)
    return given["cond"].x0 - slope * _gradient(log_prob, x, level, cond)
