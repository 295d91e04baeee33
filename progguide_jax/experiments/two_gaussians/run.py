"""Cells of an experiment on two Gaussians: the network's trajectories and the exact
ones, from the same noise with the same omega(t), and how far apart the two models are.

Every result is a file of its own below WORKDIR/FOLDER, and a finished one is kept.
"""

import jax
import jax.numpy as jnp
import numpy as np
from etils import epath

from progguide_jax.analytic import gaussians
from progguide_jax.diffusion import process
from progguide_jax.engine import results, sampling, weights
from progguide_jax.experiments import cells as cells_lib
from progguide_jax.experiments import settings
from progguide_jax.metrics import pca, trajectories
from progguide_jax.runtime import config as config_lib
from progguide_jax.runtime import sharding, writers
from progguide_jax.systems import build, drawing, entries, specs, trained

DEFAULTS = {"num_images": 512, "num_paths": 24}

FITTED_IMAGES = 10_000  # real images that the plane is fitted to
PLANE_IMAGES = 2000  # real images drawn in the plane
SHOWN_IMAGES = 8  # and shown, of each class
CHUNK = 128  # trajectories in memory at a time
CLOSENESS_TIMESTEPS = 25
CLOSENESS_IMAGES = 2048  # at each of them, at most four for each trajectory


def check(config) -> None:
    """ValueError if config is no experiment that can be run to its end here."""
    settings.check(config)
    settings.check_no_cells(config)
    settings.check_grid(config)
    oracle(config)
    section = config.experiment.two_gaussians
    for key in DEFAULTS:
        settings.check_count(f"experiment.two_gaussians.{key}", section[key])
    if section.num_paths > section.num_images:
        raise ValueError(
            f"experiment.two_gaussians.num_paths {section.num_paths} is more than "
            f"num_images {section.num_images}: use fewer"
        )
    if "gn_all" in config.experiment.schedules:
        raise ValueError("experiment.schedules: gn_all has a curve for each class")
    settings.check_cells(config, cells(config))
    references = tuple(config.guidance.references)
    if references != ("null",):
        raise ValueError(
            f"guidance.references is {references}: the exact model, which the network "
            "is compared with, has null only: leave it out"
        )


def cells(config) -> list[cells_lib.Cell]:
    """Every schedule at every scale."""
    return cells_lib.product(config)


def unread(config) -> dict[str, str]:
    """What the cells set themselves, and what belongs to samples and their scores."""
    found = {
        "guidance.schedule": "experiment.schedules",
        "guidance.scale": "experiment.scales",
        "sample.num_images": "experiment.two_gaussians.num_images",
    }
    return found | dict.fromkeys(
        "sample.name sample.trace sample.double_batch sample.tilted eval".split(), ""
    )


def needs_curve(config) -> bool:
    """Always: the report draws it."""
    return True


def prepare(config, workdir: str) -> None:
    """Nothing is needed from outside; ValueError on several hosts."""
    if jax.process_count() > 1:
        raise ValueError("an experiment runs on one host: leave out config.distributed")


def run(config, workdir: str, prepared: None = None) -> None:
    """Make what is missing of WORKDIR/FOLDER: data, closeness and cells/*, each a .json
    and a .npz; FOLDER is experiment.folder.

    Needs a trained workdir, and a probed one for gn. A killed run costs one cell.
    """
    check(config)
    mesh = sharding.mesh()
    model = oracle(config)
    systems = {
        "network": trained.load(config, workdir, mesh),
        "oracle": model.system(build.noise_schedule(config), config.train.predicts),
    }
    origin = systems["network"].origin
    build.check_finished(config, workdir, origin["checkpoint"]["step"])
    folder = epath.Path(workdir) / config.experiment.folder
    data = _data(folder, config).arrays
    plane = pca.Plane(data["mean"], data["directions"], data["variances"])
    _closeness(folder, config, systems, model, mesh)
    draw = _drawer(mesh, _view(model, plane))
    every = cells(config)
    made = [weights.make(c.config, workdir, origin["checkpoint"]) for c in every]
    for cell, omega in zip(every, made, strict=True):
        check_one_curve(cell.config, omega)
    pairs = list(zip(every, made, strict=True))
    for cell, omega in writers.progress(pairs, "cells"):
        _made_cell(folder, cell, specs.of(cell.config, omega), systems, draw)


def check_one_curve(config, omega: dict[str, np.ndarray]) -> None:
    """ValueError at weights with a curve for each class."""
    if any(values.ndim == 2 for values in omega.values()):
        raise ValueError(
            f"{config.guidance.table.file} has a row for each class: an experiment "
            "draws one curve for all"
        )


def oracle(config) -> gaussians.TwoGaussians:
    """The exact model of config.data."""
    if config.data.name != "two_gaussians":
        raise ValueError(
            f"data.name is {config.data.name!r}: only two_gaussians has an exact model"
        )
    settings = entries.settings(config, "data.name")
    return gaussians.TwoGaussians(**settings, shape=build.image_shape(config))


def _view(model: gaussians.TwoGaussians, plane: pca.Plane):
    """x [B,H,W,C] -> (in the plane [B,2], on the class axis [B])."""
    directions = plane.directions.reshape(2, -1)
    centre = (directions @ plane.mean.ravel())[None]

    def view(x):
        flat = x.reshape(len(x), -1)
        d, c = (jnp.asarray(a, flat.dtype) for a in (directions, centre))
        return flat @ d.T - c, model.class_axis(x)

    return view


