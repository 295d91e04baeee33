"""One writer at a time, and a lock that no kill leaves behind."""

import errno
import fcntl
import os
import subprocess
import sys
import threading

import pytest

from progguide_jax.runtime import files, locking


@pytest.fixture(autouse=True)
def impatient(monkeypatch):
    monkeypatch.setattr(locking, "_SECONDS", 0.0)


def test_the_second_is_told_who_the_first_is(tmp_path):
    """A lock belongs to an open file: another one of this process stands for another
    process."""
    place = tmp_path / "probe"
    with locking.hold(place):
        with pytest.raises(ValueError, match="probe is being written by ") as error:
            with locking.hold(place):
                raise AssertionError
        with locking.hold(tmp_path / "other"):
            pass
    assert f"process {os.getpid()} on " in str(error.value)
    assert "\n" not in str(error.value)
    with locking.hold(place), pytest.raises(KeyError):
        raise KeyError
    assert not list(tmp_path.iterdir())


def test_one_who_only_looks_is_waited_for(tmp_path, monkeypatch):
    monkeypatch.setattr(locking, "_SECONDS", 10.0)
    first = locking.hold(tmp_path / "a")
    first.__enter__()
    threading.Timer(0.1, first.__exit__, (None, None, None)).start()
    with locking.hold(tmp_path / "a"):
        pass
    assert not list(tmp_path.iterdir())


HOLDER = """
import fcntl, sys
lock = open(sys.argv[1], "w")
fcntl.flock(lock, fcntl.LOCK_EX)
lock.write("sample.py, process 1")
lock.flush()
print("held", flush=True)
input()
"""


def test_a_killed_holder_holds_nothing(tmp_path):
    command = [sys.executable, "-S", "-c", HOLDER, str(tmp_path / ".a.lock")]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdin=pipe, stdout=pipe) as process:
        try:
            assert process.stdout.readline() == b"held\n"
            with pytest.raises(ValueError, match="by sample.py, process 1: wait until"):
                with locking.hold(tmp_path / "a"):
                    raise AssertionError
        finally:
            process.kill()
    assert (tmp_path / ".a.lock").exists()
    with locking.hold(tmp_path / "a"):
        pass
    assert not list(tmp_path.iterdir())


def test_a_file_system_without_locks_goes_without(tmp_path, monkeypatch):
    def none(*args):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", none)
    with locking.hold(tmp_path / "a"), locking.hold(tmp_path / "a"):
        files.write(tmp_path / "a", b"")


def test_what_a_killed_write_left_is_cleared(tmp_path):
    place = tmp_path / "probe"
    place.mkdir()
    left = [files.temporary(f / "a", 7) for f in (tmp_path, place)]
    for path in left:
        path.write_text("")
        os.utime(path, (1, 1))
    with locking.hold(place):
        assert not any(path.exists() for path in left)
