"""Sets of overrides of a config: "guidance.schedule=gn sample.num_steps=20"."""

import ast
import shlex
from collections.abc import Iterable
from typing import Any

from progguide_jax.runtime import config as config_lib

# A sweep samples one trained workdir: its cells differ in nothing else.
SECTIONS = ("guidance", "sample", "checkpoint")


def parse(text: str | Iterable[tuple[str, Any]]) -> dict[str, Any]:
    """{key: value} of "key=value key=value", values as text, or of (key, value) pairs.

    Quotes hold a value with spaces together. ValueError in one line.
    """
    if isinstance(text, str):
        try:
            words = shlex.split(text)
        except ValueError as error:
            raise ValueError(f"experiment.cells: {text!r}: {error}") from error
        pairs = [word.partition("=")[::2] for word in words]
        if not pairs or not all("=" in word for word in words):
            raise ValueError(
                f"experiment.cells holds {text!r}: write each cell as "
                "'KEY=VALUE KEY=VALUE', on a command line with a ; between two cells, "
                "in a file with a comma after the only one"
            )
        if any(f",{section}." in word for word in words for section in SECTIONS):
            raise ValueError(
                f"experiment.cells holds {text!r}: put a ; between two cells, no comma"
            )
    else:
        pairs = list(text) if isinstance(text, Iterable) else []
        if not pairs or not all(isinstance(p, tuple) and len(p) == 2 for p in pairs):
            raise ValueError(
                f"experiment.cells holds {text!r}: use 'KEY=VALUE KEY=VALUE' or pairs "
                "(KEY, VALUE)"
            )
    twice = [key for i, (key, _) in enumerate(pairs) if key in dict(pairs[:i])]
    if twice:
        raise ValueError(
            f"experiment.cells: {text!r} sets {twice[0]} twice: put a ; between two "
            "cells, or leave one out"
        )
    return dict(pairs)


def apply(config, overrides: dict[str, Any]):
    """A copy of config with `overrides`, text read as the value that it replaces is.

    ValueError at an unknown key, at one that no cell may set, and at a value of another
    type.
    """
    changed = config.copy_and_resolve_references()
    known = config_lib.flat(config.to_dict())
    for key, value in overrides.items():
        if key not in known:
            raise ValueError(f"experiment.cells: {config_lib.unknown_key(key, known)}")
        if key.partition(".")[0] not in SECTIONS:
            raise ValueError(
                f"experiment.cells sets {key}: the cells of a sweep share one trained "
                f"workdir and differ in {', '.join(f'{s}.*' for s in SECTIONS)} only"
            )
        try:
            if isinstance(value, str):
                value = _read(value, known[key], config_lib.type_of(config, key))
            changed.update_from_flattened_dict({key: value})
        except (TypeError, ValueError, SyntaxError):
            kind = config_lib.type_of(config, key)
            what = config_lib.TO_TYPE.get(kind, f"it must be a {kind.__name__}")
            raise ValueError(f"experiment.cells: {key} is {value!r}: {what}") from None
    return changed


def _read(text: str, before: Any, kind: type) -> Any:
    """text as a value of that kind; of any, if it is not known, or None."""
    if kind is str:
        return text
    if kind in config_lib.TO_TYPE and text != "None":
        return config_lib.value_of(text, kind)
    if kind is tuple:
        return config_lib.as_tuple(text, before)
    return ast.literal_eval(text)
