"""Every schedule as a curve; every rule and every reference at work on two Gaussians.

The exact model is guided, so what is seen belongs to the method: nothing is trained.
"""

import logging
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from etils import epath

from progguide_jax.diffusion.system import System
from progguide_jax.engine import results, sampling
from progguide_jax.experiments import cells as cells_lib
from progguide_jax.experiments import overrides, settings
from progguide_jax.experiments.two_gaussians import run as two_gaussians
from progguide_jax.guidance import references, rules, schedules
from progguide_jax.metrics import trajectories
from progguide_jax.runtime import sharding, writers
from progguide_jax.systems import build, drawing, entries, specs

DEFAULTS = {"num_images": 256, "num_paths": 10, "settings": ()}
_COUNTS = ("num_images", "num_paths")


_OF_FILES = ("table",)  # curves of the user's


class Effect(NamedTuple):
    """axis [S+1,B]: trajectories on the class axis; across [S+1,B]: on one axis of the
    plane of all others; row: their measures."""

    axis: np.ndarray
    across: np.ndarray
    row: dict


class Gallery(NamedTuple):
    """timesteps [S]; curves {schedule: omega [S] or [K,S]}; effects {"rule NAME" or
    "reference NAME": Effect}, the first is plain cfg; left_out {name: why}."""

    timesteps: np.ndarray
    curves: dict[str, np.ndarray]
    effects: dict[str, Effect]
    left_out: dict[str, str]


def check(config) -> None:
    """ValueError if config is no gallery that can be drawn here."""
    settings.check(config)
    settings.check_no_cells(config)
    two_gaussians.oracle(config)
    for key in _COUNTS:
        value = config.experiment.gallery[key]
        settings.check_count(f"experiment.gallery.{key}", value)
    if not config.guidance.scale > 0:
        raise ValueError(
            f"guidance.scale is {config.guidance.scale}: a gallery shows guidance, use "
            "a scale above 0"
        )
    settings.check_cells(config, cells(config))


def cells(config) -> list[cells_lib.Cell]:
    """Plain cfg, every other rule against null, every other reference under cfg, all
    of them under the static schedule; and every schedule."""
    made = [("rule", name) for name in rules.names()]
    made += [("reference", n) for n in references.names() if _exact(n) and n != "null"]
    made += [("schedule", n) for n in schedules.names() if n not in _OF_FILES]
    held = _held(config)
    result = []
    for kind, name in made:
        cell = overrides.apply(config, held.get(name, {}))
        cell.guidance.schedule, cell.guidance.rule = "static", "cfg"
        cell.guidance.references = ("null",)
        if kind == "schedule":
            cell.guidance.schedule = name
        elif kind == "rule":
            cell.guidance.rule = name
            lowest, highest = rules.RULES[name].scales
            if highest <= 0:  # CFG++: weights from -1 to 0
                cell.guidance.scale = lowest / 2
        else:
            alone = references.REFERENCES[name].branch != "cond"
            cell.guidance.references = (name,) if alone else ("null", name)
        result.append(cells_lib.Cell(f"{kind} {name}", cell))
    return result


def _held(config) -> dict[str, dict]:
    """{entry: {key: value}} of experiment.gallery.settings."""
    held: dict[str, dict] = {}
    for text in config.experiment.gallery.settings:
        try:
            pairs = overrides.parse(text)
        except ValueError as error:
            raise ValueError(f"experiment.gallery.settings: {error}") from error
        for key, value in pairs.items():
            entry = key.split(".")[1] if key.startswith("guidance.") else ""
            if entry not in config.guidance or key.count(".") != 2:
                raise ValueError(
                    f"experiment.gallery.settings holds {key}: use keys such as "
                    "guidance.interval.t_max"
                )
            held.setdefault(entry, {})[key] = value
    return held


def _exact(reference: str) -> bool:
    """Whether an exact model can give it."""
    return not _lacks(reference)


def _lacks(reference: str) -> str:
    """What an exact model does not have for a reference."""
    entry = references.REFERENCES[reference]
    if entry.guide:
        return "a second network"
    return (
        "the inside of a network"
        if entry.inside
        else " and ".join(references.needs(reference))
    )


