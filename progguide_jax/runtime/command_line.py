"""The two flags of every command, and how a command ends.

    python train.py --config=configs/cifar10.py:cpu --workdir=DIR --config.seed=1
    python sample.py --workdir=DIR --config.guidance.schedule=gn

Exit codes: 0; 1 for an error while running; 2 for a command that cannot be run as it
is written: a key, a value, the recipe, the workdir; 75 for SIGTERM, or another host
that is gone, and 130 for Ctrl-C, after which the same command goes on from what is
saved. An error is one line on stderr; that of code 1 has its traceback in
WORKDIR/error.log. A warning is said once.
"""

import contextlib
import logging
import os
import re
import secrets
import signal
import sys
import traceback
import types
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NoReturn

import jax
from absl import flags
from etils import epath

from progguide_jax.runtime import (
    checkpoints,
    files,
    hosts,
    liveness,
    parsing,
    stopping,
)
from progguide_jax.runtime import config as config_lib

_TRY_AGAIN, _CTRL_C = liveness.AGAIN, 130  # the second is what shells say of SIGINT
_LONGEST = 500  # characters of an error line
# what a user can do something about; others are mistakes in the program
_ERRORS = (
    ValueError,
    OSError,
    FloatingPointError,
    MemoryError,
    jax.errors.JaxRuntimeError,
)
_SECTIONS = ("train", "probe", "sample", "eval")  # those with a batch_size


def run(
    main: Callable[[Any, str], None],
    argv: Sequence[str] | None = None,
    new_workdir: bool | Callable[[Any], bool] = True,
    check: Callable[[Any, Sequence[str]], Any] = lambda config, given: None,
    sections: Sequence[str] = _SECTIONS,
    switches: Mapping[str, Callable[[Any, str], None]] = types.MappingProxyType({}),
) -> None:
    """check(config, given), then main(config, workdir), for the command line argv,
    default sys.argv; given: the keys that it overrides. What check raises is said of
    the command line, before anything is made.

    config is the locked ConfigDict of --config, or of the workdir's config.json, with
    the overrides; workdir exists and can be written. new_workdir: whether main may
    begin with a workdir that does not exist, or a function of config that says so.
    sections: those whose batch_size says how much memory main needs. switches: flags
    --NAME, and what runs instead of main and writes nothing. Raises SystemExit unless
    main returns.
    """
    argv = list(sys.argv if argv is None else argv)
    _log_to_stderr()
    config, watch, met = None, None, False
    try:
        config = parsing.recipe(argv)
        config, workdir, given, on = parsing.parse(argv, config, switches)
        main = switches[on[0]] if on else main
    except Exception as error:  # a config file may raise anything
        _fail(_as_typed(_first_line(error), config), 2)
    if callable(new_workdir):
        new_workdir = new_workdir(config)
    if not new_workdir and not epath.Path(workdir).exists():
        _fail(f"--workdir {workdir} does not exist: train first, or mend the name", 2)
    try:
        with stopping.terminable():
            _check(check, config, given)
            if not on:
                _check_writable(workdir)
            several = _join(config)
            _set_up_devices(config)
            if several:
                watch = liveness.start(hosts.named_address(config, os.environ))
                _compare_hosts(config, main)
                if not on:
                    checkpoints.check_shared(workdir)
            main(config, workdir)
        if _is_first_host() and not on:
            (epath.Path(workdir) / "error.log").unlink(missing_ok=True)
    except stopping.Terminated:
        words = "terminated: the same command goes on from what is saved"
        code = _TRY_AGAIN
    except KeyboardInterrupt:
        words, code = "interrupted", _CTRL_C
    except stopping.Stopped as stop:  # which says what was saved, on every host
        if watch:
            watch.leave(failed=False)
        print(f"interrupted: {_first_line(stop)}", file=sys.stderr)
        sys.exit(_TRY_AGAIN if stop.signum == signal.SIGTERM else _CTRL_C)
    except _ERRORS as error:
        _keep_traceback(workdir)
        words = _out_of_memory(error, config, sections) or error
        words = _shortened(f"error: {_as_typed(_first_line(words), config)}", _LONGEST)
        code, met = 1, isinstance(error, jax.errors.JaxRuntimeError) or "Gloo" in words
    except Exception as mistake:
        if watch is None:
            raise
        traceback.print_exc()
        words, code = f"error: {_first_line(mistake)}", 1
    else:
        if watch:
            watch.leave(failed=False)
        return
    if watch:
        watch.fail(words, code, met)
    print(words, file=sys.stderr)
    sys.exit(code)


