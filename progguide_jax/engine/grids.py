"""Grids of samples that a training draws on its way: WORKDIR/grids."""

import logging

import jax
import numpy as np
from etils import epath

from progguide_jax.runtime import sharding, writers
from progguide_jax.systems import (
    classifier_checks,
    drawing,
    entries,
    pictures,
    specs,
    trained,
)


def due(config, step: int) -> bool:
    """Whether config asks for a grid after this many updates."""
    every = config.train.sample_every
    if _only_guides(config):
        return False
    last = step == config.train.num_steps
    return step > 0 and every > 0 and (step % every == 0 or last)


def _only_guides(config) -> bool:
    """Whether the network makes no images, and is there to guide another one."""
    return config.train.noise != "gaussian" or classifier_checks.classifies(config)


def lacking(config, workdir: str, step: int) -> bool:
    """Whether the grid of this step is due and not drawn. All hosts must call this."""
    return due(config, step) and not sharding.agreed(_path(workdir, step).exists())


def drawer(config, workdir: str, mesh, writer: writers.MetricWriter):
    """(step, ema_params) -> a PNG of the same seeds and labels at every step; None if
    config asks for no grids."""
    if not config.train.sample_every or _only_guides(config):
        return None
    picture = _sampler(config, mesh)

    def draw(step, ema_params):
        grid = picture(step, ema_params)
        if jax.process_index() == 0:
            writers.save_png(_path(workdir, step), grid)
        writer.image(step, "samples", grid)

    return draw


def _path(workdir: str, step: int) -> epath.Path:
    return epath.Path(workdir) / "grids" / f"step_{step:08d}.png"


def _sampler(config, mesh):
    """(step, params) -> samples side by side, uint8 [H,W,3]: ten of each class, at most
    100, by static guidance."""
    classes, steps = config.data.num_classes, config.train.sample_steps
    count = -(-min(10 * classes, 100) // mesh.size) * mesh.size
    index, labels = np.arange(count), np.arange(count) % classes
    plain = config.copy_and_resolve_references()
    plain.guidance.references, plain.guidance.rule = ("null",), "cfg"
    plain.sample.tilted = entries.NONE
    omega = {"null": np.full(steps, config.guidance.scale, np.float32)}
    spec = specs.of(plain, omega, num_steps=steps)

    def picture(step, params):
        what = "drawing the grid of step %d: %d images of %d steps"
        logging.info(what, step, count, steps)
        system = trained.of(config, params, {})
        images = drawing.draw(system, spec, index, labels, mesh)
        return pictures.tile(pictures.to_uint8(images), columns=10)

    return picture
