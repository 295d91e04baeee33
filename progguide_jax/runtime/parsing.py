"""The command line: two flags and any key of the config."""

import os
import sys
from collections.abc import Iterable
from typing import Any

from absl import flags
from etils import epath
from ml_collections import config_flags

from progguide_jax.runtime import config as config_lib
from progguide_jax.runtime import key_comments, upgrades

_USAGE = """usage: {program} --config=FILE.py[:VARIANT] --workdir=DIR [--config.KEY=...]

  --config          a file of configs/; after a colon, the name of a variant of it;
                    left out: the config that the workdir was trained with
  --config.KEY      overrides one key, as in --config.train.batch_size=64
  --workdir         the folder of the run: checkpoints, metrics, curves, samples
  --print_config    print every key, its value and whether it was typed, and exit
  --dry_run         of train.py: compile, take two steps, print what all would take
  --commands        of eval.reproduce: print a line for each cell instead"""


def recipe(argv: list[str]) -> Any:
    """The config that a command line begins with: that of --config, or of the workdir.
    Ends the process at --help; raises what a config file raises, and ValueError."""
    if {"--help", "-h", "-help"} & set(argv):
        print(_USAGE.format(program=argv[0]))
        sys.exit(0)
    _check_flags(argv)
    return _config(_taken(argv, "config")[0], _taken(argv, "workdir")[0])


def parse(
    argv: list[str], config: Any, switches: Iterable[str] = ()
) -> tuple[Any, str, list[str], list[str]]:
    """(config with the overrides, workdir, their keys, the switches that are on). Ends
    the process at --print_config; raises ValueError or flags.Error."""
    argv = _taken(argv, "config")[1]
    values = flags.FlagValues()
    flags.DEFINE_string("workdir", None, "folder of the run", flag_values=values)
    flags.DEFINE_bool("print_config", False, "print every key", flag_values=values)
    for name in switches:
        flags.DEFINE_bool(name, False, name, flag_values=values)
    known = config_lib.flat(config.to_dict())
    given = [key for key in map(_key, argv) if key]
    _check_keys(given, known)
    argv = _with_values(argv, config)
    config_flags.DEFINE_config_dict("config", config, flag_values=values, sys_argv=argv)
    rest = values(argv)[1:]
    if rest:
        raise ValueError(
            f"unexpected argument {rest[0]!r}: flags start with --, and true or false "
            "comes after an ="
        )
    for key, value in config_lib.flat(values.config.to_dict()).items():
        if "\0" in str(value):
            raise ValueError(f"config.{key} is {value!r}: leave out the null character")
    if values.print_config:
        print("\n".join(_lines(values.config, given)))
        sys.exit(0)
    if not values.workdir:
        raise ValueError("--workdir=DIR is missing: the folder of this run")
    on = [name for name in switches if values[name].value]
    return values.config, values.workdir, given, on


def _check_flags(argv: list[str]) -> None:
    """ValueError at a flag that absl would take for itself or choke on."""
    for word in argv:
        name = word.partition("=")[0]
        if "\0" in name or name.startswith(("-workdir", "--workdir")) and "\0" in word:
            raise ValueError(f"{word!r}: leave out the null character")
        if name.lstrip("-") in ("flagfile", "undefok") and name.startswith("-"):
            raise ValueError(f"{name} is not known here: type the keys themselves")
        if name.startswith("-") and len(name) > 200:
            raise ValueError(f"unknown flag {name[:40]}...: --help lists them all")


def _lines(config, given: list[str]) -> list[str]:
    """KEY = VALUE of every key, whether it was typed, and what its comment says."""
    comments = key_comments.of_base()
    lines = []
    for key, value in config_lib.flat(config.to_dict()).items():
        words = ["typed"] * (key in given) + [comments[key]] * (key in comments)
        comment = f"  # {': '.join(words)}" if words else ""
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
    there = workdir and epath.Path(workdir).exists()
    lacks = "has no config.json" if there else "does not exist"
    without = f", and {workdir} {lacks}" if workdir else ""
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
                raise ValueError(f"config.{key} is {text[:100]!r}: {error}") from None
        elif kind is tuple:
            text = text if equals else next(words, "")
            try:
                value = config_lib.as_tuple(text, known[key])
            except ValueError as error:
                raise ValueError(f"config.{key} is {text[:100]!r}: {error}") from None
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
