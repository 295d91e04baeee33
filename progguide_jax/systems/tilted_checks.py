"""Whether a sampler of the tilted density goes with the rest of a config."""

import numpy as np

from progguide_jax.diffusion import loop, tilted
from progguide_jax.guidance import references, rules
from progguide_jax.systems import entries, specs


def check(config) -> None:
    """ValueError, in one line, at the first thing that it cannot do or read."""
    name = config.sample.tilted
    if name == entries.NONE:
        return
    entry = tilted.TILTED[name]
    if not entry.any_solver:
        _check_default(config, "sample.solver", "ddim", f"{name} has its own steps")
    _check_settings(config, "sample.solver", entry.any_solver)
    if entry.groups:
        _check_groups(config, name)
    grid = specs.grid(config)
    try:
        plan, _ = specs.steps(config, grid, {"null": np.ones(len(grid.t) - 1)})
    except ValueError as error:  # which begins with the name
        raise ValueError(f"sample.{error}") from error
    try:
        rule = rules.make(
            config.guidance.rule, **entries.settings(config, "guidance.rule")
        )
        loop.check(plan, rule, [config.train.predicts])
    except ValueError as error:
        raise ValueError(f"sample.tilted {name!r}: {error}") from error


def _check_default(config, key: str, default, why: str) -> None:
    section, name = key.split(".")
    value = config[section][name]
    if value != default:
        raise ValueError(
            f"{key} is {value!r} and sample.tilted is {config.sample.tilted!r}: {why}, "
            f"set {key}={default}"
        )


def _check_settings(config, key: str, read: bool) -> None:
    """That of the solver's settings none is set that is not read."""
    solver = config.sample.solver
    known = entries.defaults(key, solver)
    for setting, value in entries.settings(config, key).items():
        if value != known[setting] and (not read or setting == "restart"):
            raise ValueError(
                f"sample.{solver}.{setting} is set and sample.tilted is "
                f"{config.sample.tilted!r}, which does not read it: leave it out"
            )


def _check_groups(config, name: str) -> None:
    """Particles follow CFG's SDE, whose weights are known for one omega."""
    why = f"{name} is exact for one omega"
    _check_default(config, "guidance.schedule", "static", why)
    for key, default in (
        ("guidance.rule", "cfg"),
        ("guidance.projection", "none"),
        ("sample.trace", False),
        ("sample.double_batch", False),
    ):
        _check_default(config, key, default, f"{name} has none beside its own")
    chosen = config.guidance.references
    if len(chosen) > 1 or references.REFERENCES[chosen[0]].branch == "cond":
        raise ValueError(
            f"guidance.references is {tuple(chosen)} and sample.tilted is {name!r}: "
            "name one reference, such as null"
        )
