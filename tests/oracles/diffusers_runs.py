"""diffusers' schedulers (PyPI `diffusers`, extra `oracles`) as solvers of x / alpha.

Its schedulers keep x in two coordinates: VP (DDIM, DDPM, DPM-Solver++, UniPC), or
x / alpha (Euler, Heun), which `scale_model_input` takes to VP for the network. Here
everything goes in and comes out as y = x / alpha, at any levels r = sigma / alpha.
"""

import numpy as np
import torch
from diffusers import schedulers
from diffusers.schedulers import scheduling_ddpm, scheduling_euler_discrete

LINEAR = {"beta_start": 1e-4, "beta_end": 0.02, "beta_schedule": "linear"}


def create(solver: str, settings: dict, num_timesteps: int = 1000, **kwargs):
    """The scheduler of that solver without clipping; kwargs: spacing and the like."""
    kwargs |= {"num_train_timesteps": num_timesteps} | LINEAR
    match solver:
        case "ddim":
            return schedulers.DDIMScheduler(clip_sample=False, **kwargs)
        case "ddpm":
            kwargs["variance_type"] = "fixed_" + settings["variance"]
            return schedulers.DDPMScheduler(clip_sample=False, **kwargs)
        case "euler":
            return schedulers.EulerDiscreteScheduler(**kwargs)
        case "heun":
            return schedulers.HeunDiscreteScheduler(**kwargs)
        case "dpmpp_2m":
            sde = "sde-" if settings.get("stochastic") else ""
            return schedulers.DPMSolverMultistepScheduler(
                algorithm_type=sde + "dpmsolver++", solver_type="midpoint", **kwargs
            )
        case "unipc":
            return schedulers.UniPCMultistepScheduler(solver_type="bh2", **kwargs)


def set_levels(scheduler, r: np.ndarray) -> None:
    """Any levels r [S+1], the last one 0, in float64, where diffusers makes its own.

    The discrete schedulers are told that these S levels are all of their timesteps.
    """
    num_steps = len(r) - 1
    scheduler.alphas_cumprod = torch.tensor(1 / (1 + r[-2::-1] ** 2))
    scheduler.set_timesteps(num_steps)
    order = np.arange(num_steps)[::-1]
    if hasattr(scheduler, "sigmas"):
        sigmas = torch.tensor(r)
        if scheduler.order == 2:
            order = np.append(order[:1], np.repeat(order[1:], 2))
            twice = sigmas[1:-1].repeat_interleave(2)
            sigmas = torch.cat([sigmas[:1], twice, sigmas[-1:]])
        scheduler.sigmas = sigmas
        scheduler.timesteps = torch.tensor(order.copy()).to(scheduler.timesteps.dtype)
        scheduler.set_begin_index(0)


def path(scheduler, eps_fn, y: np.ndarray, noise=None, **settings) -> np.ndarray:
    """y at every level [S+1,...] from y [B,C] at the first one.

    eps_fn(x [B,C] in VP, level int) -> eps. noise [S]: what a stochastic scheduler
    adds at step k instead of its own random numbers.
    """
    steps, in_vp = [], scheduler.__class__.__name__.startswith(("DD", "DPM", "Uni"))
    sigmas = getattr(scheduler, "sigmas", None)
    if sigmas is None:
        alpha_bar = scheduler.alphas_cumprod.numpy()[scheduler.timesteps.numpy()]
        r = np.append(np.sqrt((1 - alpha_bar) / alpha_bar), 0.0)
    else:
        sigmas = sigmas.double().numpy()
        r = sigmas[np.append(True, np.diff(sigmas) < 0)]
    scale = np.sqrt(1 + r**2)
    sample = torch.tensor(y / scale[0] if in_vp else y)
    level, given = 0, None

    def draw(shape, **kwargs):
        return torch.full(shape, noise[level], dtype=kwargs.get("dtype"))

    modules = scheduling_ddpm, scheduling_euler_discrete
    before = [module.randn_tensor for module in modules]
    try:
        for module in modules:
            module.randn_tensor = draw
        for i, t in enumerate(scheduler.timesteps):
            # Heun's second evaluation is at the level that its step leads to
            second = scheduler.order == 2 and not scheduler.state_in_first_order
            x = scheduler.scale_model_input(sample, t).numpy()
            eps = torch.tensor(eps_fn(x, level + second))
            if settings.get("eta") or settings.get("stochastic"):
                given = {"variance_noise": torch.full_like(sample, noise[level])}
            options = {k: v for k, v in settings.items() if k in ("eta", "s_churn")}
            sample = scheduler.step(eps, t, sample, **options, **(given or {}))[0]
            last = i == len(scheduler.timesteps) - 1
            if scheduler.order == 1 or second or last:
                level += 1
                value = sample.double().numpy()
                steps.append(value * scale[level] if in_vp else value)
    finally:
        for module, function in zip(modules, before, strict=True):
            module.randn_tensor = function
    return np.stack([y, *steps])
