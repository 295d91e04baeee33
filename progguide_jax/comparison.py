"""Cells of an experiment on two Gaussians: the network's trajectories and the exact
ones, from the same noise with the same omega(t), and how far apart the two models are.

Every result is a file of its own below WORKDIR/experiment, and a finished one is kept.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from etils import epath

from progguide_jax import generation, state
from progguide_jax.analytic import gaussians
from progguide_jax.diffusion import process, samplers
from progguide_jax.metrics import pca, trajectories
from progguide_jax.runtime import config as config_lib
from progguide_jax.runtime import files, sharding, validation, writers

FITTED_IMAGES = 10_000  # real images that the plane is fitted to
PLANE_IMAGES = 2000  # real images drawn in the plane
SHOWN_IMAGES = 8  # and shown, of each class
CHUNK = 64  # trajectories in memory at a time
CLOSENESS_TIMESTEPS = 25
CLOSENESS_IMAGES = 2048  # at each of them


def compare(config, workdir: str) -> None:
    """Make what is missing of WORKDIR/experiment: data.npz, closeness.npz, cells/*.

    Needs a trained workdir, and a probed one for gn. A killed run costs one cell.
    """
    check(config)
    mesh = sharding.mesh()
    params, origin = state.load_ema(config, workdir, mesh)
    folder = epath.Path(workdir) / "experiment"
    model = oracle(config)
    _write_data(folder, config)
    arrays = files.load_npz(folder / "data.npz")
    plane = pca.Plane(arrays["mean"], arrays["directions"], arrays["variances"])
    module = state.network(config)
    _write_closeness(folder, config, module, params, origin, model)
    runs = _Runs(config, module, model, plane, mesh)
    records = [_cell_record(folder, workdir, cell, origin) for cell in cells(config)]
    todo = [record for record in records if not _is_made(record.path, record.made_by)]
    for record in writers.progress(todo, "cells"):
        _write_cell(record, runs, params)


def check(config) -> None:
    """ValueError if config is no experiment that can be run to its end here."""
    validation.validate(config)
    oracle(config)
    experiment = config.experiment
    if not experiment.schedules or not experiment.scales:
        raise ValueError("experiment.schedules and experiment.scales must not be empty")
    if "gn_all" in experiment.schedules:
        raise ValueError("experiment.schedules: gn_all has a curve for each class")
    for cell in cells(config):
        validation.validate(cell)
    names = [cell_name(cell) for cell in cells(config)]
    if len(set(names)) < len(names):
        raise ValueError(f"experiment: two cells have one name in {', '.join(names)}")
    if jax.process_count() > 1:
        raise ValueError("an experiment runs on one host: leave out config.distributed")


def cells(config) -> list:
    """One config for each schedule and scale of config.experiment."""
    result = []
    for schedule in config.experiment.schedules:
        for scale in config.experiment.scales:
            cell = config.copy_and_resolve_references()
            cell.guidance.schedule, cell.guidance.scale = schedule, float(scale)
            result.append(cell)
    return result


def cell_name(config) -> str:
    return f"{config.guidance.schedule}_w{config.guidance.scale:g}"


def oracle(config) -> gaussians.TwoGaussians:
    """The exact model of config.data."""
    if config.data.name != "two_gaussians":
        raise ValueError(
            f"data.name is {config.data.name!r}: only two_gaussians has an exact model"
        )
    return gaussians.TwoGaussians(
        config.data.mean, config.data.std, state.image_shape(config)
    )


class _Runs:
    """Trajectories of both models, projected where they are made: [S+1,B,H,W,C] would
    not fit in memory for a whole cell."""

    def __init__(self, config, module, model, plane, mesh):
        self.ns, self.mesh, self.shape = module.noise_schedule, mesh, model.shape
        self.config, self.model, self.plane = config, model, plane
        self.network = state.eps_of_label(module)
        repl, split = sharding.replicated(mesh), sharding.batch(mesh)
        self.exact = jax.jit(self._exact, in_shardings=(split, repl))
        self.learned = jax.jit(self._learned, in_shardings=(repl, split, repl))

    def _learned(self, params, index, omega):
        return self._path(jax.tree_util.Partial(self.network, params), index, omega)

    def _exact(self, index, omega):
        return self._path(self.model.eps(self.ns), index, omega)

    def _path(self, eps_fn, index, omega):
        """(plane [S+1,B,2], class axis [S+1,B]) of images `index` [B]."""
        config = self.config
        keys = samplers.image_keys(jax.random.key(config.sample.seed), index)
        start, steps = (samplers.fold_in(keys, i) for i in (0, 1))
        _, path = samplers.sample(
            eps_fn,
            samplers.initial_noise(start, self.shape),
            cond=index % 2,
            null_cond=gaussians.NULL,
            noise_schedule=self.ns,
            timesteps=generation.timesteps(config),
            omega=omega,
            solver=generation.make_solver(config),
            key=steps,
            clip_x0=1.0 if config.sample.clip_x0 else None,
            trajectory=True,
        )
        flat = path.reshape(*path.shape[:2], -1)
        directions = self.plane.directions.reshape(2, -1)
        centre = directions @ self.plane.mean.ravel()
        directions, centre = (
            jnp.asarray(a, flat.dtype) for a in (directions, centre[None, None])
        )
        return flat @ directions.T - centre, self.model.class_axis(path)

    def __call__(self, run, count, omega):
        """`run` over images 0 ... count-1, chunk by chunk."""
        size = -(-min(CHUNK, count) // self.mesh.size) * self.mesh.size
        planes, axes = [], []
        for first in range(0, count, size):
            index = np.arange(first, first + size, dtype=np.int32)
            plane, axis = run(sharding.put(self.mesh, index), omega)
            planes.append(sharding.to_host(plane))
            axes.append(sharding.to_host(axis))
        return (np.concatenate(a, axis=1)[:, :count] for a in (planes, axes))


def _write_cell(record: "_Record", runs: _Runs, params) -> None:
    config, omega = record.config, record.omega
    count, kept = config.experiment.num_images, config.experiment.num_paths
    labels = np.arange(count) % 2
    arrays = dict(timesteps=generation.timesteps(config), omega=omega, labels=labels)
    row = dict(
        schedule=config.guidance.schedule,
        scale=config.guidance.scale,
        num_images=count,
    )
    both = {
        "network": lambda index, omega: runs.learned(params, index, omega),
        "oracle": runs.exact,
    }
    for who, run in both.items():
        plane, axis = runs(run, count, omega)
        measures = trajectories.measure(plane, axis, 2 * labels - 1)
        row[who] = trajectories.summary(measures)
        arrays[f"{who}_plane"] = plane[-1].astype(np.float32)
        arrays[f"{who}_paths"] = plane[:, :kept].astype(np.float32)
        arrays[f"{who}_axis"] = axis.astype(np.float32)
    record.path.unlink(missing_ok=True)  # never a row beside another's arrays
    files.save_npz(record.path.with_suffix(".npz"), **arrays)
    about = {"config": config_lib.digest(config), "versions": config_lib.versions()}
    files.save_json(record.path, row | {"made_by": record.made_by | about})


class _Record(NamedTuple):
    """A cell: its config and weights, where its row is, and what makes it."""

    config: Any
    omega: np.ndarray
    path: epath.Path
    made_by: dict


def _cell_record(folder, workdir, config, origin: dict) -> _Record:
    omega = generation.make_omega(config, workdir, origin)
    if omega.ndim == 2:
        raise ValueError(
            f"{config.guidance.table} has a row for each class: an experiment draws "
            "one curve for all"
        )
    made_by = generation.made_by(config, origin, omega) | {
        "num_images": config.experiment.num_images,
        "num_paths": config.experiment.num_paths,
    }
    path = folder / "cells" / f"{cell_name(config)}.json"
    return _Record(config, omega, path, made_by)


def _is_made(path, made_by: dict) -> bool:
    """Whether `path` and its .npz are there and were made by the same."""
    if not path.exists() or not path.with_suffix(".npz").exists():
        return False
    there = files.load_json(path)["made_by"]
    return all(there.get(name) == value for name, value in made_by.items())


def _write_data(folder, config) -> None:
    """The real images in their own principal plane, and a few to look at."""
    made_by = {"data": config_lib.to_dict(config.data)}
    if _is_made(folder / "data.json", made_by):
        return
    dataset = state.load_data(config)
    plane = pca.fit(dataset.images[:FITTED_IMAGES])
    total = np.var(dataset.images.reshape(len(dataset.images), -1), axis=0).sum()
    some = slice(PLANE_IMAGES)
    shown = np.concatenate(
        [np.flatnonzero(dataset.labels == c)[:SHOWN_IMAGES] for c in (0, 1)]
    )
    files.save_npz(
        folder / "data.npz",
        plane=pca.project(plane, dataset.images[some]).astype(np.float32),
        labels=dataset.labels[some],
        images=dataset.images[shown],
        image_labels=dataset.labels[shown],
        explained=plane.variances / total,
        **plane._asdict(),
    )
    files.save_json(folder / "data.json", {"made_by": made_by})


def _write_closeness(folder, config, module, params, origin, model) -> None:
    """Excess loss over the Bayes floor, and the error of eps_c - eps_u, at some t.

    The excess of a prediction over the floor E (eps - eps*)^2 is E (eps_hat - eps*)^2,
    since eps* is the conditional mean: measured so, it has no noise of the floor in it.
    """
    made_by = {"checkpoint": origin, "seed": config.seed} | {
        name: config_lib.to_dict(config[name]) for name in ("noise", "data")
    }
    if _is_made(folder / "closeness.json", made_by):
        return
    ns = module.noise_schedule
    t_all = np.linspace(0, ns.num_timesteps - 1, CLOSENESS_TIMESTEPS).astype(np.int32)
    learned, exact = state.eps_of_label(module), model.eps(ns)

    @jax.jit
    def at_t(params, t):
        key = jax.random.fold_in(jax.random.key(config.seed), 3)
        key, eps_key = jax.random.split(jax.random.fold_in(key, t))
        label = jnp.arange(CLOSENESS_IMAGES) % 2
        x0 = model.sample(key, label)
        times = jnp.full(label.shape, t)
        x_t = process.add_noise(ns, x0, times, jax.random.normal(eps_key, x0.shape))
        null = jnp.full(label.shape, gaussians.NULL)
        hat = [learned(params, x_t, times, c) for c in (label, null)]
        star = [exact(x_t, times, c) for c in (label, null)]
        excess = [jnp.mean(jnp.square(h - s)) for h, s in zip(hat, star, strict=True)]
        delta, delta_star = (model.class_axis(c - u) for c, u in (hat, star))
        error = jnp.sqrt(jnp.mean(jnp.square(delta - delta_star)))
        signal = jnp.sqrt(jnp.mean(jnp.square(delta_star)))
        return jnp.stack([*excess, error, signal])

    t_bar = writers.progress(t_all, "closeness")
    rows = np.array([np.asarray(at_t(params, t)) for t in t_bar], np.float64)
    bayes_cond, bayes_uncond = model.bayes_mse(ns)
    files.save_npz(
        folder / "closeness.npz",
        t=t_all,
        bayes_cond=bayes_cond[t_all],
        bayes_uncond=bayes_uncond[t_all],
        excess_cond=rows[:, 0],
        excess_uncond=rows[:, 1],
        delta_error=rows[:, 2],
        delta_signal=rows[:, 3],
    )
    files.save_json(folder / "closeness.json", {"made_by": made_by})
