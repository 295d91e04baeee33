"""The report of an experiment: figures and a table of what is there, in one HTML file.

Nothing is trained or sampled here, and the same files give the same report.
"""

import csv
import html
import io
import json
import os
import shlex
from collections.abc import Mapping

import numpy as np
from etils import epath

from progguide_jax import comparison, state
from progguide_jax.metrics import trajectories
from progguide_jax.plots import curves, plane, style
from progguide_jax.runtime import config as config_lib
from progguide_jax.runtime import files, page, validation, writers

_TITLE = "Guidance on two Gaussians: a network beside the exact answer"
_WHO = ("network", "oracle")

# measure -> (heading, format); the rest of a row is in table.csv
_MEASURES = {
    "path_length": ("path length", ".1f"),
    "tortuosity": ("tortuosity", ".2f"),
    "overshoot": ("overshoot", ".2f"),
    "u_turn_rate": ("U-turn rate", ".2f"),
    "sign_flips": ("sign flips", ".1f"),
    "final_mean": ("final mean", ".2f"),
    "final_std": ("final std", ".3f"),
}


def report(config, workdir: str) -> str:
    """Write WORKDIR/report.html, figures/*.png and experiment/table.csv; the path of
    the first.

    Reads what comparison, probing and training left; a ValueError names what is missing
    and the command that makes it.
    """
    validation.validate(config)
    folder = epath.Path(workdir)
    cells, rows = _load_cells(config, folder)
    others = {
        name: files.load_npz(_existing(folder / path, workdir))
        for name, path in (
            ("data", "experiment/data.npz"),
            ("closeness", "experiment/closeness.npz"),
            ("curve", "probe/curve.npz"),
        )
    }
    metrics = _read_lines(_existing(folder / "metrics.jsonl", workdir))
    environment = json.loads(_existing(folder / "env.json", workdir).read_text())
    checkpoint = _one_checkpoint(folder, rows, workdir)
    figures = _draw(config, cells, others, metrics)
    for name, content in figures.items():
        files.write(folder / "figures" / f"{name}.png", content)
    files.write(folder / "experiment" / "table.csv", _csv(rows).encode())
    sections = [
        _introduction(config, rows, checkpoint),
        *_pictures(config, cells, figures),
        *_numbers(config, rows, others["closeness"], metrics, figures),
        _provenance(config, environment, checkpoint),
    ]
    files.write(folder / "report.html", page.page(_TITLE, "\n".join(sections)).encode())
    return os.fspath(folder / "report.html")


def _load_cells(config, folder):
    """({(schedule, scale): arrays}, {(schedule, scale): row}) of the whole grid."""
    cells, rows = {}, {}
    for cell in comparison.cells(config):
        path = folder / "experiment" / "cells" / comparison.cell_name(cell)
        record = path.with_name(path.name + ".json")
        key = cell.guidance.schedule, cell.guidance.scale
        rows[key] = json.loads(_existing(record, folder).read_text())
        arrays = _existing(path.with_name(path.name + ".npz"), folder)
        cells[key] = files.load_npz(arrays)
    return cells, rows


def _existing(path, workdir):
    if not path.exists():
        raise ValueError(f"{path} is missing: {_advice(workdir)}")
    return path


def _advice(workdir) -> str:
    return (
        "run python -m eval.reproduce --config=... "
        f"--workdir={shlex.quote(os.fspath(workdir))}"
    )


def _read_lines(path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines() if line]


def _one_checkpoint(folder, rows, workdir) -> dict:
    """{"step", "digest"}, after a check that everything was made with the same."""
    made_by = [row["made_by"] for row in rows.values()]
    closeness = _existing(folder / "experiment" / "closeness.json", workdir)
    made_by.append(json.loads(closeness.read_text())["made_by"])
    curve = _existing(folder / "probe" / "curve.json", workdir)
    made_by.append(json.loads(curve.read_text()))
    found = {(m["checkpoint"]["step"], m["checkpoint"]["digest"]) for m in made_by}
    if len(found) > 1:
        steps = ", ".join(f"step {step} ({digest})" for step, digest in sorted(found))
        raise ValueError(
            f"the results in {folder} come from several checkpoints, {steps}: "
            f"{_advice(workdir)}"
        )
    return made_by[0]["checkpoint"]


def _draw(config, cells, others, metrics) -> dict[str, bytes]:
    """PNG of every figure by name."""
    data, scale = others["data"], _largest(config)
    first = cells[config.experiment.schedules[0], scale]
    omega = {name: c["omega"] for (name, s), c in cells.items() if s == scale}
    centre = abs(comparison.oracle(config).separation) / 2
    names = ("plane", "labels", "images", "image_labels", "explained")
    drawn = {
        "data": plane.data_pca(*(data[name] for name in names)),
        "distributions": plane.distributions(cells, data["plane"]),
        "trajectories": plane.trajectories(cells),
        "zoom": plane.zoom(cells, scale),
        "class_axis": plane.class_axis(cells, centre),
        "omega": curves.omega_curves(first["timesteps"], omega),
        "gradnorm": curves.gradnorm(others["curve"]),
        "closeness": curves.closeness(others["closeness"]),
        "loss": curves.loss_curve(metrics, _loss_floor(config)),
    }
    bar = writers.progress(drawn.items(), "figures")
    return {name: style.png(figure) for name, figure in bar}


