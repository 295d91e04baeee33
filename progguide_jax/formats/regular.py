"""Whether a path can be read to its end."""

import os
from typing import Any


def is_file(path: Any) -> bool:
    """Whether a file lies there: no folder, device or pipe, which may have no end.

    path: a string or an epath.Path, whose own is_file takes pipes for files.
    """
    remote = "://" in str(path)
    return path.is_file() if remote else os.path.isfile(path)