def unread(config) -> dict[str, str]:
    """What the cells set, and what belongs to networks, samples and scores."""
    rest = "train probe model checkpoint eval sample.num_images sample.name"
    rest += " sample.trace sample.double_batch sample.tilted experiment.schedules"
    rest += " experiment.scales"
    own = "guidance.schedule guidance.rule guidance.references"
    return dict.fromkeys([*rest.split(), *own.split()], "")


def needs_curve(config) -> bool:
    """Nothing is probed: the exact model's g(t) is known."""
    return False


def prepare(config, workdir: str) -> None:
    """Nothing is needed from outside."""


def run(config, workdir: str, prepared: None = None) -> Gallery:
    """All curves, and the trajectories of every cell, made or found below FOLDER."""
    mesh = sharding.mesh()
    ns = build.noise_schedule(config)
    model = two_gaussians.oracle(config)
    system = model.system(ns, config.train.predicts)
    view = _view(model)
    grid = specs.grid(config)
    curves, effects, left_out = _curves(config, model, grid), {}, {}
    guided = [c for c in cells(config) if not c.name.startswith("schedule")]
    for cell in writers.progress(guided, "methods"):
        try:
            effects[cell.name] = _effect(config, workdir, cell, system, mesh, view)
        except ValueError as error:
            if cell.name.startswith("rule"):
                raise
            left_out[cell.name] = str(error)
    for name in references.names():
        if not _exact(name):
            left_out[f"reference {name}"] = f"it needs {_lacks(name)}"
    left_out |= {f"schedule {name}": "it is a curve of your own" for name in _OF_FILES}
    for name, why in left_out.items():
        logging.info("gallery, without %s: %s", name, why)
    return Gallery(grid.t[:-1], curves, effects, left_out)


def _curves(config, model, grid) -> dict[str, np.ndarray]:
    """omega(t) of every schedule by the settings of its section, g(t) the exact one."""
    ns = build.noise_schedule(config)
    g = model.gradnorm(ns)
    curves = {}
    for cell in cells(config):
        kind, name = cell.name.split(" ", 1)
        if kind != "schedule":
            continue
        held = entries.settings(cell.config, "guidance.schedule")
        if name in ("gn", "gn_all"):
            held = {"g": g if name == "gn" else np.stack([g, g])}
        curves[name] = schedules.make(
            name,
            config.guidance.scale,
            grid,
            ns.num_timesteps,
            noise_schedule=ns,
            **held,
        )
    return curves


def _effect(config, workdir, cell, system: System, mesh, view) -> Effect:
    """The trajectories of one cell, and their measures."""
    section = config.experiment.gallery
    count = -(-section.num_images // mesh.size) * mesh.size
    steps = len(specs.grid(cell.config).t) - 1
    branch = references.REFERENCES[_against(cell.config)].branch
    omega = {branch: np.full(steps, cell.config.guidance.scale, np.float32)}
    spec = specs.of(cell.config, omega)
    labels = np.arange(count) % 2
    made_by = sampling.made_by(system, spec, "dark and bright by turns")
    made_by["num_images"] = section.num_images

    def make():
        axis, across = drawing.paths(system, spec, np.arange(count), labels, mesh, view)
        axis, across = (a[:, : section.num_images] for a in (axis, across))
        sign = 2 * labels[: section.num_images] - 1
        plane = np.stack([axis, across], -1)
        row = trajectories.summary(trajectories.measure(plane, axis, sign))
        row["final_std_across"] = float(np.std(across[-1]))
        return results.Result({"row": row}, {"axis": axis, "across": across})

    folder = epath.Path(workdir) / config.experiment.folder / "methods"
    path = folder / f"{cell.name.replace(' ', '_')}.json"
    found = results.find_or_make(path, made_by, make)
    return Effect(found.arrays["axis"], found.arrays["across"], found.record["row"])


def _against(config) -> str:
    """The reference that is guided against."""
    (name,) = (
        name
        for name in config.guidance.references
        if references.REFERENCES[name].branch != "cond"
    )
    return name


def _view(model):
    """x [B,H,W,C] -> (on the class axis, on an axis across it) [B] each; the second
    sums pixels with alternating signs."""
    sign = np.resize([1.0, -1.0], model.dim) / model.dim**0.5

    def view(x):
        return model.class_axis(x), x.reshape(len(x), -1) @ jnp.asarray(sign, x.dtype)

    return view