def _largest(config) -> float:
    return float(max(config.experiment.scales))


def _loss_floor(config) -> float:
    """The training loss of the exact score, labels dropped as in training."""
    with_label, without = comparison.oracle(config).bayes_mse(
        state.noise_schedule(config)
    )
    drop = config.train.label_drop
    return float(np.mean((1 - drop) * with_label + drop * without))


def _csv(rows: Mapping) -> str:
    """Every measure of every cell, unrounded."""
    first = next(iter(rows.values()))
    measures = [(who, name) for name in first["network"] for who in _WHO]
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    head = ["schedule", "scale", "num_images"]
    writer.writerow(head + [f"{who}_{name}" for who, name in measures])
    for row in rows.values():
        values = [row[who][name] for who, name in measures]
        writer.writerow([row[name] for name in head] + values)
    return buffer.getvalue()


def _introduction(config, rows, checkpoint) -> str:
    data, experiment = config.data, config.experiment
    model = comparison.oracle(config)
    scales = ", ".join(f"{s:g}" for s in experiment.scales)
    count = next(iter(rows.values()))["num_images"]
    what = (
        f"A network ({config.model.name}) was trained for {checkpoint['step']:,} "
        f"steps of {config.train.batch_size} images on {data.num_examples:,} images of "
        f"{'×'.join(map(str, model.shape))} from two Gaussians: pixels of mean "
        f"∓{model.mean:g} (dark, bright) and standard deviation "
        f"{model.std:g}, so that the classes lie {model.separation:g} apart on the "
        f"class axis. From the same {count:,} starting noises (seed "
        f"{config.sample.seed}), {config.sample.solver.upper()} in "
        f"{config.sample.num_steps} steps then sampled every schedule of the guidance "
        f"weight ({', '.join(experiment.schedules)}) at every guidance scale (ω = "
        f"{scales}; 0 is plain conditional sampling): once with the network and once "
        "with the exact score, which is known in closed form for these data."
    )
    how = (
        "What the exact score shows belongs to guidance itself; what only the network "
        f"shows comes from its error, which ω multiplies. At ω = {_largest(config):g}, "
        "network | exact:"
    )
    middle = f"{model.separation / 2:g}"
    listed = "".join(
        f"<li>{html.escape(words)}: {_compare(config, rows, measure)}.</li>"
        for words, measure in (
            ("Paths that go too far and turn back (U-turn rate)", "u_turn_rate"),
            ("Paths that shake (sign flips on the class axis)", "sign_flips"),
            (f"Where they end on the class axis (real mean {middle})", "final_mean"),
        )
    )
    return f"<h1>{_TITLE}</h1>{page.p(what)}{page.p(how)}<ul>{listed}</ul>"


def _compare(config, rows, measure: str) -> str:
    """HTML: the measure at the largest scale, "static 0.98 | 1.00, linear ..."."""
    form, scale = _MEASURES[measure][1], _largest(config)
    pairs = []
    for name in config.experiment.schedules:
        network, exact = (rows[name, scale][who][measure] for who in _WHO)
        pair = html.escape(f"{name} {network:{form}} | {exact:{form}}")
        pairs.append(f'<span class="pair">{pair}</span>')
    return ", ".join(pairs)


def _pictures(config, cells, figures) -> list[str]:
    """The sections that are looked at; an HTML string each."""
    scale = _largest(config)
    means = ", ".join(
        f"{name} {np.mean(cell['omega']):.3g}"
        for (name, s), cell in cells.items()
        if s == scale
    )
    basis = "The plane is spanned by the two principal components of the real data."
    return [
        page.section(
            "The data",
            _figure(
                figures["data"],
                f"{basis} The first one is the class axis (brightness). Right: a few "
                "images of each class, all on one grey scale.",
            ),
        ),
        page.section(
            "Generated distributions",
            _figure(
                figures["distributions"],
                "Final points of the network (colour) over the real data (grey); "
                "black: 1 and 2 standard deviations around the mean of the points that "
                "the exact score reaches from the same noise. One column per scale, "
                "one row per schedule.",
            ),
        ),
        page.section(
            "Trajectories",
            _figure(
                figures["trajectories"],
                "Whole paths from noise (grey dot) to an image (coloured dot) in the "
                "same plane, and the path of the exact score from the same noise "
                "(dashed).",
            )
            + _figure(
                figures["zoom"],
                f"One path per class under every schedule at ω = {scale:g}. Left: "
                "network, right: exact score.",
            )
            + _figure(
                figures["class_axis"],
                "The same paths on the class axis, against the timestep. A line that "
                "passes its end and comes back has made a U-turn.",
            ),
        ),
        page.section(
            "The weight ω(t)",
            _figure(
                figures["omega"],
                f"Guidance weight of each schedule at ω = {scale:g}; mean over the "
                f"sampling steps: {means}.",
            ),
        ),
        page.section(
            "Gradient norms g(t) and G(t)",
            _figure(
                figures["gradnorm"],
                "Left: how strongly the error of the network depends on the label at "
                "each timestep, raw and smoothed (moving average, for display only). "
                "Right: its sum from T down to t, divided by its mean, beside the "
                "schedules it is compared with; gn uses it unsmoothed.",
            ),
        ),
    ]


