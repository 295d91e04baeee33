"""Training checkpoints by orbax: asynchronous, checked when read, EMA apart.

A checkpoint has three items: `ema`, the averaged parameters; `state`, everything else;
and `meta`, JSON with the caller's metadata and the shape, dtype and checksum of each
leaf, since orbax has no checksum of its own and casts silently. The directory must be
one that every host sees.
"""

import contextlib
import dataclasses
import errno
import logging
import os
import secrets
import shutil
import time
from collections.abc import Iterator
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from etils import epath
from jax.experimental import multihost_utils

from progguide_jax.runtime import digests, files, sharding, stopping


class _Damaged(Exception):
    """A checkpoint that cannot be read, or whose content is not what was saved."""


class Checkpoints:
    """The checkpoints of one run; use it in a `with`, which waits for a pending save.

    A state is any dataclass pytree with an attribute `ema_params`, replicated over the
    devices or split over them, in the same way on every host. clear: remove saves that
    were killed, which only the one who trains in the directory may do.
    """

    def __init__(self, directory: str, keep: int = 3, clear: bool = False):
        self.directory = epath.Path(directory).resolve()
        self._stop = stopping.Stop()
        if clear and jax.process_index() == 0:  # orbax's own way raises in a thread
            for killed in self.directory.glob(f"*{ocp.utils.TMP_DIR_SUFFIX}*"):
                killed.rmtree()
        self._manager = ocp.CheckpointManager(
            self.directory, options=ocp.CheckpointManagerOptions(max_to_keep=keep)
        )

    def __enter__(self) -> "Checkpoints":
        return self

    def __exit__(self, exc_type: Any, exc: BaseException | None, tb: Any) -> None:
        try:
            self.close()
        except Exception as error:
            if exc is None:
                raise
            logging.error("%s", error)  # the first error is the one to report

    def close(self) -> None:
        """Wait for the pending save; OSError if it failed."""
        self._stop.give_back()
        try:
            self.wait()
        finally:
            with contextlib.suppress(Exception):  # repeats the error of wait()
                self._manager.close()

    def wait(self) -> None:
        """Block until the pending save is on disk; OSError if the disk is full."""
        with self._one_line_errors():
            self._manager.wait_until_finished()

    def latest_step(self) -> int | None:
        """The newest step saved, or None."""
        return self._manager.latest_step()

    def save(self, step: int, state: Any, metadata: dict[str, Any]) -> bool:
        """Start saving, False if `step` is there; the state may be donated next.

        metadata is JSON. Raises OSError if this save, or the one before, finds the disk
        full; earlier checkpoints are kept.
        """
        if step in self._manager.all_steps():
            return False
        items = _split(state)
        self.wait()  # before counting the space that is left
        self._check_space(sum(x.nbytes for x in jax.tree.leaves(items)))
        leaves = {item: _table(tree) for item, tree in items.items()}
        meta = {"metadata": metadata, "leaves": leaves}
        meta = {**meta, "digest": digests.json_digest(meta)}
        args = {k: ocp.args.StandardSave(v) for k, v in items.items()}
        with self._one_line_errors():
            # force: orbax would skip a step below its newest without a word
            return self._manager.save(
                step,
                args=ocp.args.Composite(**args, meta=ocp.args.JsonSave(meta)),
                force=True,
            )

    def restore(
        self, abstract_state: Any, step: int | None = None
    ) -> tuple[Any, dict[str, Any]]:
        """(state, metadata) of `step`, default the newest that is undamaged.

        Leaves of abstract_state have shape, dtype and, optionally, the sharding wanted
        (default replicated); any device count may read what any other saved. Damaged
        newer checkpoints are renamed STEP.damaged, so that training can save those
        steps again. Raises FileNotFoundError without a checkpoint, ValueError if it
        does not fit abstract_state or none is undamaged.
        """
        _, items, metadata, damaged = self._restore(_split(abstract_state), step)
        self._set_aside(damaged)
        return dataclasses.replace(items["state"], ema_params=items["ema"]), metadata

    def restore_ema(
        self, abstract_ema: Any, step: int | None = None
    ) -> tuple[Any, int, dict[str, Any]]:
        """(ema_params, step, metadata): as restore, but only the averaged weights, and
        none of an older step: ValueError if the newest is damaged."""
        step = step or self.latest_step()
        step, items, metadata, _ = self._restore({"ema": abstract_ema}, step)
        return items["ema"], step, metadata

    def is_whole(self, step: int, abstract_state: Any) -> bool:
        """Whether the checkpoint of `step` is whole; ValueError if it does not fit."""
        try:
            self._read(step, _split(abstract_state))
        except _Damaged as error:
            words = _listing({step: error})
            logging.warning("damaged checkpoint in %s: %s", self.directory, words)
            return False
        return True

    def should_stop(self) -> bool:
        """Whether to save and end, as `stopping.Stop.asked` says."""
        return self._stop.asked()

    def _restore(
        self, targets: dict[str, Any], step: int | None
    ) -> tuple[int, dict[str, Any], dict[str, Any], list[int]]:
        """(step, items, metadata, the newer steps that are damaged)."""
        steps = sorted(self._manager.all_steps(), reverse=True)
        if not steps:
            raise FileNotFoundError(
                f"no checkpoint in {self.directory}: train first, with the same workdir"
            )
        if step is not None and step not in steps:
            raise FileNotFoundError(
                f"no checkpoint of step {step} in {self.directory}: there are {steps}"
            )
        damaged: dict[int, str] = {}
        for candidate in steps if step is None else [step]:
            try:
                items, metadata = self._read(candidate, targets)
            except _Damaged as error:
                damaged[candidate] = str(error)
                continue
            if damaged:
                logging.warning(
                    "damaged checkpoint in %s, going back to step %d: %s",
                    self.directory,
                    candidate,
                    _listing(damaged),
                )
            return candidate, items, metadata, list(damaged)
        if step is None:
            raise ValueError(
                f"no undamaged checkpoint in {self.directory} ({_listing(damaged)}): "
                "move it away to start anew"
            )
        raise ValueError(
            f"damaged checkpoint in {self.directory} ({_listing(damaged)}): run "
            "train.py, which goes back to one before the newest if that is damaged, or "
            f"set --config.checkpoint.step to another of {steps}"
        )

    def _read(
        self, step: int, targets: dict[str, Any]
    ) -> tuple[dict[str, Any], dict[str, Any]]:
        """Items and metadata; _Damaged, or ValueError if the shapes differ."""
        with _damage():
            args = ocp.args.Composite(meta=ocp.args.JsonRestore())
            meta = self._manager.restore(step, args=args)["meta"]
            if meta.pop("digest") != digests.json_digest(meta):
                raise _Damaged("its metadata changed")
        for item, target in targets.items():
            digests.check_fit(meta["leaves"][item], target, f"checkpoint {step}")
        with _damage():
            args = {
                item: ocp.args.StandardRestore(jax.tree.map(_abstract, target))
                for item, target in targets.items()
            }
            items = self._manager.restore(step, args=ocp.args.Composite(**args))
            for item in targets:
                for name, entry in _table(items[item]).items():
                    if entry != meta["leaves"][item][name]:
                        raise _Damaged(f"the checksum of {name} differs")
        return {item: items[item] for item in targets}, meta["metadata"]

    def _set_aside(self, steps: list[int]) -> None:
        if not steps:
            return
        if jax.process_index() == 0:
            for step in steps:
                aside = self.directory / f"{step}.damaged"
                if aside.exists():
                    aside.rmtree()
                (self.directory / str(step)).rename(aside)
        multihost_utils.sync_global_devices("damaged checkpoints set aside")
        self._manager.reload()

    def _check_space(self, needed: int) -> None:
        """Raise OSError before orbax starts a save that cannot end; needed in bytes."""
        try:
            disk = shutil.disk_usage(self.directory)
        except OSError:  # a bucket
            return
        if disk.total and disk.free < needed:
            raise self._no_space(f"{needed >> 20} MiB needed, {disk.free >> 20} free")

    def _no_space(self, why: str) -> OSError:
        error = OSError(
            f"no space left to save a checkpoint in {self.directory} ({why}): make "
            "some and run the same command; earlier checkpoints are kept"
        )
        error.errno = errno.ENOSPC
        return error

    @contextlib.contextmanager
    def _one_line_errors(self) -> Iterator[None]:
        """A full disk as OSError, whichever library met it."""
        try:
            yield
        except Exception as error:
            for code in (errno.ENOSPC, errno.EDQUOT):
                # tensorstore raises ValueError with the system's words inside
                if os.strerror(code) in str(error):
                    raise self._no_space(os.strerror(code)) from error
            raise


