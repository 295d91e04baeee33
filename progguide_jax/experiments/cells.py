"""The cells of an experiment: one config each, by a name of its own; their networks."""

import re
from collections.abc import Sequence
from typing import Any, NamedTuple

import ml_collections

from progguide_jax.engine import sampling
from progguide_jax.experiments import overrides
from progguide_jax.runtime import config as config_lib
from progguide_jax.runtime import digests
from progguide_jax.systems import build

# what cells may differ in without being of another network
_SAMPLED = ("guidance", "sample", "eval", "experiment")


class Cell(NamedTuple):
    """interval: (t_min, t_max) of one that has no guidance there; variant: what a cell
    of experiment.cells sets besides schedule, scale and steps, else None; sets: all
    keys that such a cell sets."""

    name: str
    config: ml_collections.ConfigDict
    interval: tuple[int, int] | None = None
    variant: str | None = None
    sets: tuple[str, ...] = ()


def product(
    config: ml_collections.ConfigDict,
    num_steps: Sequence[int] = (),
    intervals: Sequence[tuple[int, int]] = (),
    plain_once: bool = False,
) -> list[Cell]:
    """A cell for each number of steps, schedule and scale of config.experiment; for
    each interval, each of them under neg_perturb as well.

    plain_once: scale 0, plain conditional sampling under every schedule, comes once,
    as static. Names: static_w0.15, neg_perturb_w0.15_t100-149, gn_w1_s50.
    """
    experiment, result = config.experiment, []
    windows = [(name, None) for name in experiment.schedules]
    windows += [("neg_perturb", tuple(window)) for window in intervals]
    for steps in num_steps or (config.sample.num_steps,):
        for schedule, window in windows:
            for scale in experiment.scales:
                cell = config.copy_and_resolve_references()
                if plain_once and scale == 0:
                    if (schedule, window) != windows[0]:
                        continue
                    cell.guidance.schedule = "static"
                else:
                    cell.guidance.schedule = schedule
                cell.guidance.scale = float(scale)
                cell.sample.num_steps = steps
                name = _name(cell)
                if window:
                    zeroed = cell.guidance.neg_perturb
                    zeroed.t_min, zeroed.t_max = window
                    name += f"_t{window[0]}-{window[1]}"
                name += f"_s{steps}" if len(num_steps) > 1 else ""
                result.append(Cell(name, cell, window))
    return result


def given(config: ml_collections.ConfigDict) -> list[Cell]:
    """The cells of experiment.cells, in their order.

    Each is named after its schedule and scale and, of the keys in which the cells
    differ, those that it sets: gn_w2_rule=apg_s20.
    """
    sets = [overrides.parse(text) for text in config.experiment.cells]
    configs = [overrides.apply(config, keys) for keys in sets]
    flat = [config_lib.flat(config_lib.to_dict(c)) for c in configs]
    varies = [key for key in flat[0] if any(f[key] != flat[0][key] for f in flat)]
    leaves = [key.split(".")[-1] for key in varies]
    in_name = ("guidance.schedule", "guidance.scale", "sample.num_steps")
    result = []
    for keys, cell, values in zip(sets, configs, flat, strict=True):
        more = {}
        for key, leaf in zip(varies, leaves, strict=True):
            if key in keys and key not in in_name:
                more[leaf if leaves.count(leaf) == 1 else key] = values[key]
        parts = [_name(cell), *(f"{k}={_word(v)}" for k, v in more.items())]
        if "sample.num_steps" in varies:
            parts.append(f"s{cell.sample.num_steps}")
        variant = ", ".join(f"{k}={_short(v)}" for k, v in more.items())
        name, own = "_".join(parts), tuple(keys)
        result.append(Cell(name, cell, variant=variant, sets=own))
    return result


def models(cells: Sequence[Cell], workdir: str) -> list[sampling.Run]:
    """The network of each cell, one object for all unless they differ in checkpoint.

    What one of them lacks is told here, before the first is sampled.
    """
    loaded: dict[str, sampling.Run] = {}
    found = []
    for cell in cells:
        values = config_lib.to_dict(cell.config)
        network = {k: v for k, v in values.items() if k not in _SAMPLED}
        key = digests.json_digest(network)
        if key not in loaded:
            run = loaded[key] = sampling.load(cell.config, workdir)
            step = run.system.origin["checkpoint"]["step"]
            build.check_finished(cell.config, workdir, step)
        sampling.make_spec(cell.config, loaded[key])
        found.append(loaded[key])
    return found


def check_names(cells: Sequence[Cell]) -> None:
    """ValueError if two cells have one name: they would be one result."""
    names = [cell.name for cell in cells]
    for name in names:
        if names.count(name) > 1:
            raise ValueError(
                f"experiment: two cells have the name {name}: leave one out"
            )


def _name(config: ml_collections.ConfigDict) -> str:
    return f"{config.guidance.schedule}_w{config.guidance.scale:g}"


def _short(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)


def _word(value: Any) -> str:
    """A value as part of a name: no spaces, no slashes."""
    return re.sub(r"[^\w.+-]+", "-", _short(value)).strip("-")
