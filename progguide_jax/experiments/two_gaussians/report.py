"""The report of two Gaussians: figures and a table of what is there.

Nothing is trained or sampled here, and the same files give the same report.
"""

from collections.abc import Mapping

import jax.numpy as jnp
import numpy as np

from progguide_jax.diffusion import process
from progguide_jax.experiments import document
from progguide_jax.experiments.two_gaussians import finished, run
from progguide_jax.metrics import trajectories
from progguide_jax.plots import plane, style, time_curves
from progguide_jax.runtime import writers
from progguide_jax.systems import build

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


def report(config, workdir: str, results: None = None) -> str:
    """Write WORKDIR/report.html, figures/*.png and FOLDER/table.csv and .md; the path
    of the first.

    Reads what the run, probing and training left; a ValueError names what is missing
    and the command that makes it.
    """
    found = finished.read(config, workdir)
    captions, table = _captions(config, found), _table(config, found.rows)
    drawn = {
        name: document.Picture(name, png, captions[name])
        for name, png in _draw(config, found).items()
    }
    sections = {
        "The data": [drawn["data"]],
        "Generated distributions": [drawn["distributions"]],
        "Trajectories": [drawn[k] for k in ("trajectories", "zoom", "class_axis")],
        "The weight ω(t)": [drawn["omega"]],
        "Gradient norms g(t) and G(t)": [drawn["gradnorm"]],
        "Trajectories in numbers": [table],
        "How close the network is to the exact answer": [
            *_closeness(found),
            drawn["closeness"],
        ],
        "Training loss": [drawn["loss"]],
        "Provenance": [_facts(config, found)],
    }
    made = document.Report(
        _TITLE,
        _introduction(config, found),
        [document.Section(*section) for section in sections.items()],
        [table],
        _flat(found.rows),
    )
    return document.write(made, workdir, tables=config.experiment.folder)


def _draw(config, found: finished.Finished) -> dict[str, bytes]:
    """PNG of every figure by name."""
    cells, data, scale = found.cells, found.data, _largest(config)
    first = cells[config.experiment.schedules[0], scale]
    omega = {name: c["omega"] for (name, s), c in cells.items() if s == scale}
    centre = abs(run.oracle(config).separation) / 2
    names = ("plane", "labels", "images", "image_labels", "explained")
    drawn = {
        "data": plane.data_pca(*(data[name] for name in names)),
        "distributions": plane.distributions(cells, data["plane"]),
        "trajectories": plane.trajectories(cells),
        "zoom": plane.zoom(cells, scale),
        "class_axis": plane.class_axis(cells, centre),
        "omega": time_curves.omega_curves(first["timesteps"], omega),
        "gradnorm": time_curves.gradnorm(found.curve),
        "closeness": time_curves.closeness(found.closeness),
        "loss": time_curves.loss_curve(found.metrics, _loss_floor(config)),
    }
    bar = writers.progress(drawn.items(), "figures")
    return {name: style.png(figure) for name, figure in bar}


def _largest(config) -> float:
    return float(max(config.experiment.scales))


def _loss_floor(config) -> float:
    """The training loss of the exact score, labels dropped as in training.

    That of x0 is (sigma / alpha)^2 the floor of eps, that of v 1 / alpha^2 of it.
    """
    ns, drop = build.noise_schedule(config), config.train.label_drop
    if ns.alpha_bar[-1] == 0:  # the limit, not 0 / 0
        ns = process.NoiseSchedule(ns.name, np.maximum(ns.alpha_bar, 1e-12))
    with_label, without = run.oracle(config).bayes_mse(ns)
    floor, kind = (1 - drop) * with_label + drop * without, config.train.predicts
    floor *= {"eps": 1, "x0": (ns.sigma / ns.alpha) ** 2, "v": ns.alpha**-2.0}[kind]
    level = process.Level(None, jnp.asarray(ns.alpha), jnp.asarray(ns.sigma))
    weight = np.asarray(build.loss_weight(config)(level, kind))
    return float(np.mean(weight * floor))


def _flat(rows) -> list[dict]:
    """Rows as table.csv has them: every measure of every cell."""
    table = []
    for row in rows.values():
        values = {name: row[name] for name in ("schedule", "scale", "num_images")}
        for measure in row["network"]:
            values |= {f"{who}_{measure}": row[who][measure] for who in _WHO}
        table.append(values)
    return table


