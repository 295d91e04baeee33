"""The cells of an experiment as command lines, for machines of their own."""

import shlex
import sys
from collections.abc import Sequence
from typing import Any

from progguide_jax import experiments
from progguide_jax.experiments import settings
from progguide_jax.runtime import config as config_lib

SWITCH = "commands"
_NOT_OF_A_CELL = ("experiment.", "hosts.", "eval.num_images", "distributed")


def show(config, workdir: str) -> None:
    """Print what samples and scores each cell of config in the shared workdir. The
    experiment's own command then finds all of it, and writes the report."""
    print("\n".join(lines(config, sys.argv[1:])))


def lines(config, typed: Sequence[str]) -> list[str]:
    """typed: the arguments of the experiment's command line. ValueError if its cells
    cannot run apart."""
    experiment = experiments.EXPERIMENTS[config.experiment.name]
    if not experiment.apart:
        raise ValueError(
            f"--{SWITCH}: the cells of {config.experiment.name} do not run apart: "
            "leave it out"
        )
    cells = experiment.cells(config)
    same, result = _of_every_command(typed), []
    first = _changes(config, settings.shared(config, cells))
    result.append(_line("train.py", same, first))
    if experiment.needs_curve(config):
        result.append(_line("probe.py", same, first))
    for cell in cells:
        changes = _changes(config, cell.config)
        result.append(
            f"{_line('sample.py', same, changes)} && "
            f"{_line('-m eval.metrics', same, changes)}"
        )
    return result


def _of_every_command(typed: Sequence[str]) -> list[str]:
    """Without the switch and the experiment's own keys, whose value may be a word of
    its own."""
    kept, skipping = [], False
    for word in typed:
        flag = word.partition("=")[0].lstrip("-")
        if word.startswith("-"):
            own = flag.startswith(("config.experiment.", "noconfig.experiment."))
            skipping = own or flag == SWITCH
        if not skipping:
            kept.append(word)
    return kept


def _changes(config, other) -> list[str]:
    """The overrides that make `other` of config."""
    before = config_lib.flat(config.to_dict())
    after = config_lib.flat(other.to_dict())
    return [
        f"--config.{key}={_text(value)}"
        for key, value in after.items()
        if value != before[key] and not key.startswith(_NOT_OF_A_CELL)
    ]


def _text(value: Any) -> str:
    if isinstance(value, tuple):
        return ",".join(map(_text, value))
    return str(value).lower() if isinstance(value, bool) else str(value)


def _line(program: str, *words: Sequence[str]) -> str:
    return " ".join(["python", program, *(shlex.quote(w) for ws in words for w in ws)])
