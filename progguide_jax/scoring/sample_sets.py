"""Samples to be scored: found in a workdir or anywhere else, read with their making."""

import logging
from typing import NamedTuple

import numpy as np
from etils import epath

from progguide_jax.data import image_sets
from progguide_jax.engine import first_edition, sampling
from progguide_jax.metrics import suite
from progguide_jax.runtime import config as config_lib
from progguide_jax.runtime import digests, files, upgrades

_LISTED = 8  # folders that a message names


class Samples(NamedTuple):
    """name: of the row; images uint8 [N,H,W,3], labels int32 [N] or None; made_by: what
    is known of their making, with the digest of the pixels."""

    name: str
    images: np.ndarray
    labels: np.ndarray | None
    made_by: dict


def locate(config, workdir: str) -> str:
    """The path of what config.eval.samples says; FileNotFoundError lists what there is.

    "" is the folder that config.sample and config.guidance name. Else a path, or the
    name of a folder below WORKDIR/samples, or the beginning of one, if of one only.
    """
    name, place = config.eval.samples, epath.Path(workdir) / "samples"
    if not name:
        folder = sampling.folder_of(config, workdir)
        if not (folder / "samples.npz").exists():
            raise FileNotFoundError(
                f"no samples in {folder}: run sample.py with the same flags first, or "
                + _instead(_names(place))
            )
        return str(folder)
    if epath.Path(name).expanduser().exists() or "/" in name:
        return name
    names = _names(place)
    found = [n for n in names if n == name] or _beginning(place, names, name)
    if len(found) == 1:
        return str(place / found[0])
    what = "several folders begin" if found else "no folder begins"
    raise FileNotFoundError(
        f"eval.samples is {name!r}: there is no such file, and in {place} {what} with "
        f"it: {_instead(found or names)}"
    )


def with_data_of(config, path: str):
    """config with the data that samples of ours were made from, whatever it says: they
    are scored against the same."""
    record = _record(epath.Path(path).expanduser())
    if record is None:
        return config
    data = _data(record, path)
    config = config.copy_and_resolve_references()
    here = config_lib.flat(config_lib.to_dict(config.data))
    changed = {
        key: value
        for key, value in config_lib.flat(data).items()
        if key in here and here[key] != value
    }
    if changed:
        words = ", ".join(f"{key} {value}" for key, value in changed.items())
        logging.info("data as the samples have it: %s", words)
        config.data.update_from_flattened_dict(changed)
    return config


def _data(record: dict, path: str) -> dict:
    """The section `data` of what made these samples."""
    if first_edition.is_old(record):
        data = upgrades.upgrade(record).get("data")
    else:
        system = _made_by(record).get("system")
        data = system.get("data") if isinstance(system, dict) else None
    if not isinstance(data, dict):
        raise ValueError(
            f"the samples.json of {path} does not say which data its samples were made "
            "from: to score them against config.data, remove it and set "
            "--config.eval.samples to the samples.npz beside it"
        )
    return data


def _made_by(record: dict) -> dict:
    """A record's made_by; the first edition had its entries on top."""
    there = record.get("made_by", record)
    return there if isinstance(there, dict) else {}


def _beginning(place: epath.Path, names: list[str], beginning: str) -> list[str]:
    """Those of `names` that begin so, without folders of the first edition whose
    samples another one has under today's record."""
    records = {n: _record(place / n) for n in names if n.startswith(beginning)}
    today = [_made_by(r) for r in records.values() if r and not first_edition.is_old(r)]
    return [
        name
        for name, record in records.items()
        if not any(first_edition.same(record, made_by) for made_by in today)
    ]


def _names(place: epath.Path) -> list[str]:
    """Folders of finished samples below WORKDIR/samples."""
    return sorted(path.parent.name for path in place.glob("*/samples.npz"))


def _instead(names: list[str]) -> str:
    if not names:
        return "set --config.eval.samples to an .npz or a folder of PNGs"
    more = f" and {len(names) - _LISTED} more" if len(names) > _LISTED else ""
    listed = ", ".join(names[:_LISTED])
    return f"set --config.eval.samples to one of {listed}{more}"


def _record(place: epath.Path) -> dict | None:
    """samples.json, if `place` is a folder of ours or the samples.npz in it."""
    folder = place if place.is_dir() else place.parent
    ours = place in (folder, folder / "samples.npz")
    path = folder / "samples.json"
    if not (ours and path.exists()):
        return None
    record = files.load_json(path)
    return record if isinstance(record, dict) else {}


def read(config, path: str) -> Samples:
    """Samples of any make: ours, an .npz of the ADM suite, a folder of PNGs.

    eval.num_images of them are drawn, not the first: others may stand class by class.
    """
    place = epath.Path(path).expanduser()
    if _record(place) is not None:
        return made_samples(config, place if place.is_dir() else place.parent)
    images, labels, _ = image_sets.read(path)
    count = _count(config, len(images), path)
    if count < len(images):
        rows = suite.subset(len(images), count, config.eval.seed)
        images, labels = images[rows], None if labels is None else labels[rows]
    digest = image_sets.digest(images, labels)
    return Samples(place.stem, images, labels, {"images": digest})


def made_samples(config, folder: epath.Path) -> Samples:
    """The first eval.num_images that `sampling.generate` left in its folder."""
    if not (folder / "samples.npz").exists():
        raise FileNotFoundError(
            f"no samples in {folder}: run sample.py with the same flags first, or set "
            "--config.eval.samples to an .npz or a folder of PNGs"
        )
    images, labels, _ = image_sets.read(str(folder / "samples.npz"))
    count = _count(config, len(images), folder.name)
    images, labels = images[:count], labels[:count]
    made_by = _short(_made_by(_record(folder) or {}))
    made_by["images"] = image_sets.digest(images, labels)
    return Samples(folder.name, images, labels, made_by)


def _short(made_by: dict) -> dict:
    """made_by with a digest for every long list, such as omega."""
    return {
        key: _short(value)
        if isinstance(value, dict)
        else digests.json_digest(value)[:16]
        if isinstance(value, list) and len(value) > 8
        else value
        for key, value in made_by.items()
    }


def _count(config, there: int, what: str) -> int:
    """How many images to score."""
    count = config.eval.num_images or there
    if count > there:
        raise ValueError(
            f"eval.num_images is {count} and {what} has {there} images: make more of "
            "them, or score fewer"
        )
    return count
