"""Configs as earlier versions wrote them, in today's keys.

A workdir outlives the version that trained it: its config.json, and the sections of it
that results quote, are upgraded when they are read. Sections that are not there are not
made up, so a part of a config can be upgraded too.
"""

import inspect
import math
from typing import Any

from progguide_jax import registry
from progguide_jax.diffusion import tilted
from progguide_jax.guidance import entry_settings

# The first edition, whose sections were flat. old key: (new key, its default then).
# The new key's section is an entry (`unet`); where another one was chosen, the old key
# did nothing, and its default stands for it.
_MOVED: dict[str, tuple[str, Any]] = {
    "data.mean": ("data.two_gaussians.mean", 0.125),
    "data.std": ("data.two_gaussians.std", 0.25),
    "noise.beta_start": ("noise.scaled_linear.beta_start", 0.00085),
    "noise.beta_end": ("noise.scaled_linear.beta_end", 0.012),
    "model.base_channels": ("model.unet.base_channels", 128),
    "model.channel_mult": ("model.unet.channel_mult", [1, 2, 2, 2]),
    "model.num_res_blocks": ("model.unet.num_res_blocks", 2),
    "model.attention_resolutions": ("model.unet.attention_resolutions", [16]),
    "model.dropout": ("model.unet.dropout", 0.1),
    "model.dtype": ("model.unet.dtype", "float32"),
    "model.sigma_skip": ("model.unet.sigma_skip", False),
    "model.width": ("model.pix_film.width", 256),
    "model.depth": ("model.pix_film.depth", 4),
    "guidance.power": ("guidance.pcs.power", 4.0),
    "guidance.table": ("guidance.table.file", ""),
    "guidance.curve": ("guidance.gn.curve", ""),
    "sample.eta": ("sample.ddim.eta", 0.0),
    "sample.variance": ("sample.ddpm.variance", "small"),
    "experiment.num_images": ("experiment.two_gaussians.num_images", 512),
    "experiment.num_paths": ("experiment.two_gaussians.num_paths", 24),
    "experiment.num_steps": ("experiment.sweep.num_steps", []),
    "experiment.intervals": ("experiment.sweep.intervals", []),
    "experiment.axes": ("experiment.sweep.axes", ["is", "fd"]),
    "experiment.paper": ("experiment.sweep.paper", []),
    "experiment.features": ("experiment.calibration.features", ["inception"]),
    "experiment.noise": (
        "experiment.calibration.noise",
        [0.0, 1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0],
    ),
}
_WINDOWS = ("interval", "neg_perturb")
_ENDS = ("min", "max")
_CHURN = {"churn": 0.0, "churn_min": 0.0, "churn_max": math.inf, "churn_noise": 1.0}
# What a config without these keys did.
_ADDED: dict[str, Any] = {
    "data.digest": "",
    "noise.zero_terminal_snr": False,
    "model.unet.exit": 0,
    "model.encoder.base_channels": 64,
    "model.encoder.channel_mult": [1, 2, 2, 2],
    "model.encoder.num_res_blocks": 1,
    "model.encoder.attention_resolutions": [16, 8],
    "model.encoder.dropout": 0.0,
    "model.encoder.dtype": "float32",
    "train.exit_weight": 0.5,
    "train.predicts": "eps",
    "train.loss_weight": "uniform",
    "train.min_snr.gamma": 5.0,
    "train.noise": "gaussian",
    "train.fsdp": False,
    "train.accumulate": 1,
    "train.skip_nonfinite": 0,
    "train.student_t.degrees": 4.0,
    "checkpoint.step": 0,
    "probe.stride": 1,
    "guidance.references": ["null"],
    "guidance.rule": "cfg",
    "guidance.projection": "clip",
    "guidance.gn.carry": False,
    "guidance.autoguidance.workdir": "",
    "guidance.autoguidance.step": 0,
    "sample.trace": False,
    "sample.export_adm": False,
    "sample.tilted": "none",
    **{f"sample.{s}.{k}": v for s in ("euler", "heun") for k, v in _CHURN.items()},
    "sample.heun.stage_omega": "stage",
    "sample.dpmpp_2m.stochastic": False,
    "sample.dpmpp_2m.restart": False,
    "sample.unipc.restart": False,
    "sample.karras.rho": 7.0,
    **{f"sample.{g}.sigma_{e}": None for g in ("karras", "log_snr") for e in _ENDS},
    "experiment.cells": [],
    "experiment.sweep.num_intervals": 0,
    "experiment.compare.num_images": 100,
    "experiment.gallery.num_images": 256,
    "experiment.gallery.num_paths": 10,
    "experiment.gallery.settings": [],
}
# What they said of entries that they did not choose were defaults; these were others.
_DEFAULTS_THEN = {"guidance.feedback.tau": 0.0035, "guidance.feedback.delta": -0.081}