def check_shared(directory: str, timeout: float = 10.0) -> None:
    """Raise ValueError on all hosts unless each sees what host 0 writes in directory.

    Orbax hangs without a word on a directory that is not shared. All hosts must call
    this; timeout is in seconds, for file systems that show a new file late.
    """
    token = np.uint32(secrets.randbits(31))
    token = int(multihost_utils.broadcast_one_to_all(token))
    path = files.temporary(epath.Path(directory) / "shared", token)
    if jax.process_index() == 0:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    multihost_utils.sync_global_devices("check_shared: written")
    end = time.monotonic() + timeout
    while not path.exists() and time.monotonic() < end:
        time.sleep(0.2)
    seen = np.ravel(multihost_utils.process_allgather(np.array(path.exists())))
    if jax.process_index() == 0:
        path.unlink()
    if not seen.all():
        raise ValueError(
            f"{directory} is not shared: host {int(np.argmin(seen))} does not see what "
            "host 0 writes there; use a network file system or a gs:// bucket"
        )


def _split(state: Any) -> dict[str, Any]:
    return {
        "state": dataclasses.replace(state, ema_params=None),
        "ema": state.ema_params,
    }


def _table(tree: Any) -> dict[str, list[Any]]:
    """`digests.table` of arrays that other hosts hold parts of; all must call this."""
    return digests.table(sharding.to_host(tree))


def _abstract(leaf: Any) -> jax.ShapeDtypeStruct:
    sharding = getattr(leaf, "sharding", None)
    if sharding is None:
        mesh = jax.sharding.Mesh(np.array(jax.devices()), ("data",))
        sharding = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec())
    return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding)


def _listing(damaged: dict[int, Any]) -> str:
    return "; ".join(f"step {step}: {why}" for step, why in damaged.items())


@contextlib.contextmanager
def _damage() -> Iterator[None]:
    """Whatever goes wrong while reading is damage: the libraries raise many types."""
    try:
        yield
    except _Damaged:
        raise
    except Exception as error:
        lines = str(error).splitlines() or [""]
        reason = lines[0].split(". See full TensorStore")[0]
        raise _Damaged(f"{type(error).__name__} {reason}"[:200]) from error