def _numbers(config, rows, closeness, metrics, figures) -> list[str]:
    """The sections that are read; an HTML string each."""
    excess = closeness["excess_cond"].mean(), closeness["excess_uncond"].mean()
    floor = closeness["bayes_cond"].mean(), closeness["bayes_uncond"].mean()
    rms = [np.sqrt(np.mean(closeness[f"delta_{k}"] ** 2)) for k in ("error", "signal")]
    losses = [row for row in metrics if row.get("loss") is not None]
    final = f" It ends at {losses[-1]['loss']:.4g}." if losses else ""
    return [
        page.section("Trajectories in numbers", _table(config, rows)),
        page.section(
            "How close the network is to the exact answer",
            page.p(
                "Excess over the Bayes floor of the squared error per pixel, mean over "
                f"the {len(closeness['t'])} timesteps shown: {excess[0]:.2g} with the "
                f"label ({100 * excess[0] / floor[0]:.3g}% of the floor), "
                f"{excess[1]:.2g} without ({100 * excess[1] / floor[1]:.3g}%)."
            )
            + page.p(
                "Error of ε_c − ε_u on the class axis, root mean square over these "
                f"timesteps: {rms[0]:.2g}, against {rms[1]:.2g} of the exact "
                f"difference ({100 * rms[0] / rms[1]:.3g}%). Guidance multiplies it by "
                "ω(t)."
            )
            + _figure(
                figures["closeness"],
                "Left: the floor, which is the loss of the exact score, and what the "
                "network adds to it. Right: the difference that guidance multiplies.",
            ),
        ),
        page.section(
            "Training loss",
            _figure(
                figures["loss"],
                "Mean squared error of the predicted noise; dashed: the exact score's "
                f"({_loss_floor(config):.4g}).{final}",
            ),
        ),
    ]


def _table(config, rows) -> str:
    heads = "".join(f'<th colspan="2">{words}</th>' for words, _ in _MEASURES.values())
    pairs = '<th class="n">network</th><th>exact</th>' * len(_MEASURES)
    bodies = []
    for scale in config.experiment.scales:
        lines = []
        for i, name in enumerate(config.experiment.schedules):
            span = len(config.experiment.schedules)
            group = f'<th rowspan="{span}">{scale:g}</th>' if i == 0 else ""
            values = "".join(_pair(rows[name, scale], m) for m in _MEASURES)
            lines.append(f"<tr>{group}<th>{html.escape(name)}</th>{values}</tr>")
        bodies.append(f"<tbody>{''.join(lines)}</tbody>")
    note = (
        "Means over the trajectories. Path length and tortuosity (path length over the "
        "distance from start to end) in the plane; the rest on the class axis, seen "
        "from the label's own side: overshoot is the farthest point beyond the end, a "
        f"U-turn is a way back of more than {trajectories.U_TURN:.0%} of the distance "
        "from start to end, a sign flip is a change of direction. Shaded: network and "
        "exact score differ by more than 10% (darker: 50%) and by more than 0.05. "
        "experiment/table.csv holds every measure, unrounded."
    )
    head = (
        f'<tr><th rowspan="2">ω</th><th rowspan="2">schedule</th>{heads}</tr>'
        f"<tr>{pairs}</tr>"
    )
    return page.table(head, "".join(bodies), note)


def _pair(row, measure: str) -> str:
    """Two cells, the network's shaded where it differs."""
    network, exact = (float(row[who][measure]) for who in _WHO)
    form = _MEASURES[measure][1]
    apart = abs(network - exact)
    shade = "".join(
        name
        for name, share in ((" off", 0.1), (" far", 0.5))
        if not apart <= max(share * abs(exact), 0.05)
    )
    return f'<td class="n{shade}">{network:{form}}</td><td>{exact:{form}}</td>'


def _provenance(config, environment, checkpoint) -> str:
    arguments = shlex.join(environment["argv"][1:])
    versions = environment["versions"]
    facts = {
        "command": f"python -m eval.reproduce {arguments}",
        "config": f"digest {config_lib.digest(config)}; every value in config.json",
        "checkpoint": f"step {checkpoint['step']}, digest {checkpoint['digest']}",
        "seeds": f"training {config.seed}, probing {config.probe.seed}, sampling "
        f"{config.sample.seed}",
        "versions": ", ".join(f"{name} {v}" for name, v in versions.items()),
        "python": environment["python"],
        "commit": environment["git"] or "not a checkout",
        "devices": ", ".join(environment["devices"]),
        "started": environment["time"],
    }
    return page.section("Provenance", page.definitions(facts))


def _figure(png: bytes, caption: str) -> str:
    return page.figure(png, caption, style.DPI)
