"""Files that appear whole or not at all: written beside their place, then renamed."""

import errno
import io
import json
import os
from typing import Any

import numpy as np
from etils import epath

from progguide_jax.formats import npz, regular


def write(path: str | os.PathLike, content: bytes) -> None:
    """content to path; a reader sees the old file or the whole new one."""
    path = epath.Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        temporary.write_bytes(content)
        temporary.replace(path)
    except BaseException as error:
        temporary.unlink(missing_ok=True)
        if getattr(error, "errno", None) in (errno.ENOSPC, errno.EDQUOT):
            raise OSError(
                error.errno,
                f"no space left to write {path}: free some and run the same command; "
                "what is finished is kept",
            ) from error
        raise


def save_json(path: str | os.PathLike, value: Any) -> None:
    """value as indented JSON."""
    write(path, (json.dumps(value, indent=1) + "\n").encode())


def load_json(path: str | os.PathLike) -> Any:
    """The value of a JSON file; ValueError with one line if it is damaged."""
    try:
        return json.loads(epath.Path(path).read_text())
    except ValueError as error:
        raise ValueError(
            f"{path} is damaged ({error}): remove it and run the command that made it"
        ) from error


def save_npz(path: str | os.PathLike, **arrays: np.ndarray) -> None:
    """arrays as an uncompressed .npz."""
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)
    write(path, buffer.getbuffer())


def load_npz(path: str | os.PathLike) -> dict[str, np.ndarray]:
    """The arrays of an .npz; ValueError with one line if it is damaged."""
    path = epath.Path(path)
    if path.exists() and not regular.is_file(path):
        raise ValueError(f"{path} cannot be read (it is no file): remove it")
    with path.open("rb") as file:
        try:
            arrays = npz.Npz(file)
            return {name: arrays[name] for name in arrays.names}
        except ValueError as error:
            raise ValueError(f"{path} cannot be read ({error}): remove it") from error
