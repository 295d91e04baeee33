"""The two flags of every command, and how a command ends.

    python train.py --config=configs/cifar10.py:cpu --workdir=DIR --config.seed=1
    python sample.py --workdir=DIR --config.guidance.schedule=gn

Exit codes: 0; 1 for an error while running; 2 for a command that cannot be run as it
is written; 130 for Ctrl-C, and for a signal after which training has saved its step. An
error is one line on stderr; that of code 1 has its traceback in WORKDIR/error.log.
"""

import contextlib
import logging
import os
import secrets
import sys
import traceback
from collections.abc import Callable, Sequence
from typing import Any, NoReturn

import jax
from absl import flags
from etils import epath
from ml_collections import config_flags

from progguide_jax.runtime import config as config_lib
from progguide_jax.runtime import files, key_comments, upgrades

_USAGE = """usage: {program} --config=FILE.py[:VARIANT] --workdir=DIR [--config.KEY=...]

  --config          a file of configs/; after a colon, the name of a variant of it;
                    left out: the config that the workdir was trained with
  --config.KEY      overrides one key, as in --config.train.batch_size=64
  --workdir         the folder of the run: checkpoints, metrics, curves, samples
  --print_config    print every key and its value, and exit"""


def run(
    main: Callable[[Any, str], None],
    argv: Sequence[str] | None = None,
    new_workdir: bool | Callable[[Any], bool] = True,
    check: Callable[[Any, Sequence[str]], Any] = lambda config, given: None,
) -> None:
    """check(config, given), then main(config, workdir), for the command line argv,
    default sys.argv; given: the keys that it overrides.

    config is the locked ConfigDict of --config, or of the workdir's config.json, with
    the overrides; workdir exists and can be written. new_workdir: whether main may
    begin with a workdir that does not exist, or a function of config that says so.
    Raises SystemExit unless main returns.
    """
    argv = list(sys.argv if argv is None else argv)
    _log_to_stderr()
    config, workdir, given = _parse(argv)
    if callable(new_workdir):
        new_workdir = new_workdir(config)
    if not new_workdir and not epath.Path(workdir).exists():
        _fail(f"--workdir {workdir} does not exist: train first, or mend the name", 2)
    try:
        _check_writable(workdir)
        check(config, given)
        _set_up_devices(config)
        if config.distributed and jax.process_index() != 0:
            logging.getLogger().setLevel(logging.WARNING)
        main(config, workdir)
        (epath.Path(workdir) / "error.log").unlink(missing_ok=True)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        sys.exit(130)
    except InterruptedError as stop:  # which says what was saved
        print(f"interrupted: {_first_line(stop)}", file=sys.stderr)
        sys.exit(130)
    except (ValueError, OSError, FloatingPointError) as error:
        with contextlib.suppress(OSError):  # the disk may be full
            (epath.Path(workdir) / "error.log").write_text(traceback.format_exc())
        _fail(error, 1)


def _parse(argv: list[str]) -> tuple[Any, str, list[str]]:
    """(config, workdir, the keys of the overrides); ends the process at --help,
    --print_config and errors."""
    if {"--help", "-h", "-help"} & set(argv):
        print(_USAGE.format(program=argv[0]))
        sys.exit(0)
    try:
        recipe, argv = _taken(argv, "config")
        values = flags.FlagValues()
        flags.DEFINE_string("workdir", None, "folder of the run", flag_values=values)
        flags.DEFINE_bool("print_config", False, "print every key", flag_values=values)
        config = _config(recipe, _taken(argv, "workdir")[0])
        known = config_lib.flat(config.to_dict())
        given = [key for key in map(_key, argv) if key]
        _check_keys(given, known)
        argv = _with_values(argv, config)
        config_flags.DEFINE_config_dict(
            "config", config, flag_values=values, sys_argv=argv
        )
        rest = values(argv)[1:]
        if rest:
            raise ValueError(
                f"unexpected argument {rest[0]!r}: flags start with --, and true or "
                "false comes after an ="
            )
        if values.print_config:
            print("\n".join(_lines(values.config)))
            sys.exit(0)
        if not values.workdir:
            raise ValueError("--workdir=DIR is missing: the folder of this run")
    except Exception as error:  # a config file may raise anything
        _fail(error, 2)
    return values.config, values.workdir, given


def _lines(config) -> list[str]:
    """KEY = VALUE of every key, and what its comment says."""
    comments = key_comments.of_base()
    lines = []
    for key, value in config_lib.flat(config.to_dict()).items():
        comment = f"  # {comments[key]}" if key in comments else ""
        lines.append(f"{key} = {value!r}{comment}")
    return lines


def _taken(argv: list[str], flag: str) -> tuple[str | None, list[str]]:
    """The last value of --flag=VALUE or --flag VALUE, and argv without it."""
    value, rest, words = None, [], iter(argv)
    for word in words:
        name, equals, after = word.partition("=")
        if name in (f"--{flag}", f"-{flag}"):
            value = after if equals else next(words, "")
        else:
            rest.append(word)
    return value, rest


