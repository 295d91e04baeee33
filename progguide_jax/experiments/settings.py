"""Whether config.experiment makes sense: what its experiments share."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import ml_collections

from progguide_jax import registry
from progguide_jax.experiments import cells as cells_lib
from progguide_jax.guidance import schedules
from progguide_jax.runtime import config as config_lib
from progguide_jax.systems import key_checks, validation


def check(config: ml_collections.ConfigDict) -> None:
    """ValueError, in one line, at a bad folder or at cells that cannot be."""
    validation.validate(config)
    experiment = config.experiment
    key_checks.check_folder("experiment.folder", experiment.folder)
    if not experiment.folder:
        raise ValueError("experiment.folder is empty: name a folder for the results")
    for name in experiment.schedules:
        registry.check("experiment.schedules", name, schedules.names())
        for scale in experiment.scales:
            key_checks.check_scale("experiment.scales", scale, name)


def check_cells(cells: Sequence[cells_lib.Cell]) -> None:
    """ValueError at a cell that cannot be sampled, at a setting that acts in none, and
    at two cells of one name."""
    for cell in cells:
        validation.validate(cell.config)
    validation.check_unused([cell.config for cell in cells])
    cells_lib.check_names(cells)


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
