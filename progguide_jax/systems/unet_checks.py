"""Whether a U-Net, or its way down, can be built for the images of config.data."""

import logging
import math
from collections.abc import Sequence

import ml_collections

from progguide_jax.systems import entries

_EXIT_WEIGHT = 0.5  # train.exit_weight where nobody set it


def follow(config: ml_collections.ConfigDict, given: Sequence[str]) -> None:
    """Give attention to widths that exist, where `given`, the keys that were typed,
    change them and do not say which have it: each becomes the nearest one."""
    name, size = config.model.name, config.data.image_size
    key = f"model.{name}.attention_resolutions"
    changes = {"data.image_size", f"model.{name}.channel_mult"} & set(given)
    has_levels = "channel_mult" in entries.settings(config, "model.name")
    if key in given or not changes or not has_levels:
        return
    network = config.model[name]
    before = tuple(network.attention_resolutions)
    widths = [w for w in _widths_in_pixels(size, network.channel_mult) if w > 0]
    if not widths or not all(isinstance(w, int) and w > 0 for w in before):
        return  # `check` says what is wrong
    nearest = [min(widths, key=lambda w: abs(math.log(w / old))) for old in before]
    after = network.attention_resolutions = tuple(dict.fromkeys(nearest))
    if after != before:
        words = "%s is %s, not %s: the nearest widths for images of %d pixels"
        logging.info(words, key, after, before, size)


def check(config: ml_collections.ConfigDict) -> None:
    """ValueError, in one line, unless every level and norm comes out whole."""
    name, size = config.model.name, config.data.image_size
    unet = config.model[name]
    for key in ("channel_mult", "attention_resolutions"):
        for value in unet[key]:
            if not isinstance(value, int) or value < 1:
                raise ValueError(
                    f"model.{name}.{key} holds {value!r}: use whole numbers, at least 1"
                )
    if not unet.channel_mult:
        raise ValueError(f"model.{name}.channel_mult is empty: use (1,) or longer")
    factor = 2 ** (len(unet.channel_mult) - 1)
    if size % factor:
        raise ValueError(
            f"data.image_size {size} is not divisible by {factor}, which "
            f"{len(unet.channel_mult)} levels of model.{name}.channel_mult need: use "
            "fewer levels or another size"
        )
    sizes = _widths_in_pixels(size, unet.channel_mult)
    for resolution in unet.attention_resolutions:
        if resolution not in sizes:
            raise ValueError(
                f"model.{name}.attention_resolutions: no feature map is {resolution} "
                f"pixels wide: use some of {', '.join(map(str, sizes))}, such as "
                f"({sizes[-1]},)"
            )
    if name == "unet" and unet.exit and unet.exit not in sizes[1:]:
        there = ", ".join(map(str, sizes[1:])) or "none but that of the image"
        raise ValueError(
            f"model.unet.exit is {unet.exit}: use 0, or a width of the decoder before "
            f"its last: {there}"
        )
    for channels in _widths(unet, decoder=name == "unet"):
        groups = min(32, channels // 4)
        if not groups or channels % groups:
            raise ValueError(
                f"model.{name}.base_channels {unet.base_channels} with channel_mult "
                f"{tuple(unet.channel_mult)}: group normalisation cannot split "
                f"{channels} channels; use base_channels 8, 16 or a multiple of 32"
            )


def check_exit_weight(config: ml_collections.ConfigDict) -> None:
    """ValueError if the loss of an early exit is weighted and there is no such exit."""
    model, weight = config.model, config.train.exit_weight
    if weight != _EXIT_WEIGHT and not (model.name == "unet" and model.unet.exit):
        raise ValueError(
            f"train.exit_weight is {weight} and model.unet.exit is off: set "
            "model.unet.exit to a width of the decoder, or leave it out"
        )


def _widths_in_pixels(size: int, channel_mult: Sequence[int]) -> list[int]:
    """Of the feature maps of each level."""
    return [size // 2**i for i in range(len(channel_mult))]


def _widths(unet: ml_collections.ConfigDict, decoder: bool) -> list[int]:
    """Channels that the U-Net normalises, those after joining a skip included."""
    levels = [unet.base_channels * mult for mult in unet.channel_mult]
    if not decoder:
        return sorted({unet.base_channels, *levels})
    blocks = min(unet.num_res_blocks, 8)  # further ones have the same widths
    skips, width = [unet.base_channels], unet.base_channels
    for i, channels in enumerate(levels):
        skips += [channels] * (blocks + (i < len(levels) - 1))
        width = channels
    widths = [*skips]
    for channels in reversed(levels):
        for _ in range(blocks + 1):
            widths.append(width + skips.pop())
            width = channels
    return sorted({*widths, width})