def _config(recipe: str | None, workdir: str | None) -> Any:
    """The config of a file, or, without one, that of the workdir."""
    if recipe is not None:
        path = recipe.split(":")[0]
        if not os.path.isfile(path):
            raise FileNotFoundError(
                f"--config: no file {path!r}; give FILE.py or FILE.py:VARIANT"
            )
        parser = config_flags.config_flags.ConfigFileFlagParser("config")
        return parser.parse(recipe)
    if workdir and (epath.Path(workdir) / "config.json").exists():
        return config_lib.load(epath.Path(workdir) / "config.json")
    without = f", and {workdir} has no config.json" if workdir else ""
    raise ValueError(f"--config=FILE.py is missing{without}: see configs/")


def _key(argument: str) -> str:
    """KEY of --config.KEY or --noconfig.KEY, with a value or without; else ""."""
    prefix, _, key = argument.partition("=")[0].partition(".")
    known = [f"{dashes}{no}config" for dashes in ("-", "--") for no in ("", "no")]
    return key if prefix in known else ""


def _with_values(argv: list[str], config: Any) -> list[str]:
    """argv with numbers and tuples as Python writes them; a key of a tuple that comes
    several times has them all. ValueError at what is no number where one must be."""
    known = config_lib.flat(config.to_dict())
    rest, tuples, words = [], {}, iter(argv)
    for word in words:
        key, (flag, equals, text) = _key(word), word.partition("=")
        kind = config_lib.type_of(config, key) if key else None
        if kind in config_lib.TO_TYPE and (equals or kind is not bool):
            text = text if equals else next(words, "")
            try:
                rest.append(f"{flag}={config_lib.value_of(text, kind)}")
            except ValueError as error:
                raise ValueError(f"config.{key} is {text!r}: {error}") from None
        elif kind is tuple:
            text = text if equals else next(words, "")
            value = config_lib.as_tuple(text, known[key])
            tuples[key] = tuples.get(key, ()) + value
        else:
            rest.append(word)
    rest[1:1] = [f"--config.{key}={value!r}" for key, value in tuples.items()]
    return rest


def _check_keys(given: list[str], known: dict[str, Any]) -> None:
    """ValueError at the first override of a key that the config lacks."""
    for key in given:
        if key in known:
            continue
        inside = [k for k in known if k.startswith(f"{key}.")]
        if inside and not upgrades.renamed(key):
            raise ValueError(f"config.{key} is a section: set {' or '.join(inside)}")
        raise ValueError(config_lib.unknown_key(key, known))


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
    """Join the other hosts; on the CPU backend make each usable core a device."""
    if config.distributed:
        try:
            jax.distributed.initialize()
        except (RuntimeError, ValueError) as error:
            _fail(
                f"jax.distributed: {_first_line(error)} (set config.distributed only "
                "where several hosts run this command)",
                2,
            )
    flags_set = "xla_force_host_platform_device_count" in os.environ.get(
        "XLA_FLAGS", ""
    )
    if jax.config.jax_num_cpu_devices < 0 and not flags_set:
        has_affinity = hasattr(os, "sched_getaffinity")  # Linux
        cores = len(os.sched_getaffinity(0)) if has_affinity else os.cpu_count()
        with contextlib.suppress(RuntimeError):  # the devices exist already
            jax.config.update("jax_num_cpu_devices", _devices(cores, config))


def _devices(cores: int, config: Any) -> int:
    """The most devices, at most `cores`, that can share every batch of config.

    A batch that not even two can share is left to the check of the batch sizes.
    """
    sizes = [config[name].batch_size for name in ("train", "probe", "sample", "eval")]
    for n in range(cores, 1, -1):
        if all(size % n == 0 for size in sizes):
            return n
    return max(cores, 1)


def _log_to_stderr() -> None:
    """Our messages from INFO on, those of libraries from WARNING on, one line each."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter("%(asctime)s %(message)s", "%H:%M:%S"))
    handler.addFilter(_worth_reading)
    logging.basicConfig(level=logging.INFO, handlers=[handler], force=True)


def _worth_reading(record: logging.LogRecord) -> bool:
    ours = record.name == "root" or record.name.startswith("progguide_jax")
    if not ours and record.levelno < logging.WARNING:
        return False
    # orbax logs a traceback in each of its threads, then raises the error as well
    return not (record.exc_info and "orbax" in record.pathname)


def _fail(error: Exception | str, code: int) -> NoReturn:
    print(f"error: {_first_line(error)}", file=sys.stderr)
    sys.exit(code)


def _first_line(error: Exception | str) -> str:
    """What the error says, in one line."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    if any(line.startswith("Traceback") for line in lines):
        # config_flags quotes the traceback of a config file: its end is the message
        return lines[-1].removeprefix("ValueError: ")
    if not lines:
        return type(error).__name__
    if isinstance(error, str | ValueError | OSError | FloatingPointError | flags.Error):
        return lines[0]
    return f"{type(error).__name__}: {lines[0]}"
