"""The accumulator of a probe, kept on the way so that the same command goes on."""

import json
import logging

import numpy as np
from etils import epath

from progguide_jax.engine import results
from progguide_jax.guidance import gradnorm
from progguide_jax.runtime import files, sharding


def path(folder: epath.Path) -> epath.Path:
    """Where it is, beside the curve to be."""
    return folder / "accumulator.npz"


def save(folder: epath.Path, acc: gradnorm.Accumulator, done: int, made_by: dict):
    """acc after `done` batches."""
    files.save_npz(
        path(folder),
        done=np.array(done),
        made_by=np.array(json.dumps(made_by, sort_keys=True)),
        **acc._asdict(),
    )


def resume(folder: epath.Path, made_by: dict, config):
    """(accumulator, finished batches); one of another checkpoint or config is left, and
    one that is damaged is set aside. All hosts must call this."""
    results.set_damaged_aside(path(folder))
    if sharding.agreed(path(folder).exists()):
        saved = files.load_npz(path(folder))
        if saved.pop("made_by").item() == json.dumps(made_by, sort_keys=True):
            first = int(saved.pop("done"))
            logging.info("resuming the probe after %d batches", first)
            return gradnorm.Accumulator(**saved), first
        what = "%s belongs to another checkpoint or config: not used"
        logging.info(what, path(folder))
    return gradnorm.empty(config.data.num_classes, config.noise.num_timesteps), 0