def _drawer(mesh, view):
    """(who, system, spec, count) -> what `view` shows of images 0 ... count-1, dark and
    bright by turns. omega = 0 is the same under every schedule: it is drawn once."""
    unguided = {}

    def draw(who, system, spec, count):
        guided = any(omega.any() for omega in spec.omega.values())
        if not guided and who in unguided:
            return unguided[who]
        size = -(-min(CHUNK, count) // mesh.size) * mesh.size
        planes, axes = [], []
        for first in range(0, count, size):
            index = np.arange(first, first + size)
            plane, axis = drawing.paths(system, spec, index, index % 2, mesh, view)
            planes.append(plane)
            axes.append(axis)
        made = [np.concatenate(a, axis=1)[:, :count] for a in (planes, axes)]
        if not guided:
            unguided[who] = made
        return made

    return draw


def _made_cell(folder, cell, spec, systems, draw) -> results.Result:
    """What the two models do in one cell: FOLDER/cells/NAME.json and .npz."""
    config, section = cell.config, cell.config.experiment.two_gaussians
    count, kept = section.num_images, section.num_paths
    made_by = sampling.made_by(systems["network"], spec, "dark and bright by turns")
    made_by |= {"num_images": count, "num_paths": kept}
    (omega,) = spec.omega.values()

    def make():
        labels = np.arange(count) % 2
        arrays = dict(timesteps=spec.levels.t[:-1], omega=omega, labels=labels)
        row = dict(
            schedule=config.guidance.schedule,
            scale=config.guidance.scale,
            num_images=count,
        )
        for who, system in systems.items():
            plane, axis = draw(who, system, spec, count)
            measures = trajectories.measure(plane, axis, 2 * labels - 1)
            row[who] = trajectories.summary(measures)
            arrays[f"{who}_plane"] = plane[-1].astype(np.float32)
            arrays[f"{who}_paths"] = plane[:, :kept].astype(np.float32)
            arrays[f"{who}_axis"] = axis.astype(np.float32)
        about = {"config": config_lib.digest(config), "versions": config_lib.versions()}
        return results.Result(row | {"made_by": about}, arrays)

    path = folder / "cells" / f"{cell.name}.json"
    return results.find_or_make(path, made_by, make)


def _data(folder, config) -> results.Result:
    """The real images in their own principal plane, and a few to look at."""

    def make():
        dataset = build.load_data(config)
        plane = pca.fit(dataset.images[:FITTED_IMAGES])
        total = np.var(dataset.images.reshape(len(dataset.images), -1), axis=0).sum()
        some = slice(PLANE_IMAGES)
        shown = np.concatenate(
            [np.flatnonzero(dataset.labels == c)[:SHOWN_IMAGES] for c in (0, 1)]
        )
        arrays = dict(
            plane=pca.project(plane, dataset.images[some]).astype(np.float32),
            labels=dataset.labels[some],
            images=dataset.images[shown],
            image_labels=dataset.labels[shown],
            explained=plane.variances / total,
        )
        return results.Result({}, arrays | plane._asdict())

    made_by = config_lib.as_json({"data": build.data_about(config)})
    return results.find_or_make(folder / "data.json", made_by, make)


def _closeness(folder, config, systems, model, mesh) -> results.Result:
    """Excess loss over the Bayes floor, and the error of eps_c - eps_u, at some t.

    The excess of a prediction over the floor E (eps - eps*)^2 is E (eps_hat - eps*)^2,
    since eps* is the conditional mean: measured so, it has no noise of the floor in it.
    """
    ns = build.noise_schedule(config)
    count = min(CLOSENESS_IMAGES, 4 * config.experiment.two_gaussians.num_images)
    count = -(-count // mesh.size) * mesh.size
    label = sharding.put(mesh, np.arange(count, dtype=np.int32) % 2)
    branches = {
        who: [system.branch(c) for c in (label, jnp.full_like(label, gaussians.NULL))]
        for who, system in systems.items()
    }

    @jax.jit
    def at_t(branches, t):
        key = jax.random.fold_in(jax.random.key(config.seed), 3)
        key, eps_key = jax.random.split(jax.random.fold_in(key, t))
        x0 = model.sample(key, label)
        level = ns.level(jnp.full(label.shape, t))
        x_t = process.diffuse(level, x0, jax.random.normal(eps_key, x0.shape))
        hat, star = (
            [
                process.convert(level, x_t, b.fn(x_t, level, b.cond), b.predicts, "eps")
                for b in branches[who]
            ]
            for who in ("network", "oracle")
        )
        excess = [jnp.mean(jnp.square(h - s)) for h, s in zip(hat, star, strict=True)]
        delta, delta_star = (model.class_axis(c - u) for c, u in (hat, star))
        error = jnp.sqrt(jnp.mean(jnp.square(delta - delta_star)))
        signal = jnp.sqrt(jnp.mean(jnp.square(delta_star)))
        return jnp.stack([*excess, error, signal])

    def make():
        t_all = np.linspace(0, ns.num_timesteps - 1, CLOSENESS_TIMESTEPS)
        t_all = t_all.astype(np.int32)
        bar = writers.progress(t_all, "closeness")
        rows = np.array([np.asarray(at_t(branches, t)) for t in bar], np.float64)
        bayes_cond, bayes_uncond = model.bayes_mse(ns)
        arrays = dict(
            t=t_all,
            bayes_cond=bayes_cond[t_all],
            bayes_uncond=bayes_uncond[t_all],
            excess_cond=rows[:, 0],
            excess_uncond=rows[:, 1],
            delta_error=rows[:, 2],
            delta_signal=rows[:, 3],
        )
        return results.Result({}, arrays)

    made_by = config_lib.as_json(
        {name: system.origin for name, system in systems.items()}
        | {"seed": config.seed, "num_images": count}
    )
    return results.find_or_make(folder / "closeness.json", made_by, make)
