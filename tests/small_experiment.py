"""The files of a small experiment on two Gaussians of 8x8 pixels, for tests of figures.

The "network" is the exact score with a wavy error on the class axis, so its paths shake
as a trained network's do.
"""

import functools
import json
import math
import pathlib

import jax
import jax.numpy as jnp
import numpy as np

from configs import base
from progguide_jax.analytic import gaussians
from progguide_jax.diffusion import process, samplers
from progguide_jax.guidance import gradnorm, schedules
from progguide_jax.metrics import pca, trajectories

MODEL = gaussians.TwoGaussians(0.5, 0.25, (8, 8, 1))
NS = process.ddpm_linear(1000)
NAMES, SCALES = ("static", "gn"), (0.0, 100.0)
CHECKPOINT = {"step": 40, "digest": "0123456789abcdef"}


def network_eps(x_t, t, label):
    """The exact eps, without a label plus 0.02 sin(4 y + t / 9) on the class axis."""
    error = (
        0.02 * jnp.sin(4 * MODEL.class_axis(x_t) + t / 9) * (label == gaussians.NULL)
    )
    return MODEL.eps(NS)(x_t, t, label) + error.reshape(-1, 1, 1, 1) / math.sqrt(8)


def curve_arrays(num_classes: int = 2, per_bin: int = 8) -> dict[str, np.ndarray]:
    """Arrays of curve.npz: the exact g with the noise of `per_bin` examples a bin."""
    g = np.stack([(1 + 0.1 * c) * MODEL.gradnorm(NS) for c in range(num_classes)])
    error = 0.76 * g / math.sqrt(per_bin)
    noise = np.random.default_rng(0).standard_normal(g.shape)
    g = np.maximum(g + error * noise, 0)
    cumulative_error = gradnorm.cumulative_error(error)
    return dict(
        t=np.arange(NS.num_timesteps),
        g=g,
        standard_error=error,
        count=np.full(g.shape, per_bin),
        G=gradnorm.cumulative(g),
        G_standard_error=cumulative_error,
        gn=gradnorm.cumulative(g).mean(0),
        gn_standard_error=np.sqrt(np.square(cumulative_error).sum(0)) / num_classes,
    )


def closeness_arrays() -> dict[str, np.ndarray]:
    t = np.linspace(0, 999, 12).astype(int)
    cond, uncond = MODEL.bayes_mse(NS)
    signal = np.exp(-(((t - 400) / 250.0) ** 2)) + 1e-4
    return dict(
        t=t,
        bayes_cond=cond[t],
        bayes_uncond=uncond[t],
        excess_cond=np.full(len(t), 2e-5),
        excess_uncond=np.full(len(t), 5e-5),
        delta_error=np.full(len(t), 0.02),
        delta_signal=signal,
    )


def metric_rows(count: int = 60) -> list[dict]:
    step = 10 * (1 + np.arange(count))
    loss = 0.2 + 0.8 * np.exp(-step / 100) + 0.01 * np.sin(step)
    return [
        dict(step=int(s), loss=float(v), grad_norm=float(v) ** 2, images_per_second=9.0)
        for s, v in zip(step, loss, strict=True)
    ]


class Experiment:
    """cells, rows and the real data: what evaluation leaves, as arrays."""

    def __init__(self, names, scales, num_images=64, num_steps=30, num_paths=16):
        key = jax.random.key(0)
        self.labels = np.arange(num_images) % 2
        real_labels = np.arange(600) % 2
        real = np.asarray(MODEL.sample(key, real_labels))
        plane = pca.fit(real)
        shown = np.concatenate([np.flatnonzero(real_labels == c)[:4] for c in (0, 1)])
        self.data = dict(
            plane=pca.project(plane, real).astype(np.float32),
            labels=real_labels,
            images=real[shown],
            image_labels=real_labels[shown],
            explained=plane.variances / real.reshape(len(real), -1).var(0).sum(),
        )
        noise = samplers.initial_noise(
            samplers.image_keys(key, jnp.arange(num_images)), MODEL.shape
        )
        ts = samplers.timesteps(1000, num_steps)
        self.cells, self.rows = {}, {}
        for name in names:
            for scale in scales:
                shape = {"g": curve_arrays()["g"]} if name == "gn" else {}
                omega = schedules.make(name, scale, ts, 1000, **shape)
                arrays = dict(timesteps=ts, omega=omega, labels=self.labels)
                row = dict(schedule=name, scale=scale, num_images=num_images)
                for who, eps_fn in (
                    ("network", network_eps),
                    ("oracle", MODEL.eps(NS)),
                ):
                    _, path = samplers.sample(
                        eps_fn, noise, cond=self.labels, null_cond=gaussians.NULL,
                        noise_schedule=NS, timesteps=ts, omega=omega, trajectory=True,
                    )  # fmt: skip
                    planar = pca.project(plane, np.asarray(path))
                    axis = np.asarray(MODEL.class_axis(path))
                    arrays[f"{who}_plane"] = planar[-1]
                    arrays[f"{who}_paths"] = planar[:, :num_paths]
                    arrays[f"{who}_axis"] = axis
                    measures = trajectories.measure(planar, axis, 2 * self.labels - 1)
                    row[who] = trajectories.summary(measures)
                made_by = {"checkpoint": CHECKPOINT, "seed": 0}
                self.cells[name, scale] = arrays
                self.rows[name, scale] = row | {"made_by": made_by}

    def write(self, workdir: pathlib.Path) -> None:
        """Everything that a finished run leaves in workdir."""
        folder = workdir / "experiment"
        (folder / "cells").mkdir(parents=True)
        np.savez(folder / "data.npz", **self.data)
        np.savez(folder / "closeness.npz", **closeness_arrays())
        for (name, scale), arrays in self.cells.items():
            path = folder / "cells" / f"{name}_w{scale:g}"
            np.savez(path.with_suffix(path.suffix + ".npz"), **arrays)
            row = json.dumps(self.rows[name, scale])
            path.with_suffix(path.suffix + ".json").write_text(row)
        (workdir / "probe").mkdir()
        np.savez(workdir / "probe" / "curve.npz", **curve_arrays())
        made_by = {"checkpoint": CHECKPOINT}
        (workdir / "probe" / "curve.json").write_text(json.dumps(made_by))
        (folder / "closeness.json").write_text(json.dumps({"made_by": made_by}))
        lines = [json.dumps(row) + "\n" for row in metric_rows()]
        (workdir / "metrics.jsonl").write_text("".join(lines))
        environment = {
            "time": "2024-01-01T00:00:00+0000",
            "argv": ["eval/reproduce.py", "--config=fig2.py", "--workdir=<runs & co>"],
            "git": None,
            "python": "3.11.0",
            "platform": "Linux",
            "versions": {"jax": "0.10.2", "numpy": "2.0"},
            "devices": ["cpu", "cpu"],
            "processes": 1,
        }
        (workdir / "env.json").write_text(json.dumps(environment))


@functools.cache
def make() -> Experiment:
    """NAMES x SCALES, made once."""
    return Experiment(NAMES, SCALES, num_images=32, num_steps=20)


def config(names, scales):
    """A config whose experiment is names x scales on these two Gaussians."""
    c = base.get_config()
    c.data.name, c.data.image_size, c.data.channels = "two_gaussians", 8, 1
    c.data.num_classes = 2
    c.data.two_gaussians.mean, c.data.two_gaussians.std = MODEL.mean, MODEL.std
    c.model.name = "pix_film"
    c.experiment.schedules, c.experiment.scales = tuple(names), tuple(scales)
    return c
