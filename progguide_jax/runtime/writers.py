"""What a run leaves to look at: metrics.jsonl, TensorBoard events, PNGs, a bar.

TensorBoard files are written by clu where tensorflow can be imported, otherwise by
tensorboard's own writer, otherwise not at all. metrics.jsonl is always complete.
"""

import contextlib
import importlib.util
import io
import json
import logging
import math
import os
import sys
import threading
import time
import weakref
from collections.abc import Callable, Iterable
from typing import Any, Protocol

import jax
import numpy as np
import tqdm
from etils import epath
from PIL import Image

from progguide_jax.runtime import compiling, files

_DELAY = 2.0  # seconds without a bar
_PAUSE = 30.0  # seconds between two lines of a bar in a file, if no step ends


class _Events(Protocol):
    """One way to write TensorBoard events."""

    def scalars(self, step: int, values: dict[str, float]) -> None: ...
    def image(self, step: int, name: str, image: np.ndarray) -> None: ...
    def text(self, step: int, name: str, text: str) -> None: ...
    def close(self) -> None: ...


class MetricWriter:
    """Writes to workdir/metrics.jsonl and workdir/tensorboard, on host 0 only."""

    def __init__(self, workdir: str, enabled: bool = True):
        self._enabled = enabled and jax.process_index() == 0
        if not self._enabled:
            return
        root = epath.Path(workdir)
        root.mkdir(parents=True, exist_ok=True)
        self.path = root / "metrics.jsonl"
        self._file = self.path.open("a")
        self._events = _events(root / "tensorboard")

    def __enter__(self) -> "MetricWriter":
        return self

    def __exit__(self, *exc: Any) -> None:
        self.close()

    def truncate_after(self, step: int) -> None:
        """Drop the lines after `step`: resuming from it writes them again."""
        if not self._enabled:
            return
        self._file.close()
        lines = self.path.read_bytes().splitlines(keepends=True)
        kept = [line for line in lines if _step_of(line) <= step]
        if kept != lines:
            files.write(self.path, b"".join(kept))
        self._file = self.path.open("a")

    def scalars(self, step: int, values: dict[str, float]) -> None:
        """One line {"step", "time" (s since 1970), name: value}; NaN becomes null."""
        if not self._enabled:
            return
        values = {name: float(value) for name, value in values.items()}
        finite = {n: v if math.isfinite(v) else None for n, v in values.items()}
        line = {"step": int(step), "time": round(time.time(), 3), **finite}
        with files.one_line_if_full(self.path):
            self._file.write(json.dumps(line) + "\n")
            self._file.flush()
        if self._events:
            self._events.scalars(step, values)

    def image(self, step: int, name: str, image: np.ndarray) -> None:
        """image uint8 [H,W,3], to TensorBoard."""
        if self._enabled and self._events:
            self._events.image(step, name, image)

    def text(self, step: int, name: str, text: str) -> None:
        """text is Markdown, to TensorBoard."""
        if self._enabled and self._events:
            self._events.text(step, name, text)

    def close(self) -> None:
        """Flush and close the files; a second call does nothing."""
        if self._enabled:
            self._enabled = False
            with contextlib.suppress(OSError):  # half a line: the disk was full
                self._file.close()
            if self._events:
                self._events.close()


def save_png(path: str | os.PathLike, image: np.ndarray) -> None:
    """image uint8 [H,W,3] or [H,W]; a reader sees the old file or the whole new one."""
    files.write(path, _png(image))


def progress(
    iterable_or_total: Iterable[Any] | int, desc: str, initial: int = 0
) -> tqdm.tqdm:
    """A bar with rate and ETA on stderr, host 0 only, from the second second on.

    Given a total, advance it with .update(); given an iterable, loop over it. Its clock
    goes on while one step takes long. It says when its thread is compiling; that time
    is in no rate and no ETA.
    """
    total = iterable_or_total if isinstance(iterable_or_total, int) else None
    return _Bar(
        iterable=None if total is not None else iterable_or_total,
        total=total,
        desc=desc,
        initial=initial,
        delay=_DELAY,
        mininterval=0.5 if sys.stderr.isatty() else 10.0,
        file=sys.stderr,
        dynamic_ncols=True,
        disable=jax.process_index() != 0,
    )


