"""Results of many rows, made batch by batch and kept on the way.

Below one folder: NAME.json, the record with `made_by`, written first; part files; and
NAME.npz when all is there. More rows may be asked for later: what is there is kept.
"""

import logging
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from etils import epath

from progguide_jax.engine import results
from progguide_jax.runtime import config as config_lib
from progguide_jax.runtime import digests, files, sharding, stopping, writers

Make = Callable[[np.ndarray], dict[str, np.ndarray]]


def collect(
    path: epath.PathLike,
    made_by: dict[str, Any],
    total: int,
    size: int,
    make: Make,
    about: dict[str, Any],
) -> bool:
    """Make rows 0 ... total-1 of the result at `path` (NAME.json), or find them.

    make(index [size]) gives the arrays of these rows, on every host; rows past the end
    are made and dropped. about: what the record says besides made_by. Whether anything
    had to be made; what is damaged is set aside and made again. ValueError if the
    folder holds the rows of another made_by;
    InterruptedError after SIGTERM or Ctrl-C, when the rows under way are written. All
    hosts must call this.
    """
    path = epath.Path(path)
    _mend(path, made_by)
    _claim(path, made_by, about)
    missing = sharding.agreed(_count(path) < total)
    if missing:
        _write_parts(path, total, size, make)
    if jax.process_index() == 0:
        if missing:
            _join(path, total)
        for part in _part_files(path):  # also after a kill before this line
            part.unlink()
    sharding.barrier(f"rows of {path.parent.name}")
    return missing


def check(path: epath.Path, there: dict[str, Any], made_by: dict[str, Any]) -> None:
    """ValueError unless `there`, the made_by of the rows at `path`, is this one."""
    old, new = (config_lib.flat(d) for d in (there, made_by))
    changed = [k for k in old | new if old.get(k) != new.get(k)]
    if changed:
        raise ValueError(
            f"{path.parent} holds {path.stem} of another {', '.join(changed[:4])}: "
            f"give these a folder of their own with --config.sample.name=NAME, or "
            "remove it"
        )


def mark(made_by: dict[str, Any]) -> str:
    """What the name of a folder ends with, if it says what made the rows in it."""
    return digests.json_digest(made_by)[:6]


def _mend(path: epath.Path, made_by: dict) -> None:
    """Set aside what is damaged; if the record is, then also the rows, unless the name
    of the folder says that they were made by made_by."""
    rows = [results.arrays_path(path), *_part_files(path)]
    if jax.process_index() == 0 and path.exists():
        try:
            files.load_json(path)
        except files.Damaged as error:
            known = path.parent.name.endswith(mark(made_by))
            for file in [] if known else [row for row in rows if row.exists()]:
                files.set_aside(files.Damaged(file, "nothing says what made it"))
            files.set_aside(error)
    results.set_damaged_aside(*rows)


def _claim(path, made_by: dict, about: dict) -> None:
    if sharding.agreed(path.exists()):
        there = files.load_json(path)
        there = there.get("made_by") if isinstance(there, dict) else None
        check(path, there if isinstance(there, dict) else {}, made_by)
    elif jax.process_index() == 0:
        files.save_json(path, about | {"made_by": made_by})


def _count(path) -> int:
    done = results.arrays_path(path)
    if not done.exists():
        return 0
    return len(next(iter(files.load_npz(done).values())))


def _part_files(path) -> list[epath.Path]:
    return list(path.parent.glob("part_*_*.npz"))


def _parts(path) -> list[tuple[int, int, epath.Path]]:
    """(first, end, file) of what is there, in the order of its rows: the parts, and the
    NAME.npz of an earlier run that asked for fewer."""
    found = [(0, count, results.arrays_path(path))] if (count := _count(path)) else []
    for part in _part_files(path):
        first, end = part.stem.split("_")[1:]
        found.append((int(first), int(end), part))
    return sorted(found)


def _write_parts(path, total: int, size: int, make: Make) -> None:
    """From the end of what is there without a gap."""
    first = 0
    for start, end, _ in _parts(path):
        if start <= first:
            first = max(first, end)
    first = int(sharding.from_host_0(np.array(first)))  # all begin there
    if 0 < first < total:
        what = "%s holds %d images, which stay: going on to %d"
        logging.info(what, path.parent, first, total)
    bar = writers.progress(total, f"sample {path.parent.name}", initial=first)
    with bar, stopping.Stop() as stop:
        stop.check(f"{first} of {total} images")  # signals wait from here on
        while first < total:
            arrays = make(np.arange(first, first + size))
            n = min(size, total - first)
            if jax.process_index() == 0:
                part = path.with_name(f"part_{first:08d}_{first + n:08d}.npz")
                files.save_npz(part, **{k: v[:n] for k, v in arrays.items()})
            first += n
            bar.update(n)
            stop.check(f"{first} of {total} images")


def _join(path, total: int) -> None:
    merged: dict[str, list] = {}
    first = 0
    for start, end, part in _parts(path):
        if end <= first or first >= total:
            continue
        for name, rows in files.load_npz(part).items():
            merged.setdefault(name, []).append(rows[first - start : total - start])
        first = min(end, total)
    arrays = {name: np.concatenate(pieces) for name, pieces in merged.items()}
    files.save_npz(results.arrays_path(path), **arrays)
    logging.info("%d images in %s", total, results.arrays_path(path))
