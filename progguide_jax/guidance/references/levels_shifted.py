"""Guided against the same network, told another noise level than the true one."""

import dataclasses
import math
from typing import Any

import jax
import jax.numpy as jnp

from progguide_jax.diffusion import noise, prediction, process, shifts, system

# the power of the factor by which eps of the guide is multiplied
_SPACES = {"score": -1.0, "x0": 1.0, "eps": 0.0}


def sigma_scale(
    model: system.System, cond: Any, *, factor: float = 1.2, space: str = "score"
) -> prediction.Branch:
    """Sigma scaling: the network told more noise than there is (talk, no paper).

    Formula: with y = x_t / alpha_t and r = sigma_t / alpha_t the network D is asked at
        (y, factor r), that is with alpha_t' y at the t' with r_t' = factor r_t. score:
        s_ref = (D(y, factor r) - y) / (factor r)^2; x0: x0_ref = D(y, factor r); eps:
        eps_ref = (y - D(y, factor r)) / (factor r).
    Convention: w = 1 + omega, as in the score's s_ref + w (s - s_ref).
    Space: score, x0 or eps, by the setting `space`.
    Cost: 2 evaluations.
    Neutral: factor = 1, where omega does nothing.

    Factors of 1.02 ... 1.2 were used on pixels and 1.2 ... 1.6 with Stable Diffusion.
    The three spaces are three methods: on one Gaussian of std 0.5 (factor 1.2,
    omega = 2, starting at sigma 5) score contracts it to 0.157 and x0 widens it to
    0.718. At the noisiest timesteps t' is at most T-1, so that the factor falls to 1.
    """
    arrays = (jnp.asarray(shifts.known(model.noise_schedule)), factor, _SPACES[space])
    return _told(model.branch(cond), _sigma_scale, *arrays)


def check_sigma_scale(factor: float, space: str) -> None:
    if not 1 <= factor < math.inf:
        raise ValueError(f"factor is {factor}: it must be finite and at least 1")
    if space not in _SPACES:
        raise ValueError(f"space is {space!r}: use one of {', '.join(_SPACES)}")


def _sigma_scale(branch, log_r, factor, power, x, level, cond):
    told = shifts.noisier(level, factor, log_r)
    pure = level.alpha <= 0

    def ratio(a, b):
        return jnp.where(pure, 1, a / jnp.where(pure, 1, b))

    gain = ratio(told.sigma * level.alpha, level.sigma * told.alpha) ** power
    there = prediction.per_image(ratio(told.alpha, level.alpha), x) * x
    return _answer(branch, x, level, cond, there.astype(x.dtype), told, gain)


def self_guidance(
    model: system.System, cond: Any, *, delta: float = 0.01
) -> prediction.Branch:
    """Self-Guidance (Li et al. 2024, arXiv:2412.05827).

    Formula: eps_ref = eps(x_t, t + delta T): the same x_t, told a later t, at most T-1.
    Convention: their scale is omega.
    Space: eps, as in the authors' code for Stable Diffusion.
    Cost: 2 evaluations.
    Neutral: delta = 0.
    Deviation: an x0- or v-network is asked at t + delta T too, and its eps there is
        taken, so that all networks of one model are guided alike; the authors subtract
        velocities where the network is a flow. Their SG-prev, which takes the
        prediction of the step before instead, is not here.

    The authors use omega = 3 and 10 of 1000 timesteps with Stable Diffusion 1.4. x_t is
    not rescaled: `sigma_scale` asks at the same point of the larger noise.
    """
    ns = model.noise_schedule
    arrays = (jnp.asarray(shifts.known(ns)), ns.num_timesteps - 1.0)
    return _told(model.branch(cond), _self_guidance, *arrays, delta * ns.num_timesteps)


def check_self_guidance(delta: float) -> None:
    if not 0 <= delta <= 1:
        raise ValueError(f"delta is {delta}, a part of T: it must lie in [0, 1]")


def _self_guidance(branch, log_r, last, shift, x, level, cond):
    t = jnp.minimum(level.t.astype(level.alpha.dtype) + shift, last)
    return _answer(branch, x, level, cond, x, shifts.at_time(t, log_r))


def tsg(
    model: system.System, cond: Any, *, noise_scale: float = 0.05, power: float = 1.0
) -> prediction.Branch:
    """Time-step guidance (Sadat et al. 2024, arXiv:2407.02687).

    Formula: eps_ref = eps(x_t, t~), t~ = t + noise_scale T (t/T)^power n within
        0 ... T-1, n ~ N(0, 1) drawn anew for each image and evaluation.
    Convention: their w_TSG is 1 + omega.
    Space: eps; the same for a network that predicts x0 or v, asked at t~.
    Cost: 2 evaluations.
    Neutral: noise_scale = 0.
    Deviation: theirs is t_emb + s t^alpha std(t_emb) n with n a vector beside the
        embedding of t, in all layers or in the first ones (of encoder and decoder in a
        U-Net). Ours moves t itself, which any model has; their derivation (section 5)
        is of that too. Their pseudocode (Figure 12) does not say whether t counts from
        0 to 1, as in their text, or to 1000, as the ends of their intervals do.

    Their s (1 to 3) and alpha (0 to 1) are tuned for each network, often within an
    interval of t only (schedule interval): what they are does not carry over, and the
    defaults here are a choice. Their w_TSG are 2.5 to 5 (Table 11). No code is public.
    """
    ns = model.noise_schedule
    arrays = (jnp.asarray(shifts.known(ns)), ns.num_timesteps, noise_scale, power)
    return _told(model.branch(cond), _tsg, *arrays, random=True)


def check_tsg(noise_scale: float, power: float) -> None:
    for key, value in (("noise_scale", noise_scale), ("power", power)):
        if not 0 <= value < math.inf:
            raise ValueError(f"{key} is {value}: it must be finite and at least 0")


def _tsg(branch, log_r, num_timesteps, size, power, x, level, cond, keys):
    t = level.t.astype(level.alpha.dtype)
    n = noise.initial_noise(keys, (), t.dtype)
    moved = t + size * num_timesteps * (t / num_timesteps) ** power * n
    moved = jnp.clip(moved, 0, num_timesteps - 1)
    return _answer(branch, x, level, cond, x, shifts.at_time(moved, log_r))


def _told(branch: prediction.Branch, fn, *arrays, random=False) -> prediction.Branch:
    """fn(branch, *arrays, x, level, cond) as a branch of the same condition."""
    kind = "eps" if branch.predicts == "eps" else "x0"
    inner = dataclasses.replace(branch, cond=None)
    whole = jax.tree_util.Partial(fn, inner, *arrays)
    return prediction.Branch(whole, branch.cond, kind, random=random)


def _answer(branch, x, level, cond, there, told: process.Level, gain=None):
    """What `branch` says at `there`, told the level `told`, taken as a prediction at
    (x, level): its eps, times gain [B], or the x0 that follows from it. At pure noise,
    from which x0 does not follow, its x0."""
    alpha, sigma = (prediction.per_image(a, x) for a in told[1:])
    raw = branch.fn(there, told, cond)
    found = prediction.of_raw(raw, there, alpha, sigma, branch.predicts)
    eps = found.eps if gain is None else prediction.per_image(gain, x) * found.eps
    if branch.predicts == "eps":
        return eps
    alpha, sigma = (prediction.per_image(a, x) for a in level[1:])
    pure = alpha <= 0
    return jnp.where(pure, found.x0, (x - sigma * eps) / jnp.where(pure, 1, alpha))
