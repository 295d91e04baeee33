"""Which entries of which tables a config chooses, and the settings that it gives them.

A key such as `guidance.rule` names an entry of a table. The settings of an entry are
the section of its name, `guidance.apg`, whose keys are parameters of what the table
holds; an entry without a section has none.
"""

import inspect
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import ml_collections

from progguide_jax import data, networks, registry
from progguide_jax.diffusion import (
    levels,
    losses,
    process,
    solvers,
    tilted,
    train_noises,
)
from progguide_jax.guidance import projections, references, rules, schedules


def _factories(module) -> dict[str, Callable | None]:
    """{name: factory} of a room with names(); None for an entry without settings."""
    return {name: getattr(module, name, None) for name in module.names()}


# of sample.tilted: the steps of the solver, with the rule, alone
NONE = "none"
# config key -> {name: factory or None}; a default of a factory is that of configs/base
TABLES: dict[str, dict[str, Callable | None]] = {
    "data.name": data.DATASETS,
    "noise.name": process.SCHEDULES,
    "model.name": networks.MODELS,
    "train.loss_weight": losses.WEIGHTS,
    "train.noise": train_noises.NOISES,
    "guidance.schedule": {k: s.curve for k, s in schedules.SCHEDULES.items()},
    "guidance.references": {k: r.make for k, r in references.REFERENCES.items()},
    "guidance.rule": {k: r.make for k, r in rules.RULES.items()},
    "guidance.projection": projections.PROJECTIONS,
    "sample.spacing": _factories(levels),
    "sample.solver": _factories(solvers),
    "sample.tilted": {NONE: None} | {k: t.make for k, t in tilted.TILTED.items()},
}
# entries that share the section of another
_SECTIONS = {"gn_all": "gn"}


def chosen(config: ml_collections.ConfigDict, key: str) -> tuple[str, ...]:
    """The names that `key` holds: one, or those of a tuple."""
    section, name = key.split(".")
    value = config[section][name]
    return (value,) if isinstance(value, str) else tuple(value)


def named(config: ml_collections.ConfigDict, key: str) -> list[tuple[str, str]]:
    """[(key, name)] of all entries of the table `key` that the config uses: `key`
    itself, and then the keys of chosen entries, such as guidance.pag.schedule."""
    section, choice = key.split(".")
    found = [(key, name) for name in chosen(config, key)]
    for other in [k for k in TABLES if k.startswith(f"{section}.")]:
        # the config of an earlier edition's record lacks what did not matter to it
        there = other.split(".")[1] in config[section]
        for entry in chosen(config, other) if there else ():
            own = settings(config, other, entry).get(choice)
            found += [(f"{section}.{entry}.{choice}", own)] if own else []
    return found


def used(config: ml_collections.ConfigDict, key: str) -> set[str]:
    """The entries of the table `key` that the config uses."""
    return {name for _, name in named(config, key)}


def check_names(config: ml_collections.ConfigDict) -> None:
    """ValueError at a name that its table does not hold, with the nearest that it does,
    or with the table that holds it."""
    for table_key, table in TABLES.items():
        for key, name in named(config, table_key):
            home = [k for k, names in TABLES.items() if name in names and name != NONE]
            if name not in table and home:
                raise ValueError(f"{key} is {name!r}: set {home[0]} to that instead")
            registry.check(key, name, table)


def settings(
    config: ml_collections.ConfigDict, key: str, name: str = ""
) -> dict[str, Any]:
    """The settings of the entry `name` of the table `key`, default the chosen one."""
    if not name:
        (name,) = chosen(config, key)
    sections = config[key.split(".")[0]]
    name = _SECTIONS.get(name, name)
    held = sections[name] if name in sections else {}
    return dict(held.items()) if is_section(held) else {}


def scales(config: ml_collections.ConfigDict) -> dict[str, float]:
    """{reference: its guidance scale}: that of its own section, where that is set."""
    own = {
        name: settings(config, "guidance.references", name).get("scale")
        for name in chosen(config, "guidance.references")
    }
    whole = config.guidance.scale
    return {name: whole if scale is None else scale for name, scale in own.items()}


def rule_scales(config: ml_collections.ConfigDict) -> tuple[float, float]:
    """The lowest and the highest guidance scale that the chosen rule takes, and the one
    within it."""
    lowest, highest = zip(
        *(rules.RULES[name].scales for name in used(config, "guidance.rule")),
        strict=True,
    )
    return max(lowest), min(highest)


def schedule_of(config: ml_collections.ConfigDict, reference: str) -> str:
    """The schedule of a reference: that of its own section, where that is set."""
    own = settings(config, "guidance.references", reference).get("schedule")
    return own or config.guidance.schedule


def common(config: ml_collections.ConfigDict, section: str) -> dict[str, Any]:
    """The keys of a section itself, without those of the entries."""
    return {k: v for k, v in config[section].items() if not is_section(v)}


def defaults(key: str, name: str) -> dict[str, Any]:
    """{setting: default} of an entry: the parameters that have one."""
    factory = TABLES[key][name]
    known = registry.defaults(factory) if factory else {}
    return {k: v for k, v in known.items() if v is not inspect.Parameter.empty}


def unused(
    configs: Sequence[ml_collections.ConfigDict], sections: Iterable[str]
) -> list[str]:
    """A line on every setting that is not its default and whose entry none of the
    configs chooses: in the `sections` of the config, "model", "guidance", ..."""
    lines = []
    for key in TABLES:
        section, choice = key.split(".")
        if section not in sections:
            continue
        held = {_SECTIONS.get(n, n) for c in configs for n in used(c, key)}
        for name in TABLES[key]:
            if name in held or name in _SECTIONS:
                continue
            for config in configs:
                for setting in _changed(config, key, name):
                    lines.append(_line(config, key, name, setting))
    return list(dict.fromkeys(lines))


def reset(config: ml_collections.ConfigDict, given: Sequence[str]) -> None:
    """Give settings their defaults back where `given`, the keys that were typed, names
    another entry than the recipe did: what the recipe said of that one is not meant."""
    for key in TABLES:
        if key not in given:
            continue
        section = key.split(".")[0]
        held = {_SECTIONS.get(name, name) for name in used(config, key)}
        for name in TABLES[key]:
            if name in held or name in _SECTIONS:
                continue
            for setting, default in _changed(config, key, name).items():
                if f"{section}.{name}.{setting}" not in given:
                    config[section][name][setting] = default


def _changed(config, key: str, name: str) -> dict[str, Any]:
    """{setting: default} of those of an entry that are not their default."""
    known, found = defaults(key, name), {}
    for setting, value in settings(config, key, name).items():
        # what is no parameter, such as the file of a table, is empty where it is not
        # set: a number with a point may be left out, so it is None
        empty = None if isinstance(value, float) else type(value)()
        if value != known.get(setting, empty) and (value or setting in known):
            found[setting] = known.get(setting, empty)
    return found


def _line(config, key: str, name: str, setting: str) -> str:
    section, choice = key.split(".")
    there = config[section][choice]
    wanted = name if isinstance(there, str) else (name,)
    return (
        f"{section}.{name}.{setting} is set and {key} is {there!r}: leave it out, or "
        f"set {key}={wanted}"
    )


def is_section(value: Any) -> bool:
    return isinstance(value, ml_collections.ConfigDict)
