"""Guided against the same network disturbed inside.

Which layers: each word is "all", a width in pixels, or the beginning of names, such as
middle, up1 or up1_0.
"""

import functools
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from progguide_jax.diffusion import blur, prediction, system


def check(**settings) -> None:
    """ValueError at settings of the references here that no network could have."""
    ranges = {
        "sigma": (0, math.inf),
        "rate": (0, 1),
        "blur_sigma": (0, math.inf),
        "threshold": (0, math.inf),
    }
    for name, value in settings.items():
        low, high = ranges.get(name, (0, math.inf))
        if name in ranges and not low <= value <= high:
            raise ValueError(f"{name} is {value}: use {low} ... {high}")
    if settings.get("layers", ("all",)) == ():
        raise ValueError("layers is empty: use all, a width in pixels, or names")


def pag(
    model: system.System, cond: Any, *, layers: tuple = ("all",)
) -> prediction.Branch:
    """Perturbed-attention guidance (Ahn et al. 2024, arXiv:2403.17377).

    Formula: p_ref = p_c with the self-attention map replaced by the identity: each
        pixel reads its own value v and no other's.
    Convention: theirs is s = omega, usually 3.
    Space: any.
    Cost: 1 evaluation.
    Neutral: attention that looks at each pixel alone, or no training of it (a fresh
        block adds nothing).

    They disturb the middle block of Stable Diffusion; small U-Nets attend at few
    places, hence "all". With null beside it, it is added to CFG as theirs is.
    """
    return disturbed("pag", model, cond, "identity_attention", layers=layers)


def seg(
    model: system.System,
    cond: Any,
    *,
    sigma: float = math.inf,
    layers: tuple = ("all",),
) -> prediction.Branch:
    """Smoothed energy guidance (Hong 2024, arXiv:2408.00760).

    Formula: p_ref = p_c with the queries of self-attention blurred over space by a
        Gaussian of sigma pixels of the layer; infinity: all queries are their mean.
    Convention: theirs is gamma = omega, usually 3.
    Space: any.
    Cost: 1 evaluation.
    Neutral: sigma = 0.
    Deviation: the authors' code, as we, ends the kernel at 3 sigma and at half of the
        layer and takes more than 9999 for infinity. diffusers 0.42 has this test the
        wrong way round: every finite sigma gives the mean there.
    """
    return disturbed("seg", model, cond, "blurred_queries", sigma=sigma, layers=layers)


def s2(
    model: system.System,
    cond: Any,
    *,
    rate: float = 0.1,
    layers: tuple = ("all",),
) -> prediction.Branch:
    """S2-guidance, stochastic self-guidance (Chen et al. 2025, arXiv:2508.12880).

    Formula: p_ref = p_c without rate of the residual branches (at least one), drawn
        anew at each evaluation and for each image.
    Convention: theirs is an S2-scale of omega, about 1.
    Space: any.
    Cost: 1 evaluation.
    Neutral: rate = 0.
    Deviation: theirs drops whole blocks of a transformer, the same for all images; here
        it is what a residual or an attention block of the U-Net adds to its shortcut.
        Rate and scale are from notes on the paper, whose code was not out; a port of
        others subtracts s p_ref and adds no s p_c, so that its weights are not one.
    """
    return disturbed("s2", model, cond, "dropped_blocks", rate=rate, layers=layers)


def internal(model: system.System, cond: Any) -> prediction.Branch:
    """Internal guidance (Zhou et al. 2025, arXiv:2512.24176).

    Formula: p_ref = p_exit(x_t, t, condition), what a second head says that was trained
        on the decoder half-way (model.unet.exit, train.exit_weight).
    Convention: theirs is w = 1 + omega, usually 1.4.
    Space: any.
    Cost: 1 evaluation as far as the exit; theirs has it from the pass of p_c.
    Neutral: an exit that says what the network does.
    Deviation: theirs is a block of a transformer; the head here is that of the U-Net,
        each pixel of the exit answering for a square of the image.

    They weigh its loss by 0.5 and guide at high noise only: guidance.schedule=interval.
    """
    return disturbed("internal", model, cond, "exit")


def sag(
    model: system.System,
    cond: Any,
    *,
    blur_sigma: float = 1.0,
    threshold: float = 1.0,
    layer: str = "middle",
    conditional: bool = False,
) -> prediction.Branch:
    """Self-attention guidance (Hong et al. 2023, arXiv:2210.00939).

    Formula: p_ref = p_c - p_u(x_t) + p_u(x'), x' = alpha x0' + sigma eps_u(x_t), x0' =
        x0_u blurred where a pixel of the layer gets more attention than threshold,
        summed over the queries (its mean is 1). With conditional p_u is p_c, so that
        p_ref = p_c(x').
    Convention: theirs is s = omega, 0.5 to 1; so p_c moves by s (p_u(x_t) - p_u(x')).
    Space: any.
    Cost: 2 evaluations, one of them as far as the layer; null must be there too.
    Neutral: blur_sigma = 0, or a threshold that no pixel reaches.
    Deviation: blur as in diffusers (sigma 1, to 4 sigma, of latents); the authors' code
        for images of 128 pixels has sigma 3 and clips x0_u to +-1, which we do not.

    It works in eps, so not from pure noise (alpha = 0). Without CFG, as the paper has
    it for unconditional models: guidance.scale=0 and guidance.sag.scale.
    """
    attended = disturbed("sag", model, cond, "attended", layers=(layer,))
    base = "cond" if conditional else "null"
    condition = cond if conditional else system.null_like(model.null, cond)
    asked = model.branch(condition)
    numbers = {"sigma": np.float32(blur_sigma), "threshold": np.float32(threshold)}
    fn = jax.tree_util.Partial(
        _degraded(base, asked.predicts), attended.fn, asked.fn, numbers
    )
    uses = tuple({"cond": None, base: None})
    return prediction.Branch(fn, condition, "eps", uses=uses)


@functools.cache
def _degraded(base: str, predicts: str):
    def fn(attended, ask, numbers, x, level, condition, given):
        alpha, sigma = (prediction.per_image(v, x) for v in level[1:])
        seen = _nearest(attended(x, level, condition), x.shape[1:3])
        blurred = blur.gaussian(given[base].x0, numbers["sigma"], reach=4.0)
        where = seen[..., None] > numbers["threshold"]
        x0 = jnp.where(where, blurred, given[base].x0)
        worse_x = alpha * x0 + sigma * given[base].eps
        raw = ask(worse_x, level, condition)
        worse = prediction.of_raw(raw, worse_x, alpha, sigma, predicts)
        return given["cond"].eps - given[base].eps + worse.eps

    return fn


def _nearest(values: jax.Array, size: tuple[int, int]) -> jax.Array:
    """values [B,h,w] at each pixel of an image of that size."""
    rows, columns = (
        np.arange(new) * old // new
        for new, old in zip(size, values.shape[1:], strict=True)
    )
    return values[:, rows][:, :, columns]


def disturbed(name: str, model: system.System, cond, way: str, **settings):
    """model.perturbed(...); its errors with the name of the reference."""
    if model.perturbed is None:
        raise ValueError(
            f"{name}: this model has no network that could be disturbed inside: use "
            "another reference"
        )
    try:
        return model.perturbed(cond, way, **settings)
    except ValueError as error:
        raise ValueError(f"{name}: {error}") from error
