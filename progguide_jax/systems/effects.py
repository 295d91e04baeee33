"""Settings that cannot act beside the others of their config."""

from collections.abc import Iterable

import numpy as np

from progguide_jax import data
from progguide_jax.guidance import references, rules
from progguide_jax.systems import entries, key_checks, specs


def in_all(lists: Iterable[list[str]]) -> list[str]:
    """The lines that every list has, in the order of the first."""
    first, *others = lists
    return [line for line in first if all(line in other for other in others)]


def incomplete(config) -> list[str]:
    """Settings that do nothing without another one that was left out."""
    lines = []
    for name in ("euler", "heun"):
        settings = entries.settings(config, "sample.solver", name)
        known = entries.defaults("sample.solver", name)
        for key in ("churn_min", "churn_max", "churn_noise"):
            if not settings["churn"] and settings[key] != known[key]:
                lines.append(
                    f"sample.{name}.{key} is set and sample.{name}.churn is 0: set "
                    "churn too, or leave it out"
                )
    return lines


def idle(config) -> list[str]:
    """Settings that cannot act, where it is clear what will happen."""
    guidance, lines = config.guidance, []
    stage = entries.defaults("sample.solver", "heun")["stage_omega"]
    if not any(entries.scales(config).values()):
        plain = {
            "guidance.schedule": "static",
            "guidance.normalize": "default",
            "guidance.rule": "cfg",
            "guidance.references": ("null",),
            "sample.double_batch": False,
            "sample.heun.stage_omega": stage,
        }
        known = references.REFERENCES
        if any(known[name].branch == "cond" for name in guidance.references):
            del plain["guidance.references"]  # it acts without guidance too
        unread = [
            key for key, value in plain.items() if key_checks.get(config, key) != value
        ]
        lines += [f"{key} does nothing: guidance.scale is 0" for key in unread]
    elif entries.used(config, "guidance.schedule") == {"static"}:
        unread = ["guidance.normalize"] * (guidance.normalize != "default")
        if config.sample.heun.stage_omega != stage:
            unread.append("sample.heun.stage_omega")
        why = "the static schedule is constant"
        lines += [f"{key} does nothing: {why}" for key in unread]
    if _is_cfg(config):
        lines.append(
            f"guidance.rule is {guidance.rule!r} and its settings are those at which "
            "it is cfg"
        )
    if config.data.dir and config.data.name not in data.FILES:
        lines.append(f"data.dir is not read: {config.data.name} is generated")
    if config.noise.zero_terminal_snr and specs.grid(config).alpha[0] > 0:
        lines.append(
            f"noise.zero_terminal_snr does nothing in sampling: spacing "
            f"{config.sample.spacing!r} leaves out pure noise, use trailing or linspace"
        )
    if config.noise.zero_terminal_snr and config.train.loss_weight == "min_snr":
        lines.append(
            "train.loss_weight min_snr is 0 at pure noise, where sampling with "
            "noise.zero_terminal_snr begins: that step is not learnt; use uniform"
        )
    return lines


def _is_cfg(config) -> bool:
    """Whether the rule is another one, at the settings at which it is CFG."""
    entry = rules.RULES[config.guidance.rule]
    if entry.as_cfg is None:
        return False
    grid = specs.grid(config)
    omega = np.ones(len(grid.t) - 1)
    neutral, same = entry.as_cfg(grid, omega)
    chosen = entries.settings(config, "guidance.rule")
    held = [
        key in chosen and np.array_equal(chosen[key], neutral[key]) for key in neutral
    ]
    return bool(held) and all(held) and np.array_equal(same, omega)
