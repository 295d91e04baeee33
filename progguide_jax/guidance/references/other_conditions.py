"""Guided against another condition, and with a condition that is noised."""

import dataclasses
import math
from typing import Any

import jax
import jax.numpy as jnp

from progguide_jax.diffusion import noise, prediction, system


def icg(model: system.System, cond: Any) -> prediction.Branch:
    """Independent condition guidance (Sadat et al. 2024, arXiv:2407.02687).

    Formula: p_ref = p(x_t, t, y'), y' a random other condition, of labels each with the
        same probability, drawn anew for each image and evaluation.
    Convention: their w_ICG is 1 + omega.
    Space: any.
    Cost: 2 evaluations.
    Neutral: a model that ignores its condition.
    Deviation: theirs is any label, also y itself; another form of theirs takes Gaussian
        noise for the embedding, of its standard deviation. With few labels that
        matters: of two, ours is the other one always, and guidance is away from it
        rather than from the mixture.

    It needs no training without labels. Their w_ICG are 1.4 for DiT-XL/2, 1.25 for EDM2
    and 1.05 for EDM on CIFAR-10 (Table 10). Its text has pseudocode (Figure 11); no
    code is public.
    """
    other = system.demand(model, "other", "icg")
    branch = model.branch(cond)
    fn = jax.tree_util.Partial(_icg, branch.fn, other)
    return dataclasses.replace(branch, fn=fn, random=True)


def _icg(fn, other, x, level, cond, keys):
    return fn(x, level, other(keys, cond))


def cads(
    model: system.System,
    cond: Any,
    *,
    tau1: float = 0.6,
    tau2: float = 0.9,
    noise_scale: float = 0.25,
    mix: float = 1.0,
) -> prediction.Branch:
    """Condition-annealed sampling, CADS (Sadat et al. 2023, arXiv:2310.17347).

    Formula: the conditional prediction is that of y~ = mix rescaled(y^) + (1 - mix) y^,
        y^ = sqrt(gamma) y + noise_scale sqrt(1 - gamma) n, with y the embedding of the
        condition, n ~ N(0, I) anew for each image and evaluation, rescaled to the mean
        and the standard deviation of y; gamma(t) falls from 1 at t/T <= tau1 to 0 at
        t/T >= tau2.
    Convention: their psi is mix and their s noise_scale.
    Space: any.
    Cost: no evaluation of its own; it changes "cond", so another reference is needed.
    Neutral: tau1 = tau2 = 1, where no condition is noised.
    Deviation: mean and standard deviation are of each image's own y; reimplementations
        take them over the batch, noise the empty condition too, and count t/T in steps.
        An embedding of one number is not rescaled. Their dynamic CFG, omega times
        gamma, is a schedule and not part of this.
    Source: reimplementations (sd-webui-cads, ComfyUI-CADS), which agree on the formula
        and the defaults.

    The other references see the condition without noise. A lower tau1 and a larger
    noise_scale give more diversity.
    """
    embed = system.demand(model, "embed", "cads")
    make = system.demand(model, "branch_of_embedding", "cads")
    branch = make(_embedded(embed, cond))
    settings = (model.noise_schedule.num_timesteps, tau1, tau2, noise_scale, mix)
    fn = jax.tree_util.Partial(_cads, branch.fn, *settings)
    return dataclasses.replace(branch, fn=fn, random=True)


def check_cads(tau1: float, tau2: float, noise_scale: float, mix: float) -> None:
    if not 0 <= tau1 <= tau2 < math.inf:
        raise ValueError(f"tau1 is {tau1} and tau2 {tau2}: use 0 <= tau1 <= tau2")
    if not 0 <= noise_scale < math.inf:
        raise ValueError(
            f"noise_scale is {noise_scale}: it must be finite and at least 0"
        )
    if not 0 <= mix <= 1:
        raise ValueError(f"mix is {mix}: it must lie in [0, 1]")


_embedded = jax.jit(lambda embed, cond: embed(cond))


def _cads(fn, num_timesteps, tau1, tau2, noise_scale, mix, x, level, y, keys):
    tau = level.t.astype(level.alpha.dtype) / num_timesteps
    # where tau1 = tau2 it is a step
    gamma = jnp.clip((tau2 - tau) / jnp.maximum(tau2 - tau1, 1e-9), 0, 1)
    gamma = jnp.where(tau <= tau1, 1, gamma)
    kept, lost = (prediction.per_image(jnp.sqrt(a), y) for a in (gamma, 1 - gamma))
    n = noise.initial_noise(keys, y.shape[1:], y.dtype)
    noised = kept * y + noise_scale * lost * n
    found = mix * _rescaled(noised, y) + (1 - mix) * noised
    return fn(x, level, jnp.where(lost > 0, found, y).astype(y.dtype))


def _rescaled(noised, y):
    """noised with the mean and the standard deviation of y, image by image."""

    def moments(a):
        axes = tuple(range(1, a.ndim))
        return a.mean(axes, keepdims=True), a.std(axes, keepdims=True)

    (mean, std), (wanted_mean, wanted_std) = moments(noised), moments(y)
    flat = std == 0
    scaled = (noised - mean) / jnp.where(flat, 1, std) * wanted_std + wanted_mean
    return jnp.where(flat, noised, scaled)
