"""Which threads wait for XLA to compile, and how long they have waited so far."""

import collections
import threading
from typing import Any

import jax

# of jax.monitoring: the first is reported before a compilation, the second after it
_BEFORE = "/jax/core/compile/jaxpr_to_mlir_module_duration"
_AFTER = "/jax/core/compile/backend_compile_duration"

_now: set[int] = set()
_seconds: dict[int, float] = collections.defaultdict(float)


def now(thread: int) -> bool:
    """Whether this thread (`threading.get_ident`) is compiling."""
    return thread in _now


def seconds(thread: int) -> float:
    """What this thread has spent on it since the process began."""
    return _seconds[thread]


def _listen(event: str, duration: float, **_: Any) -> None:
    thread = threading.get_ident()
    if event == _BEFORE:
        _now.add(thread)
    elif event == _AFTER:
        _now.discard(thread)
        _seconds[thread] += duration


jax.monitoring.register_event_duration_secs_listener(_listen)
