"""A network disturbed inside: what it answers then, for guidance against that.

A network lets itself be disturbed where its blocks call methods of theirs: `weights(q,
k)`, the attention map, and `join(x, h)`, the shortcut and the branch beside it. Flax
lets others stand in for these while the network runs, which knows nothing of it.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from progguide_jax import registry
from progguide_jax.diffusion import blur

Sizes = dict[str, tuple[int, int]]  # {layer: height and width of its features}


def identity_attention(run, sizes: Sizes) -> jax.Array:
    """Each pixel attends to itself alone: the attention map is the identity."""

    def change(layer, weights, q, k):
        eye = jnp.eye(q.shape[1], dtype=q.dtype)
        return jnp.broadcast_to(eye, (len(q), *eye.shape))

    return run(change)


def blurred_queries(run, sizes: Sizes, sigma: jax.Array) -> jax.Array:
    """The queries are blurred over space, sigma in pixels of the layer; as far as the
    public code of SEG blurs: to 3 sigma."""

    def change(layer, weights, q, k):
        image = q.reshape(len(q), *sizes[layer], -1)
        return weights(blur.gaussian(image, sigma, reach=3.0).reshape(q.shape), k)

    return run(change)


def dropped_blocks(run, sizes: Sizes, rate: jax.Array, keys: jax.Array) -> jax.Array:
    """Of the residual branches, rate of their number, rounded up, are left out: others
    for each image. keys [B]."""
    draws = jax.vmap(lambda key: jax.random.uniform(key, (len(sizes),)))(keys)
    rank = jnp.argsort(jnp.argsort(draws, axis=1), axis=1)
    kept = rank >= jnp.ceil(rate * len(sizes) - 1e-3)
    number = {layer: i for i, layer in enumerate(sizes)}

    def change(layer, join, x, h):
        keep = kept[:, number[layer]].reshape(-1, 1, 1, 1)
        return join(x, jnp.where(keep, h, 0))

    return run(change)


def attended(run, sizes: Sizes) -> jax.Array:
    """Not an answer: how much attention each pixel of the layer gets, [B,H,W], summed
    over the queries; its mean over the image is 1. Of several layers, the mean."""
    found = []

    def change(layer, weights, q, k):
        found.append(weights(q, k))
        return found[-1]

    run(change)
    sums = [weights.astype(jnp.float32).sum(1) for weights in found]
    return (sum(sums) / len(sums)).reshape(-1, *next(iter(sizes.values())))


class Way(NamedTuple):
    """answer: (run, sizes, **numbers) -> array, where run(change) is the answer of the
    network with change(layer, method, *args) instead of method(*args) in the layers of
    `sizes`. method: which one. random: whether it takes keys too. alike: whether its
    layers must be of one size."""

    answer: Callable[..., jax.Array]
    method: str
    random: bool = False
    alike: bool = False


WAYS = {
    "identity_attention": Way(identity_attention, "weights"),
    "blurred_queries": Way(blurred_queries, "weights"),
    "attended": Way(attended, "weights", alike=True),
    "dropped_blocks": Way(dropped_blocks, "join", random=True),
}


def answer(
    way: str, module: nn.Module, params: dict, layers: Sequence[tuple], *args, **extra
) -> jax.Array:
    """What the network answers to args, disturbed in `layers`, ((name, size), ...)."""
    sizes, entry = dict(layers), WAYS[way]

    def run(change):
        def stand_in(method, args, kwargs, context):
            layer = context.module.name
            if context.method_name == entry.method and layer in sizes:
                return change(layer, method, *args, **kwargs)
            return method(*args, **kwargs)

        with nn.intercept_methods(stand_in):
            return module.apply({"params": params}, *args)

    return entry.answer(run, sizes, **extra)


def places(run: Callable[[], Any]) -> dict[str, Sizes]:
    """{method: {layer: size}} of all that can be disturbed in a network while `run`
    runs it, in the order in which it does."""
    sizes, found = {}, {way.method: {} for way in WAYS.values()}

    def look(method, args, kwargs, context):
        layer = context.module.name
        if context.method_name == "__call__" and args and args[0].ndim == 4:
            sizes[layer] = args[0].shape[1:3]
        if context.method_name in found:
            found[context.method_name][layer] = sizes[layer]
        return method(*args, **kwargs)

    with nn.intercept_methods(look):
        jax.eval_shape(run)
    return found


def choose(there: Sizes, layers: Sequence[str | int], alike: bool = False) -> tuple:
    """((name, size), ...) of those that `layers` names: each "all", a width in pixels,
    or the beginning of names, such as middle, up1 or up1_0.

    ValueError at one that is none of these, and if they differ in size and must not.
    """
    chosen: Sizes = {}
    for layer in map(str, layers):
        hits = {
            name: size
            for name, size in there.items()
            if layer in ("all", name, str(size[1])) or name.startswith(f"{layer}_")
        }
        if not hits:
            widths = sorted({str(size[1]) for size in there.values()}, key=int)
            registry.check("layer", layer, ["all", *widths, *there])
        chosen |= hits
    if alike and len({*chosen.values()}) > 1:
        raise ValueError(
            f"layers {', '.join(chosen)} differ in size: name one of them, or a width"
        )
    return tuple((name, there[name]) for name in there if name in chosen)
