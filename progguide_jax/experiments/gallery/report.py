"""The gallery as one page: curves, trajectories, numbers."""

import os
import sys

import jax
import numpy as np
from etils import epath

from progguide_jax import registry
from progguide_jax.experiments import document
from progguide_jax.experiments.gallery.run import Gallery
from progguide_jax.experiments.two_gaussians import run as two_gaussians
from progguide_jax.guidance import references, rules
from progguide_jax.plots import small_multiples, style
from progguide_jax.runtime import config as config_lib

_TITLE = "The gallery: every schedule, every rule and reference on two Gaussians"
# measure -> (heading, format)
_MEASURES = {
    "final_mean": ("ends at", ".2f"),
    "final_std": ("spread", ".3f"),
    "final_std_across": ("spread across", ".3f"),
    "overshoot": ("overshoot", ".2f"),
    "u_turn_rate": ("U-turns", ".2f"),
    "tortuosity": ("tortuosity", ".2f"),
    "sign_flips": ("sign flips", ".1f"),
}


def report(config, workdir: str, gallery: Gallery) -> str:
    """Write WORKDIR/FOLDER/{report.html, table.md, table.csv, figures/}; the path of
    the first."""
    folder = epath.Path(workdir) / config.experiment.folder
    if jax.process_index() != 0:
        return os.fspath(folder / "report.html")
    return document.write(_report(config, gallery), folder)


def _report(config, gallery: Gallery) -> document.Report:
    table, total = _table(gallery), config.noise.num_timesteps
    drawn = small_multiples.curves(gallery.timesteps, gallery.curves, total)
    curves = document.Picture(
        "schedules",
        style.png(drawn),
        f"ω(t) of every schedule at guidance scale {config.guidance.scale:g}; gn by "
        "the exact g(t). Noise at the left.",
    )
    sections = [document.Section("Schedules", [curves])]
    for kind in ("rule", "reference"):
        sections.append(
            document.Section(f"{kind.title()}s", [_paths(config, gallery, kind)])
        )
    sections.append(document.Section("In numbers", [table]))
    out = [f"{name}: {why}" for name, why in gallery.left_out.items()]
    if out:
        sections.append(document.Section("Not here", [document.Items(out)]))
    versions = config_lib.versions()
    sections.append(
        document.Section(
            "Provenance", [document.provenance(config, sys.argv, versions, {})]
        )
    )
    rows = [{"method": name} | e.row for name, e in gallery.effects.items()]
    return document.Report(
        _TITLE, [_introduction(config, gallery)], sections, [table], rows
    )


def _introduction(config, gallery: Gallery) -> document.Text:
    model = two_gaussians.oracle(config)
    return document.Text(
        f"Two Gaussians, {model.separation:g} apart on the class axis, each of spread "
        f"{model.std:g}, with the exact score: what is seen belongs to the method. "
        f"{config.experiment.gallery.num_images} trajectories of "
        f"{config.sample.solver.upper()} in {len(gallery.timesteps)} steps at a "
        f"constant ω of {config.guidance.scale:g}, from the same noise. Formulas and "
        "sources are in docs/zoo.md."
    )


def _paths(config, gallery: Gallery, kind: str) -> document.Picture:
    model = two_gaussians.oracle(config)
    plain = next(iter(gallery.effects))
    chosen = {
        name.split(" ", 1)[1]: effect.axis
        for name, effect in gallery.effects.items()
        if name.startswith(kind) or name == plain
    }
    times = np.append(gallery.timesteps, 0)
    drawn = small_multiples.paths(
        times,
        chosen,
        model.separation / 2,
        range(config.experiment.gallery.num_paths),
        config.noise.num_timesteps,
    )
    return document.Picture(
        f"{kind}s",
        style.png(drawn),
        f"Trajectories on the class axis under every {kind}, from the same noise; "
        "grey: plain CFG; dashed: the means of the classes.",
    )


def _table(gallery: Gallery) -> document.Table:
    """A line for each method."""
    lines = []
    for name, effect in gallery.effects.items():
        kind, method = name.split(" ", 1)
        entry = (rules.RULES if kind == "rule" else references.REFERENCES)[method]
        title = registry.card(entry.make)["Title"]
        values = [effect.row[measure] for measure in _MEASURES]
        forms = [form for _, form in _MEASURES.values()]
        pairs = zip(values, forms, strict=True)
        numbers = [document.Entry(f"{value:{form}}") for value, form in pairs]
        lines.append(document.Line([kind, method, title], numbers))
    note = (
        "Where trajectories end on the class axis (seen from the label's side) and "
        "their spread there; spread across: on an axis on which guidance has nothing "
        "to say. A U-turn is a way back of more than "
        "10% of the distance from start to end."
    )
    groups = [(words, [""]) for words, _ in _MEASURES.values()]
    return document.Table(["", "method", "source"], groups, lines, note=note)
