"""One process at a time: who writes a result holds the lock beside it meanwhile."""

import contextlib
import os
import socket
import sys
import time
from collections.abc import Iterator

import jax
from etils import epath

from progguide_jax.runtime import files, sharding

try:
    import fcntl
except ImportError:  # a system that has no such locks
    fcntl = None


_SECONDS = 3.0  # to wait for one who only looks whether anything is left to do


@contextlib.contextmanager
def hold(place: str | os.PathLike) -> Iterator[None]:
    """Nobody else holds `place`, a file or folder to be written, in this `with`; what
    killed processes left there is cleared. ValueError that says who holds it.

    The system frees a lock when its process ends, in whatever way. Where the file
    system has no locks nothing is held. All hosts must call this; host 0 holds it.
    """
    place = epath.Path(place)
    path, handle, holder = place.with_name(f".{place.name}.lock"), None, ""
    if jax.process_index() == 0:
        handle, holder = _taken(path)
    if not sharding.agreed(not holder):
        raise ValueError(
            f"{place} is being written by {holder or 'another command'}: wait until it "
            "has ended"
        )
    try:
        if jax.process_index() == 0:
            files.clear_leftovers(place.parent)
            files.clear_leftovers(place)
        yield
    finally:
        if handle is not None:
            path.unlink(missing_ok=True)
            os.close(handle)


def _taken(path: epath.Path) -> tuple[int | None, str]:
    """(the lock, ""), (None, who has it), or (None, "") where there are no locks."""
    if fcntl is None:
        return None, ""
    path.parent.mkdir(parents=True, exist_ok=True)
    patience = time.monotonic() + _SECONDS
    while True:
        try:
            handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        except OSError:  # a bucket
            return None, ""
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if _is_at(handle, path):
                os.truncate(handle, 0)
                os.write(handle, _myself().encode())
                return handle, ""
        except BlockingIOError:
            if time.monotonic() < patience:
                os.close(handle)
                time.sleep(0.05)
                continue
            holder = os.read(handle, 1000).decode(errors="replace")
            os.close(handle)
            return None, holder or "another process"
        except OSError:  # no locks here, or no space for the words
            os.close(handle)
            return None, ""
        os.close(handle)  # the one who had it removed the file: the next is another


def _is_at(handle: int, path: epath.Path) -> bool:
    """Whether the file that was opened is still the one at `path`."""
    try:
        return os.path.samestat(os.fstat(handle), os.stat(path))
    except FileNotFoundError:
        return False


def _myself() -> str:
    command = os.path.basename(sys.argv[0]) or "python"
    since = time.strftime("%H:%M:%S")
    return f"{command}, process {os.getpid()} on {socket.gethostname()} since {since}"
