"""SIGTERM and Ctrl-C as a question that long work asks between two of its steps."""

import contextlib
import itertools
import os
import signal
import threading
from collections.abc import Iterator
from typing import Any

import jax
from jax.experimental import multihost_utils

_WORDS = b"\nstopping when this step has ended and is saved; again: at once\n"
# the last signal that was asked about; the service of jax.distributed hears no other
_last: int = signal.SIGTERM
_calls = itertools.count(1)  # of `Stop.asked`, the same on all hosts


class Terminated(KeyboardInterrupt):
    """SIGTERM outside of a `Stop`: what Ctrl-C is, under another name."""


class Stopped(InterruptedError):
    """Work that was stopped by the signal `signum`, and goes on from what is saved."""

    def __init__(self, message: str, signum: int):
        super().__init__(message)
        self.signum = signum


@contextlib.contextmanager
def terminable() -> Iterator[None]:
    """SIGTERM raises Terminated, once: a second one ends the process at once."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def on_signal(signum: int, frame: Any) -> None:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        raise Terminated

    before = signal.signal(signal.SIGTERM, on_signal)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


class Stop:
    """Whether to save and end; use it in a `with`, which gives the signals back."""

    def __init__(self) -> None:
        self._asked = threading.Event()
        self._old_handlers: dict[int, Any] = {}

    def __enter__(self) -> "Stop":
        return self

    def __exit__(self, *exc: Any) -> None:
        self.give_back()

    def asked(self) -> bool:
        """Whether SIGTERM or Ctrl-C came. Every host must ask equally often.

        The first call takes both over; a second signal ends the process at once.
        Under jax.distributed its service picks one call for all hosts instead: the one
        after the last that any host has made, so that calls are counted one by one.
        """
        if jax.distributed.is_initialized():
            try:
                return multihost_utils.reached_preemption_sync_point(next(_calls))
            except RuntimeError:  # the service is switched off
                return False
        main = threading.current_thread() is threading.main_thread()
        if not self._old_handlers and main and not self._asked.is_set():
            for number in (signal.SIGTERM, signal.SIGINT):
                self._old_handlers[number] = signal.signal(number, self._on_signal)
        return self._asked.is_set()

    def check(self, done: str) -> None:
        """Stopped if `asked`; done: what is saved, as in "3 of 5 batches"."""
        if self.asked():
            raise interrupted(done)

    def give_back(self) -> None:
        """Let the signals do what they did before."""
        while self._old_handlers:
            signal.signal(*self._old_handlers.popitem())

    def _on_signal(self, signum: int, frame: Any) -> None:
        global _last
        _last = signum
        self._asked.set()
        self.give_back()
        os.write(2, _WORDS)  # print may be what was interrupted


def interrupted(done: str) -> Stopped:
    """The error of work that was stopped, and goes on after `done`."""
    return Stopped(
        f"stopped by a signal after {done}, saved: the same command goes on", _last
    )
