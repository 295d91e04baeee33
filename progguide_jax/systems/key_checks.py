"""Checks of single keys of a config; each error names the key and the way out."""

import os
from collections.abc import Iterable
from typing import Any

import ml_collections

from progguide_jax.guidance import schedules
from progguide_jax.runtime import config as config_lib


def get(config: ml_collections.ConfigDict, key: str) -> Any:
    """The value of "section.name"."""
    value = config
    for part in key.split("."):
        value = getattr(value, part)
    return value


def check_sizes(config: ml_collections.ConfigDict) -> None:
    """ValueError at a whole number that no array could count to."""
    for key, value in config_lib.flat(config.to_dict()).items():
        for number in value if isinstance(value, tuple) else (value,):
            if type(number) is int and not -(2**31) <= number < 2**32:
                raise ValueError(f"{key} is {value}: use at most 2^32 - 1")


def check_ranges(config: ml_collections.ConfigDict, ranges: Iterable[tuple]) -> None:
    """ValueError at a key that fails its test; ranges: (words, test, keys)."""
    for words, test, keys in ranges:
        for key in keys.split():
            value = get(config, key)
            number = value is None or isinstance(value, int | float)
            try:
                good = number and test(value)
            except TypeError:  # None where there must be a number
                good = False
            if not good:
                raise ValueError(f"{key} is {value}: it must be {words}")


def check_scale(key: str, scale: float, schedule: str) -> None:
    """ValueError unless the guidance scale makes sense for the schedule."""
    if not isinstance(scale, int | float):
        raise ValueError(f"{key} holds {scale!r}: use numbers")
    try:
        schedules.check_scale(schedule, scale)
    except ValueError as error:
        raise ValueError(f"{key}: {error}") from error


def check_folder(key: str, name: str) -> None:
    """ValueError unless name is a plain folder name (or empty)."""
    if name != os.path.basename(name) or name in (".", ".."):
        raise ValueError(
            f"{key} {name!r} is not the name of a folder: leave out the slashes"
        )