def _introduction(config, found: finished.Finished) -> list[document.Block]:
    data, experiment, rows = config.data, config.experiment, found.rows
    model = run.oracle(config)
    scales = ", ".join(f"{s:g}" for s in experiment.scales)
    count = next(iter(rows.values()))["num_images"]
    what = (
        f"A network ({config.model.name}) was trained for {found.checkpoint['step']:,} "
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
    compared = [
        ("Paths that go too far and turn back (U-turn rate)", "u_turn_rate"),
        ("Paths that shake (sign flips on the class axis)", "sign_flips"),
        (f"Where they end on the class axis (real mean {middle})", "final_mean"),
    ]
    lines = [f"{words}: {_compare(config, rows, m)}." for words, m in compared]
    return [document.Text(what), document.Text(how), document.Items(lines)]


def _compare(config, rows, measure: str) -> str:
    """The measure at the largest scale, "static 0.98 | 1.00, linear ..."."""
    form, scale = _MEASURES[measure][1], _largest(config)
    pairs = []
    for name in config.experiment.schedules:
        network, exact = (rows[name, scale][who][measure] for who in _WHO)
        pair = f"{name} {network:{form}} | {exact:{form}}"
        pairs.append(pair.replace(" ", "\N{NO-BREAK SPACE}"))
    return ", ".join(pairs)


def _captions(config, found: finished.Finished) -> dict[str, str]:
    scale = _largest(config)
    means = ", ".join(
        f"{name} {np.mean(cell['omega']):.3g}"
        for (name, s), cell in found.cells.items()
        if s == scale
    )
    losses = [row for row in found.metrics if row.get("loss") is not None]
    final = f" It ends at {losses[-1]['loss']:.4g}." if losses else ""
    predicts = {"eps": "noise", "x0": "image", "v": "velocity v"}
    predicts = predicts[config.train.predicts]
    return {
        "data": "The plane is spanned by the two principal components of the real "
        "data. The first one is the class axis (brightness). Right: a few images of "
        "each class, all on one grey scale.",
        "distributions": "Final points of the network (colour) over the real data "
        "(grey); black: 1 and 2 standard deviations around the mean of the points that "
        "the exact score reaches from the same noise. One column per scale, one row "
        "per schedule.",
        "trajectories": "Whole paths from noise (grey dot) to an image (coloured dot) "
        "in the same plane, and the path of the exact score from the same noise "
        "(dashed).",
        "zoom": f"One path per class under every schedule at ω = {scale:g}. Left: "
        "network, right: exact score.",
        "class_axis": "The same paths on the class axis, against the timestep. A line "
        "that passes its end and comes back has made a U-turn.",
        "omega": f"Guidance weight of each schedule at ω = {scale:g}; mean over the "
        f"sampling steps: {means}.",
        "gradnorm": "Left: how strongly the error of the network depends on the label "
        "at each timestep, raw and smoothed (moving average, for display only). Right: "
        "its sum from T down to t, divided by its mean, beside the schedules it is "
        "compared with; gn uses it unsmoothed.",
        "closeness": "Left: the floor, which is the loss of the exact score, and what "
        "the network adds to it. Right: the difference that guidance multiplies.",
        "loss": f"Mean squared error of the predicted {predicts}; dashed: the exact "
        "score's "
        f"({_loss_floor(config):.4g}).{final}",
    }


def _closeness(found: finished.Finished) -> list[document.Text]:
    arrays = found.closeness
    excess = arrays["excess_cond"].mean(), arrays["excess_uncond"].mean()
    floor = arrays["bayes_cond"].mean(), arrays["bayes_uncond"].mean()
    rms = [np.sqrt(np.mean(arrays[f"delta_{k}"] ** 2)) for k in ("error", "signal")]
    return [
        document.Text(
            "Excess over the Bayes floor of the squared error per pixel, mean over "
            f"the {len(arrays['t'])} timesteps shown: {excess[0]:.2g} with the "
            f"label ({100 * excess[0] / floor[0]:.3g}% of the floor), "
            f"{excess[1]:.2g} without ({100 * excess[1] / floor[1]:.3g}%)."
        ),
        document.Text(
            "Error of ε_c − ε_u on the class axis, root mean square over these "
            f"timesteps: {rms[0]:.2g}, against {rms[1]:.2g} of the exact "
            f"difference ({100 * rms[0] / rms[1]:.3g}%). Guidance multiplies it by "
            "ω(t)."
        ),
    ]


def _table(config, rows: Mapping) -> document.Table:
    """A line for each scale and schedule; network beside exact score."""
    lines = []
    for scale in config.experiment.scales:
        for name in config.experiment.schedules:
            pairs = [_pair(rows[name, scale], measure) for measure in _MEASURES]
            entries = [entry for pair in pairs for entry in pair]
            lines.append(document.Line([f"{scale:g}", name], entries))
    note = (
        "Means over the trajectories. Path length and tortuosity (path length over the "
        "distance from start to end) in the plane; the rest on the class axis, seen "
        "from the label's own side: overshoot is the farthest point beyond the end, a "
        f"U-turn is a way back of more than {trajectories.U_TURN:.0%} of the distance "
        "from start to end, a sign flip is a change of direction. Shaded: network and "
        "exact score differ by more than 10% (darker: 50%) and by more than 0.05. "
        "table.csv holds every measure, unrounded."
    )
    groups = [(words, ("network", "exact")) for words, _ in _MEASURES.values()]
    return document.Table(["ω", "schedule"], groups, lines, note=note)


def _pair(row: Mapping, measure: str) -> tuple[document.Entry, document.Entry]:
    """Network and exact score, the first shaded where it differs."""
    network, exact = (float(row[who][measure]) for who in _WHO)
    form = _MEASURES[measure][1]
    apart = abs(network - exact)
    marks = tuple(
        mark
        for mark, share in (("off", 0.1), ("far", 0.5))
        if not apart <= max(share * abs(exact), 0.05)
    )
    return (
        document.Entry(f"{network:{form}}", marks),
        document.Entry(f"{exact:{form}}"),
    )


def _facts(config, found: finished.Finished) -> document.Facts:
    environment, checkpoint = found.environment, found.checkpoint
    facts = {
        "checkpoint": f"step {checkpoint['step']}, digest {checkpoint['digest']}",
        "seeds": f"training {config.seed}, probing {config.probe.seed}, sampling "
        f"{config.sample.seed}",
        "python": environment["python"],
        "commit": environment["git"] or "not a checkout",
        "devices": ", ".join(environment["devices"]),
        "started": environment["time"],
    }
    return document.provenance(
        config, environment["argv"], environment["versions"], facts
    )