def _of_entries() -> dict[str, Any]:
    """The settings of all entries of guidance and tilted samplers: a config that lacks
    one did not choose the entry, or chose it when it had the default built in."""
    samplers = {
        f"sample.{name}.{key}": default
        for name, entry in tilted.TILTED.items()
        for key, default in registry.defaults(entry.make).items()
        if default is not inspect.Parameter.empty
    }
    return samplers | {
        f"guidance.{name}.{key}": setting.default
        for name, held in entry_settings.sections().items()
        for key, setting in held.items()
    }


def renamed(key: str) -> list[str]:
    """What a key of an earlier version is called now; [] if it never existed."""
    if key in ("guidance.t_min", "guidance.t_max"):
        return [f"guidance.{w}.{key.split('.')[1]}" for w in _WINDOWS]
    if key == "sample.clip_x0":
        return ["guidance.projection"]
    return [_MOVED[key][0]] if key in _MOVED else []


def upgrade(tree: dict[str, Any]) -> dict[str, Any]:
    """Sections of a config as JSON reads them, in today's keys; today's stay as are."""
    sections = {k: v for k, v in tree.items() if isinstance(v, dict)}
    chosen = _chosen(sections)
    windows = {w for w in _WINDOWS if w in chosen["guidance"]}
    result = {k: dict(v) if isinstance(v, dict) else v for k, v in tree.items()}
    for section, values in sections.items():
        for name, value in values.items():
            new = _MOVED.get(f"{section}.{name}")
            if new is None or isinstance(value, dict):
                continue
            del result[section][name]
            entry = new[0].split(".")[1]
            _put(result, new[0], value if entry in chosen[section] else new[1])
    clips = result.get("sample", {}).pop("clip_x0", None)
    if clips is not None:
        _put(result, "guidance.projection", "clip" if clips else "none")
    last = result.get("noise", {}).get("num_timesteps", math.inf) - 1
    for end, whole in (("t_min", 0), ("t_max", last)):
        value = result.get("guidance", {}).pop(end, None)
        for window in windows if value is not None and value != whole else ():
            _put(result, f"guidance.{window}.{end}", value)
    if "train" in result:  # a whole config
        result.setdefault("checkpoint", {})
    today = _of_entries() | _ADDED
    for key, then in _DEFAULTS_THEN.items():
        section, entry, name = key.split(".")
        held = result.get(section, {})
        rule = held.get("rule", "")
        both = rule, held.get(rule, {}).get("rule")  # and the one within it
        if held.get(entry, {}).get(name) == then and entry not in both:
            _put(result, key, today[key])
    for key, value in today.items():
        if key.split(".")[0] in result:
            _put(result, key, value, replace=False)
    return result


def _chosen(sections: dict[str, Any]) -> dict[str, set[str]]:
    """{section: the entries that it chooses}, of the first edition's sections."""
    keys = {"guidance": "schedule", "sample": "solver"}
    chosen = {
        section: {str(values.get(keys.get(section, "name"), ""))}
        for section, values in sections.items()
    }
    if chosen.get("experiment", {""}) != {""}:  # whose cells have schedules too
        experiment = sections["experiment"]
        chosen["guidance"] = chosen.get("guidance", set()) | {*experiment["schedules"]}
    guidance = chosen.setdefault("guidance", set())
    if "gn_all" in guidance:
        guidance.add("gn")
    return chosen


def _put(tree: dict[str, Any], key: str, value: Any, replace: bool = True) -> None:
    *sections, name = key.split(".")
    for section in sections:
        tree = tree.setdefault(section, {})
    if replace or name not in tree:
        tree[name] = value
