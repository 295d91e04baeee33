"""Results as files: found if they were made by the same, made otherwise.

A result is a record, NAME.json, and often arrays beside it, NAME.npz. The record holds
`made_by`, all that the result depends on, as JSON reads it back. The record is written
last: where it is, the arrays are whole. Host 0 looks and writes, every host learns.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np
from etils import epath

from progguide_jax.runtime import files, sharding


class Result(NamedTuple):
    """record: the JSON of NAME.json, with its "made_by"; arrays: those of NAME.npz."""

    record: dict[str, Any]
    arrays: dict[str, np.ndarray]


def find(path: epath.PathLike, made_by: dict[str, Any]) -> Result | None:
    """The result at `path` (NAME.json) if every entry of made_by is that of its record.

    Its record may say more, such as versions. A file that is damaged is set aside and
    is no result, so that it is made again. All hosts must call this.
    """
    found = _read(epath.Path(path), made_by)
    return found if sharding.agreed(found is not None) else None


def _read(path: epath.Path, made_by: dict[str, Any]) -> Result | None:
    if not (path.exists() and arrays_path(path).exists()):
        return None
    try:
        record = files.load_json(path)
        there = record.get("made_by") if isinstance(record, dict) else None
        if not isinstance(there, dict):
            return None
        if any(name not in there or there[name] != made_by[name] for name in made_by):
            return None
        return Result(record, files.load_npz(arrays_path(path)))
    except files.Damaged as error:
        if jax.process_index() == 0:
            files.set_aside(error)
    except FileNotFoundError:  # host 0 has set it aside
        pass
    return None


def set_damaged_aside(*paths: epath.Path) -> None:
    """Rename those of `paths` that are damaged to NAME.damaged. All hosts must call
    this."""
    if jax.process_index() == 0:
        for path in paths:
            load = files.load_json if path.suffix == ".json" else files.load_npz
            try:
                load(path)
            except FileNotFoundError:
                continue
            except files.Damaged as error:
                files.set_aside(error)
    sharding.barrier("damaged files set aside")


def find_or_make(
    path: epath.PathLike, made_by: dict[str, Any], make: Callable[[], Result]
) -> Result:
    """The result at `path`, made and written first if it is not there.

    make() gives the record without made_by, or with more entries of it than are
    compared, and the arrays. All hosts must call this.
    """
    found = find(path, made_by)
    if found is not None:
        return found
    record, arrays = make()
    result = Result({**record, "made_by": made_by | record.get("made_by", {})}, arrays)
    write(path, result)
    return result


def write(path: epath.PathLike, result: Result) -> None:
    """Write both files, from host 0; the other hosts wait for it."""
    path = epath.Path(path)
    if jax.process_index() == 0:
        files.clear_leftovers(path.parent)
        path.unlink(missing_ok=True)  # never a record beside another's arrays
        files.save_npz(arrays_path(path), **result.arrays)
        files.save_json(path, result.record)
    sharding.barrier(f"result {path.name}")


def arrays_path(path: epath.PathLike) -> epath.Path:
    """NAME.npz of NAME.json."""
    return epath.Path(path).with_suffix(".npz")
