"""Whether config.experiment makes sense: what its experiments share."""

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import ml_collections

from progguide_jax import registry
from progguide_jax.engine import probing
from progguide_jax.experiments import cells as cells_lib
from progguide_jax.guidance import rules, schedules
from progguide_jax.runtime import config as config_lib
from progguide_jax.systems import entries, key_checks, validation


def check(config: ml_collections.ConfigDict) -> None:
    """ValueError, in one line, at a bad folder, schedule or scale."""
    experiment = config.experiment
    key_checks.check_folder("experiment.folder", experiment.folder)
    if not experiment.folder:
        raise ValueError("experiment.folder is empty: name a folder for the results")
    if experiment.folder in ("samples", "scores", "references", "checkpoints"):
        raise ValueError(
            f"experiment.folder is {experiment.folder!r}: name a folder of its own"
        )
    for name in experiment.schedules:
        registry.check("experiment.schedules", name, schedules.names())
    for scale in experiment.scales:
        if not isinstance(scale, int | float):
            raise ValueError(f"experiment.scales holds {scale!r}: use numbers")


def check_cells(
    config: ml_collections.ConfigDict, cells: Sequence[cells_lib.Cell]
) -> None:
    """ValueError at what they all share, at a cell that cannot be sampled, at a setting
    that acts in none, or not in the cell that sets it, and at two cells of one name."""
    validation.validate(shared(config, cells))
    for cell in cells:
        try:
            validation.validate(cell.config)
            validation.check_unused([cell.config], cell.sets)
        except ValueError as error:
            keys = "cells" if cell.sets else "schedules and experiment.scales"
            raise ValueError(f"experiment.{keys}, cell {cell.name}: {error}") from error
    validation.check_unused([cell.config for cell in cells])
    validation.warn_beyond_use(cell.config for cell in cells)
    cells_lib.check_names(cells)


def shared(
    config: ml_collections.ConfigDict, cells: Sequence[cells_lib.Cell]
) -> ml_collections.ConfigDict:
    """What is trained and probed: config, with the guidance scale of the first cell
    where the rule does not take config's own, which is then that of no cell."""
    for key, name in entries.named(config, "guidance.rule"):
        registry.check(key, name, rules.RULES)
    lowest, highest = entries.rule_scales(config)
    if not cells or lowest <= config.guidance.scale <= highest:
        return config
    config = config.copy_and_resolve_references()
    config.guidance.scale = cells[0].config.guidance.scale
    return config


def needs_curve(cells: Iterable[cells_lib.Cell]) -> bool:
    """Whether the schedule of a cell reads the curve of the workdir."""
    return any(not settings["curve"] for settings in _of_curves(cells))


def _of_curves(cells: Iterable[cells_lib.Cell]) -> list[dict[str, Any]]:
    """The settings of the schedules of the cells that read a probed curve."""
    found = [
        entries.settings(cell.config, "guidance.schedule", name)
        for cell in cells
        for name in entries.used(cell.config, "guidance.schedule")
    ]
    return [settings for settings in found if "curve" in settings]


def check_curves(cells: Iterable[cells_lib.Cell], workdir: str) -> None:
    """FileNotFoundError without a curve that the schedule of a cell reads."""
    for settings in _of_curves(cells):
        probing.curve_made_by(settings["curve"] or probing.curve_path(workdir))


def check_given(
    config: ml_collections.ConfigDict, given: Iterable[str], unread: Mapping[str, str]
) -> None:
    """ValueError at a key of `given`, those that were typed, that does nothing.

    unread: {key, or section: the key that stands instead, "" if none does}.
    """
    name = config.experiment.name
    for key in given:
        for prefix, instead in unread.items():
            if f"{key}.".startswith(f"{prefix}."):
                raise ValueError(
                    f"experiment {name!r} takes {key} from {instead}: set that"
                    if instead
                    else f"experiment {name!r} does not read {key}: leave it out"
                )


def set_by_cells(config, cells: Sequence[cells_lib.Cell]) -> dict[str, str]:
    """{key that the cells set: the key of experiment that they take it from}."""
    if not config.experiment.cells:
        return {
            "guidance.schedule": "experiment.schedules",
            "guidance.scale": "experiment.scales",
        }
    both = sorted(set.intersection(*(set(cell.sets) for cell in cells)))
    keys = ("experiment.schedules", "experiment.scales", *both)
    return dict.fromkeys(keys, "experiment.cells")


def check_grid(config: ml_collections.ConfigDict) -> None:
    """ValueError if schedules x scales is empty."""
    if not config.experiment.schedules or not config.experiment.scales:
        raise ValueError("experiment.schedules and experiment.scales must not be empty")


def check_no_cells(config: ml_collections.ConfigDict) -> None:
    """ValueError at experiment.cells, for experiments that make their own."""
    if config.experiment.cells:
        raise ValueError(
            f"experiment.cells is set and experiment.name is "
            f"{config.experiment.name!r}: only a sweep takes cells"
        )


def check_unused(
    config: ml_collections.ConfigDict, defaults: Mapping[str, Mapping[str, Any]]
) -> None:
    """ValueError if a section of another experiment than the chosen one is set.

    defaults: {experiment: {key: default}}, the sections of config.experiment.
    """
    experiment = config_lib.to_dict(config.experiment)
    for name, values in defaults.items():
        for key, default in values.items():
            there = experiment[name][key]
            if name != experiment["name"] and _listed(there) != _listed(default):
                raise ValueError(
                    f"experiment.{name}.{key} is set and experiment.name is "
                    f"{experiment['name']!r}: leave it out, or set "
                    f"experiment.name={name}"
                )


def check_count(key: str, value: Any, most: float = math.inf, why: str = "") -> None:
    """ValueError unless value is a whole number from 1 to `most`."""
    if not isinstance(value, int) or not 1 <= value <= most:
        words = "1 or more" if most == math.inf else f"1 ... {most}, which is {why}"
        raise ValueError(f"{key} holds {value!r}: use {words}")


def _listed(value: Any) -> Any:
    """Tuples as the lists that JSON makes of them."""
    return [_listed(v) for v in value] if isinstance(value, list | tuple) else value
