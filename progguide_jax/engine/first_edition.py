"""Samples of the first edition of this program, under today's records and names.

The first edition wrote what made its samples at the top of samples.json, in keys of its
own. Today the same settings draw the same images. So samples of it that are those now
asked for are taken over, and nothing is drawn again.
"""

import json
import logging
from typing import Any

import jax
import numpy as np
from etils import epath

from progguide_jax.diffusion import levels
from progguide_jax.engine import label_order, parts
from progguide_jax.runtime import config as config_lib
from progguide_jax.runtime import files, sharding, upgrades
from progguide_jax.systems import build, specs, trained

# sections of a config in samples.json; of the last one only omega matters
_SECTIONS = ("data", "noise", "model", "sample")
_CONFIG = (*_SECTIONS, "guidance")


def is_old(record: Any) -> bool:
    """Whether a samples.json is one of the first edition."""
    return isinstance(record, dict) and "made_by" not in record


def made_by(record: dict[str, Any], spacing: dict[str, Any]) -> dict[str, Any]:
    """What made these samples, as today's records say it.

    record: a samples.json of the first edition. spacing: what today's record says of
    the grid's spacing, since the first edition wrote down its timesteps only.
    ValueError if the record does not say enough.
    """
    try:
        # Without guidance.rule and the like, an upgraded config has what was done then.
        sections = {name: record[name] for name in _SECTIONS} | {"train": {}}
        config = config_lib.from_json(json.dumps(sections))
        config.data.dir, config.data.flip = "", False  # no image depends on them
        config.sample.spacing = spacing["name"]
        ns = build.noise_schedule(config)
        grid = levels.from_timesteps(ns, np.array(record["timesteps"]))
        about = specs.about(config, grid, {"null": np.array(record["omega"])})
        system = trained.of(config, {}, record["checkpoint"])
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise ValueError(f"the record does not say what made them ({error})") from error
    labels = label_order.about(config.data.num_classes, config.sample.seed)
    about["spacing"] = spacing
    made = {"system": system.origin, "spec": about, "labels": labels}
    return config_lib.as_json(made)


def same(record: Any, asked: dict[str, Any]) -> bool:
    """Whether `record` is one of the first edition whose samples are those of the
    made_by `asked`."""
    try:
        return is_old(record) and made_by(record, asked["spec"]["spacing"]) == asked
    except (KeyError, TypeError, ValueError):
        return False


def take_over(folder: epath.Path, asked: dict[str, Any], search: bool) -> None:
    """Make samples of the first edition in `folder` today's, if there are any.

    asked: the made_by that the samples must have; ValueError if those in the folder
    have another. search: whether the folder, where it is not there, may be one of the
    first edition renamed, whose name differed in its digest. All hosts must call this.
    """
    path = folder / "samples.json"
    there = sharding.agreed(path.exists())
    try:
        record = files.load_json(path) if there else None
    except files.Damaged:  # `parts.collect` sets it aside
        record = None
    if is_old(record):
        parts.check(path, _readable(path, record, asked), asked)
    sharding.barrier(f"old samples of {folder.name}")
    if jax.process_index() == 0:
        if search and not folder.exists():
            record = _renamed(folder, asked)
        if is_old(record):
            sections = {k: v for k, v in record.items() if k in _CONFIG}
            about = {"versions": record.get("versions", {}), "made_by": asked}
            config = {"config": upgrades.upgrade(sections)}
            files.save_json(path, config | about)
    sharding.barrier(f"samples of {folder.name}")


def _readable(path: epath.Path, record: dict, asked: dict) -> dict[str, Any]:
    try:
        return made_by(record, asked["spec"]["spacing"])
    except ValueError as error:
        raise ValueError(
            f"{path.parent} holds samples of an earlier version and {error}: give "
            "these a folder of their own with --config.sample.name=NAME, or remove it"
        ) from error


def _renamed(folder: epath.Path, asked: dict) -> dict | None:
    """The record of the samples that are those of `asked`, now in `folder`; or None."""
    beginning = folder.name.rpartition("_")[0]
    for path in sorted(folder.parent.glob(f"{beginning}_*/samples.json")):
        try:
            record = files.load_json(path)
            if not is_old(record) or made_by(record, asked["spec"]["spacing"]) != asked:
                continue
        except ValueError as error:
            logging.warning(
                "the folder %s of an earlier version is left as it is and the samples "
                "are made again: %s", path.parent.name, error,
            )  # fmt: skip
            continue
        path.parent.replace(folder)
        logging.info("%s is now %s", path.parent, folder.name)
        return record
    return None