class _Bar(tqdm.tqdm):
    """A bar that is drawn again where no step has ended for a while."""

    def __init__(self, *args: Any, **kwargs: Any):
        self._closed = threading.Event()
        self._thread = threading.get_ident()
        self._compiled_before = compiling.seconds(self._thread)
        super().__init__(*args, **kwargs)
        if not self.disable:
            pause = 1.0 if sys.stderr.isatty() else _PAUSE
            # no reference to the bar: one that nobody has any more must end
            arguments = weakref.ref(self), self._closed, pause
            threading.Thread(None, _redraw, "bar", arguments, daemon=True).start()

    @property
    def format_dict(self) -> dict[str, Any]:
        shown = super().format_dict
        compiled = compiling.seconds(self._thread) - self._compiled_before
        if compiled and (running := shown["elapsed"] - compiled) > 0:
            shown["rate"] = (self.n - self.initial) / running or None
        if compiling.now(self._thread):
            shown["postfix"] = "compiling"
        return shown

    def close(self) -> None:
        with self.get_lock():
            self._closed.set()
        super().close()


def _redraw(bar_of: Callable[[], _Bar | None], closed: threading.Event, pause: float):
    if closed.wait(_DELAY):
        return
    wait = min(pause, 1.0)  # the first time soon: the first step compiles
    while not closed.wait(wait) and (bar := bar_of()) is not None:
        with bar.get_lock():
            if not closed.is_set() and time.time() - bar.last_print_t >= wait:
                bar.delay = 0  # it is on the screen: close() leaves it there
                bar.refresh(nolock=True)
        wait = pause
        del bar


def _events(directory: epath.Path) -> _Events | None:
    if _importable("tensorflow") and _importable("tensorboard"):
        return _CluEvents(directory)
    if _importable("tensorboard"):
        return _TensorBoardEvents(directory)
    logging.info("no TensorBoard files: pip install tensorboard to have them")
    return None


def _importable(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except ValueError:  # hidden by sys.modules[module] = None
        return False


class _CluEvents:
    """clu's asynchronous writer; it imports tensorflow."""

    def __init__(self, directory: epath.Path):
        from clu import metric_writers

        self._writer = metric_writers.AsyncWriter(
            metric_writers.SummaryWriter(str(directory))
        )

    def scalars(self, step: int, values: dict[str, float]) -> None:
        self._writer.write_scalars(step, values)

    def image(self, step: int, name: str, image: np.ndarray) -> None:
        self._writer.write_images(step, {name: image[None]})

    def text(self, step: int, name: str, text: str) -> None:
        self._writer.write_texts(step, {name: text})

    def close(self) -> None:
        self._writer.close()


class _TensorBoardEvents:
    """The event files of tensorboard itself, without tensorflow."""

    def __init__(self, directory: epath.Path):
        from tensorboard.compat.proto import event_pb2, summary_pb2
        from tensorboard.plugins.text import metadata
        from tensorboard.summary.writer import event_file_writer
        from tensorboard.util import tensor_util

        self._event, self._summary = event_pb2.Event, summary_pb2.Summary
        self._text_metadata = metadata.create_summary_metadata
        self._tensor = tensor_util.make_tensor_proto
        self._writer = event_file_writer.EventFileWriter(str(directory))

    def scalars(self, step: int, values: dict[str, float]) -> None:
        value = self._summary.Value
        self._add(step, [value(tag=n, simple_value=v) for n, v in values.items()])

    def image(self, step: int, name: str, image: np.ndarray) -> None:
        height, width = image.shape[:2]
        proto = self._summary.Image(
            height=height,
            width=width,
            colorspace=3,
            encoded_image_string=_png(image),
        )
        self._add(step, [self._summary.Value(tag=name, image=proto)])

    def text(self, step: int, name: str, text: str) -> None:
        value = self._summary.Value(
            tag=name,
            metadata=self._text_metadata(name, name),
            tensor=self._tensor([text.encode()]),
        )
        self._add(step, [value])

    def close(self) -> None:
        self._writer.close()

    def _add(self, step: int, values: list[Any]) -> None:
        summary = self._summary(value=values)
        self._writer.add_event(
            self._event(wall_time=time.time(), step=int(step), summary=summary)
        )


def _png(image: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(np.asarray(image)).save(buffer, format="PNG")
    return buffer.getvalue()


def _step_of(line: bytes) -> float:
    """The step of a line; infinity for half a line, left by a killed process."""
    try:
        return json.loads(line)["step"]
    except (ValueError, KeyError, TypeError):
        return math.inf
