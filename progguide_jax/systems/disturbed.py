"""Branches of a trained network that is disturbed inside, or left early."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from progguide_jax import registry
from progguide_jax.diffusion import prediction, process
from progguide_jax.networks import inside, layers
from progguide_jax.systems import build

EXIT, WINDOW = "exit", "window"


def perturbed(module: nn.Module, params: dict, shape: tuple[int, ...]):
    """(label [B], way, layers=(...), **numbers) -> the branch of the network disturbed
    in one of `inside.WAYS`, or of its early "exit", or asked about a "window" of `size`
    pixels.

    ValueError if the network has no such place.
    """

    def branch(label, way, layers=("all",), **numbers) -> prediction.Branch:
        registry.check("way to disturb a network", way, [*inside.WAYS, EXIT, WINDOW])
        if way == EXIT:
            if not getattr(module, EXIT, 0):
                raise ValueError(
                    "the network has no early exit: train one with model.unet.exit, "
                    "or leave this reference out"
                )
            return _branch(_early(module), params, {}, label, module.predicts)
        if way == WINDOW:
            _named_places(module, shape, "join")
            _check_window(module, shape, **numbers)
            whole = jax.tree_util.Partial(build.raw_of_label(module), params)
            return prediction.Branch(whole, label, module.predicts)
        entry = inside.WAYS[way]
        there = _named_places(module, shape, entry.method)
        raw = _disturbed(module, way, inside.choose(there, layers, entry.alike))
        return _branch(raw, params, numbers, label, module.predicts, entry.random)

    return branch


def _named_places(module, shape, method: str):
    there = _places(module, shape)[method]
    if not there:
        raise ValueError(
            f"the network {type(module).__name__} has no layer to disturb: use a "
            "U-Net (model.name=unet) with attention, or leave this reference out"
        )
    return there


@functools.cache
def _check_window(module, shape, size: int) -> None:
    """That the network has an answer for a part of the image."""

    def answer(x_t):
        params = build.init_params(module, shape, jax.random.key(0))
        zero = jnp.zeros(1)
        level = process.Level(zero, zero, zero)
        return build.raw_of_label(module)(params, x_t, level, jnp.zeros(1, int))

    try:
        jax.eval_shape(answer, jnp.zeros((1, size, size, shape[-1])))
    except (TypeError, ValueError) as error:
        raise ValueError(
            f"the network does not take windows of {size} x {size} pixels: use a size "
            "that it can halve as often as it halves the image"
        ) from error


def _branch(raw, params, numbers, label, predicts, random=False):
    # numbers are arguments of a compiled program too
    numbers = {name: np.float32(value) for name, value in numbers.items()}
    fn = jax.tree_util.Partial(raw, params, numbers)
    return prediction.Branch(fn, label, predicts, random=random)


@functools.cache
def _places(module, shape):
    key = jax.random.key(0)
    return inside.places(lambda: build.init_params(module, shape, key))


@functools.cache
def _disturbed(module, way, chosen):
    def raw(params, numbers, x_t, level, label, **keys):
        emb = build.embed_label(module, params, label)
        asked = (x_t, level, emb)
        return inside.answer(way, module, params, chosen, *asked, **numbers, **keys)

    return raw


@functools.cache
def _early(module):
    def raw(params, numbers, x_t, level, label):
        emb = build.embed_label(module, params, label)
        return layers.answers(module, params, x_t, level, emb)[1]

    return raw
