"""The settings of every entry of guidance's registries, for the configs that hold them.

A setting is a parameter of a factory that has a default: `rules.apg(momentum=-0.5)` is
the key guidance.apg.momentum. A reference also has a schedule and a scale of its own,
and one with a second network says where that is.
"""

import inspect
import types
import typing
from collections.abc import Callable
from typing import Any, NamedTuple

from progguide_jax import registry
from progguide_jax.guidance import projections, references, rules, schedules


class Setting(NamedTuple):
    """default None: kind is what it may be set to."""

    default: Any
    kind: type
    comment: str


def sections() -> dict[str, dict[str, Setting]]:
    """{entry: {setting: Setting}} of all entries that have any."""
    found: dict[str, dict[str, Setting]] = {}
    for factories in (
        {name: s.curve for name, s in schedules.SCHEDULES.items()},
        {name: e.make for name, e in references.REFERENCES.items()},
        {name: e.make for name, e in rules.RULES.items()},
        projections.PROJECTIONS,
    ):
        for name, factory in factories.items():
            found.setdefault(name, {}).update(_settings(name, factory))
    for name, entry in references.REFERENCES.items():
        # nothing is guided against the conditional branch
        if name != "null" and entry.branch != "cond":
            words = f'omega(t) of {name}; "" = guidance.schedule'
            found[name]["schedule"] = Setting("", str, words)
            words = f"omega of {name}; None = guidance.scale"
            found[name]["scale"] = Setting(None, float, words)
        if entry.guide:
            words = f"workdir of the network of {name}"
            words += '; "" = this one' * (entry.guide == "guide")
            found[name]["workdir"] = Setting("", str, words)
            words = f"checkpoint of the network of {name}; 0 = the newest"
            found[name]["step"] = Setting(0, int, words)
    return {name: held for name, held in found.items() if held}


def _settings(name: str, factory: Callable) -> dict[str, Setting]:
    title = registry.card(factory)["Title"]
    result = {}
    for key, parameter in inspect.signature(factory).parameters.items():
        default = parameter.default
        if default is not parameter.empty:
            comment = f"{name}: {title}"
            result[key] = Setting(default, _kind(parameter), comment)
    return result


def _kind(parameter: inspect.Parameter) -> type:
    """The type of a setting: that of its default, or of its annotation X | None."""
    if parameter.default is not None:
        return type(parameter.default)
    choices = typing.get_args(parameter.annotation)
    (kind,) = [c for c in choices if c is not types.NoneType]
    return kind
