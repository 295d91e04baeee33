"""Files that appear whole or not at all, outlast a power cut, and tell damage.

They are written beside their place, synchronised with the disk, then renamed. A record
(a JSON object) carries a checksum of the rest of it, and an .npz one of each array.
"""

import contextlib
import errno
import io
import json
import logging
import os
import re
import time
from collections.abc import Iterator
from typing import Any

import numpy as np
from etils import epath

from progguide_jax.formats import npz, regular
from progguide_jax.runtime import digests

_STARTED = time.time()  # this process, or nearly
_TEMPORARY = re.compile(r"\..+\.\d+\.tmp")
_CHECKSUM = "checksum"  # the key of it in a record


class Damaged(ValueError):
    """A file that cannot be read, or whose content is not what was written."""

    def __init__(self, path: epath.Path, why: Exception | str):
        self.path, self.why = path, why
        super().__init__(
            f"{path} is damaged ({why}): run the command that made it again"
        )


def temporary(path: epath.Path, number: int) -> epath.Path:
    """The name of a file that stands for `path` for a moment; number: whose it is."""
    return path.with_name(f".{path.name}.{number}.tmp")


def write(path: str | os.PathLike, content: bytes) -> None:
    """content to path; a reader sees the old file or the whole new one."""
    path = epath.Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    new = temporary(path, os.getpid())
    try:
        with one_line_if_full(path):
            new.write_bytes(content)
            synchronise(new)
            new.replace(path)
            synchronise(path.parent)
    except BaseException:
        new.unlink(missing_ok=True)
        raise


def synchronise(path: str | os.PathLike) -> None:
    """Have the content of a file, or the names in a folder, outlast a power cut."""
    try:
        handle = os.open(path, os.O_RDONLY)
    except OSError:  # a bucket, or a system that opens no folders
        return
    try:
        os.fsync(handle)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):  # it cannot be done there
            raise
    finally:
        os.close(handle)


@contextlib.contextmanager
def one_line_if_full(path: str | os.PathLike) -> Iterator[None]:
    """A full disk as one line that names `path`."""
    try:
        yield
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        raise OSError(
            error.errno,
            f"no space left to write {path}: free some and run the same command; "
            "what is finished is kept",
        ) from error


def modified(path: epath.Path) -> float:
    """When `path` was written, in seconds since 1970 and parts of one."""
    try:
        return os.stat(path).st_mtime
    except OSError:  # a bucket, or not there, which the next line says
        return path.stat().mtime


def clear_leftovers(folder: str | os.PathLike) -> None:
    """Remove the temporary files that killed processes left in `folder`, not below it:
    those older than this process."""
    folder = epath.Path(folder)
    for path in folder.iterdir() if folder.is_dir() else ():
        if _TEMPORARY.fullmatch(path.name):
            with contextlib.suppress(OSError):  # somebody else may remove it too
                if modified(path) < _STARTED:
                    path.unlink()


def set_aside(error: Damaged) -> None:
    """Rename the damaged file to NAME.damaged, so that it is made again."""
    path = error.path
    aside = path.with_name(f"{path.name}.damaged")
    logging.warning(
        "%s is damaged (%s): it is made again, and kept as %s",
        path,
        error.why,
        aside.name,
    )
    with contextlib.suppress(FileNotFoundError):
        path.replace(aside)


def save_json(path: str | os.PathLike, value: Any) -> None:
    """value as indented JSON; an object has its checksum as one more entry."""
    text = json.dumps(value, indent=1)
    if isinstance(value, dict):
        value = json.loads(text)
        text = json.dumps({**value, _CHECKSUM: _checksum(value)}, indent=1)
    write(path, f"{text}\n".encode())


def load_json(path: str | os.PathLike) -> Any:
    """The value of a JSON file, without its checksum; Damaged if it does not fit. One
    of an earlier version has none."""
    path = epath.Path(path)
    try:
        value = json.loads(path.read_text())
    except ValueError as error:
        raise Damaged(path, error) from error
    if isinstance(value, dict) and _CHECKSUM in value:
        if value.pop(_CHECKSUM) != _checksum(value):
            raise Damaged(path, "its checksum differs")
    return value


def save_npz(path: str | os.PathLike, **arrays: np.ndarray) -> None:
    """arrays as an uncompressed .npz."""
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)
    write(path, buffer.getbuffer())


def load_npz(path: str | os.PathLike) -> dict[str, np.ndarray]:
    """The arrays of an .npz; Damaged if one is not what was written."""
    path = epath.Path(path)
    if path.exists() and not regular.is_file(path):
        raise Damaged(path, "it is no file")
    with path.open("rb") as file:
        try:
            arrays = npz.Npz(file)
            return {name: arrays[name] for name in arrays.names}
        except ValueError as error:
            raise Damaged(path, error) from error


def _checksum(record: dict[str, Any]) -> str:
    return digests.json_digest(record)[:16]
