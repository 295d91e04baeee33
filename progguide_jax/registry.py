"""Tables of named things: looking one up, making one, saying what there is."""

import difflib
import functools
import inspect
import numbers
import types
import typing
from collections.abc import Callable, Iterable, Mapping
from typing import Any


def check(kind: str, name: str, known: Iterable[str]) -> str:
    """`name` itself; ValueError naming the nearest one if it is not known."""
    known = list(known)
    if name not in known:
        raise ValueError(
            f"unknown {kind} {name!r}: {_nearest(name, known)}use one of "
            f"{', '.join(known)}"
        )
    return name


def _nearest(name: str, known: list[str]) -> str:
    name = str(name)
    near = difflib.get_close_matches(name, known, n=1)
    near += [other for other in known if len(name) > 1 and other.startswith(name)]
    return f"did you mean {near[0]!r}? " if near else ""


def make(kind: str, name: str, table: Mapping[str, Callable], **settings: Any) -> Any:
    """table[name](**settings); ValueError at an unknown name or setting."""
    factory = table[check(kind, name, table)]
    check_settings(f"{kind} {name!r}", settings, defaults(factory))
    return factory(**settings)


def check_settings(what: str, given: Iterable[str], known: Iterable[str]) -> None:
    """ValueError naming the nearest setting if `what` does not have a given one."""
    known = list(known)
    for setting in given:
        if setting not in known:
            there = f"it has {', '.join(known) or 'none'}"
            raise ValueError(
                f"{what} has no setting {setting!r}: {_nearest(setting, known)}{there}"
            )


def defaults(factory: Callable) -> dict[str, Any]:
    """{setting: default} of a factory; `inspect.Parameter.empty` where it has none."""
    parameters = inspect.signature(factory).parameters.values()
    return {p.name: p.default for p in parameters}


def check_numbers(what: str, factory: Callable, settings: Mapping[str, Any]) -> None:
    """ValueError if a setting whose default is a number, or None for a number, is
    something else."""
    for name, parameter in inspect.signature(factory).parameters.items():
        default = parameter.default
        value = settings.get(name, default)
        array = hasattr(value, "dtype")  # a number that is traced, too
        choices = set(typing.get_args(parameter.annotation)) or {str}
        optional = default is None and choices <= {int, float, types.NoneType}
        wrong = not (isinstance(value, numbers.Number) or array or value is default)
        if wrong and (optional or isinstance(default, int | float)):
            raise ValueError(f"{what}: {name} must be a number, got {value!r:.40}")


def numeric(factory: Callable) -> Callable:
    """factory, whose settings are held against their defaults by `check_numbers`."""

    @functools.wraps(factory)
    def checked(*args, **kwargs):
        known = defaults(factory)
        check_settings(factory.__name__, kwargs, known)
        given = dict(zip(known, args, strict=False)) | kwargs
        check_numbers(factory.__name__, factory, given)
        return factory(*args, **kwargs)

    return checked


FIELDS = ("Formula", "Convention", "Space", "Cost", "Neutral", "Deviation", "Source")


def card(factory: Callable) -> dict[str, str]:
    """What the docstring of an entry says: "Title", its first sentence, and the fields
    that it has, of `FIELDS`: lines "Formula: ...", up to the next field or empty line.
    """
    words: dict[str, list[str]] = {"Title": []}
    name = "Title"
    for line in inspect.cleandoc(factory.__doc__ or "").splitlines():
        field, colon, rest = line.partition(": ")
        if colon and field in FIELDS:
            name, line = field, rest
        elif not line.strip():
            name = ""
        if name:
            words.setdefault(name, []).append(line.strip())
    return {name: " ".join(lines).rstrip(".") for name, lines in words.items()}