def _join(config: Any) -> bool:
    """`hosts.join`; ends the process with code 2 where it cannot be done as said."""
    try:
        return hosts.join(config)
    except ValueError as error:
        _fail(_as_typed(_first_line(error), config), 2)


def _compare_hosts(config: Any, main: Callable) -> None:
    """ValueError on all hosts unless they run the same."""
    if not _is_first_host():
        logging.getLogger().setLevel(logging.WARNING)
    settings = config_lib.flat(config_lib.to_dict(config))
    del settings["data.dir"]  # the data are compared when they are read
    settings["command"] = f"{main.__module__}.{main.__qualname__}"
    settings["digest of the package's code"] = hosts.code_digest()
    hosts.agree(settings | config_lib.versions())


def _is_first_host() -> bool:
    return not jax.distributed.is_initialized() or jax.process_index() == 0


def _keep_traceback(workdir: str) -> None:
    """That of the error at hand: in error.log; hosts that write no files print it."""
    if not _is_first_host():
        traceback.print_exc()
        return
    with contextlib.suppress(OSError):  # the disk may be full
        (epath.Path(workdir) / "error.log").write_text(traceback.format_exc())


def _out_of_memory(error: Exception, config: Any, sections: Sequence[str]) -> str:
    """What to do about it, if that is what the error says; else ""."""
    words = str(error)
    if not isinstance(error, MemoryError) and "RESOURCE_EXHAUSTED" not in words:
        return ""
    sizes = (f"{s}.batch_size (it is {config[s].batch_size})" for s in sections)
    reason = f" ({_shortened(_first_line(words), 200)})" if words.strip() else ""
    return f"out of memory{reason}: lower --config.{' or --config.'.join(sizes)}"


def _check(check: Callable[[Any, Sequence[str]], Any], config: Any, given) -> None:
    """check(config, given); ends the process with code 2 at what it refuses."""
    try:
        check(config, given)
    except (ValueError, FileNotFoundError) as error:
        _fail(_as_typed(_first_line(error), config), 2)


def _check_writable(workdir: str) -> None:
    """Create workdir if need be; ends the process with code 2 if it is of no use."""
    probe = files.temporary(epath.Path(workdir) / "writable", secrets.randbits(31))
    try:
        probe.parent.mkdir(parents=True, exist_ok=True)
        probe.touch()
        probe.unlink()
    except (OSError, ImportError) as error:
        reason = getattr(error, "strerror", None) or error
        _fail(
            f"--workdir {workdir} cannot be written ({reason}): use another folder", 2
        )


def _set_up_devices(config: Any) -> None:
    """On the CPU backend make each usable core a device."""
    flags_set = "xla_force_host_platform_device_count" in os.environ.get(
        "XLA_FLAGS", ""
    )
    if jax.config.jax_num_cpu_devices < 0 and not flags_set:
        has_affinity = hasattr(os, "sched_getaffinity")  # Linux
        cores = len(os.sched_getaffinity(0)) if has_affinity else os.cpu_count()
        with contextlib.suppress(RuntimeError):  # the devices exist already
            jax.config.update("jax_num_cpu_devices", _devices(cores, config))
    try:
        jax.devices()
    except (RuntimeError, AssertionError) as error:  # of a backend that is not there
        _fail(f"jax finds no device: {_first_line(error)} (unset JAX_PLATFORMS)", 2)


def _devices(cores: int, config: Any) -> int:
    """The most devices, at most `cores`, that can share every batch of config.

    A batch that not even two can share is left to the check of the batch sizes.
    """
    sizes = [config[name].batch_size for name in _SECTIONS]
    for n in range(cores, 1, -1):
        if all(size % n == 0 for size in sizes):
            return n
    return max(cores, 1)


def _log_to_stderr() -> None:
    """Our messages from INFO on, those of libraries from WARNING on, one line each."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter("%(asctime)s %(message)s", "%H:%M:%S"))
    handler.addFilter(_worth_reading)
    handler.addFilter(_Once())
    logging.basicConfig(level=logging.INFO, handlers=[handler], force=True)


def _worth_reading(record: logging.LogRecord) -> bool:
    ours = record.name == "root" or record.name.startswith("progguide_jax")
    if not ours and record.levelno < logging.WARNING:
        return False
    # orbax logs a traceback in each of its threads, then raises the error as well
    return not (record.exc_info and "orbax" in record.pathname)


class _Once(logging.Filter):
    """Leaves out a warning that was said before: of another cell, or by a check that
    both the command and its work make."""

    def __init__(self) -> None:
        super().__init__()
        self._said: set[str] = set()

    def filter(self, record: logging.LogRecord) -> bool:
        message = record.getMessage()
        if record.levelno < logging.WARNING or message not in self._said:
            self._said.add(message)
            return True
        return False


def _fail(error: Exception | str, code: int) -> NoReturn:
    print(_shortened(f"error: {_first_line(error)}", _LONGEST), file=sys.stderr)
    sys.exit(code)


def _shortened(line: str, length: int) -> str:
    """The line, without its middle if it is longer: names that users gave may be."""
    half = length // 2 - 3
    return line if len(line) <= length else f"{line[:half]} ... {line[-half:]}"


def _as_typed(message: str, config: Any) -> str:
    """The message with every key in it as it is typed, --config.KEY, but for what it
    quotes."""
    if config is None:
        return message
    keys = list(config_lib.flat(config.to_dict()))
    keys += {key.rpartition(".")[0] for key in keys}
    long, short = ("|".join(map(re.escape, sorted(found, reverse=True))) for found in (
        [k for k in keys if "." in k], [k for k in keys if k and "." not in k],
    ))  # fmt: skip
    named = rf"(?<![\w./-])((?:config\.)?({long})|config\.({short}))(?![\w/]|\.\w)"
    quoted = r"|(?<!\w)'[^']*'"
    return re.sub(
        named + quoted,
        lambda m: f"--config.{m[2] or m[3]}" if m[1] else m[0],
        message,
    )


def _first_line(error: Exception | str) -> str:
    """What the error says, in one line."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    if any(line.startswith("Traceback") for line in lines):
        return _of_config_file(lines)
    if not lines:
        return type(error).__name__
    if isinstance(error, str | ValueError | OSError | FloatingPointError | flags.Error):
        return lines[0]
    return f"{type(error).__name__}: {lines[0]}"


def _of_config_file(lines: list[str]) -> str:
    """What the traceback of a config file, which config_flags quotes, says at its end.
    A value of a wrong type is said with the line of the file that sets it."""
    message = lines[-1].removeprefix("ValueError: ")
    kind = re.search(r"cannot be casted to type <class '(\w+)'>$", message)
    files = [k for k, line in enumerate(lines) if line.startswith("File ")]
    own = [k for k in files if f"{os.sep}ml_collections{os.sep}" not in lines[k]]
    if not (kind and own):
        return message
    where, setting = lines[own[-1]], lines[own[-1] + 1]
    return f"{setting}: use a value of type {kind[1]} ({where})"
