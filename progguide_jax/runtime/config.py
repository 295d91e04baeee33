"""What a run was asked for (ml_collections): written down, compared."""

import ast
import contextlib
import difflib
import functools
import hashlib
import importlib.metadata
import json
import logging
import pathlib
import platform
import subprocess
import sys
import time
from collections.abc import Iterable
from typing import Any

import jax
import ml_collections
from etils import epath
from ml_collections import config_dict

from progguide_jax.runtime import files, hosts, sharding, upgrades

# What may change between the start of a training run and its continuation.
_TRAINING_SECTIONS = ("seed", "data", "noise", "model", "train")
_HARMLESS = """train.num_steps train.log_every train.checkpoint_every train.keep
    train.sample_every train.sample_steps train.fsdp
    train.accumulate train.skip_nonfinite data.dir""".split()

_PACKAGES = """jax jaxlib flax optax orbax-checkpoint numpy ml_collections clu
    tensorflow-datasets tensorflow-cpu tensorflow""".split()


def to_json(config: ml_collections.ConfigDict) -> str:
    """Every key, sorted, but for who the hosts are; tuples become lists."""
    tree = config.to_dict()
    tree.pop("hosts", None)
    if "distributed" in tree:
        tree["distributed"] = False
    return json.dumps(tree, indent=2, sort_keys=True) + "\n"


def from_json(text: str) -> ml_collections.ConfigDict:
    """The config that to_json wrote, also that of an earlier version, in today's keys;
    ValueError if text is something else."""
    return _from_tree(json.loads(text))


def _from_tree(value: Any) -> ml_collections.ConfigDict:
    if not isinstance(value, dict):
        raise ValueError("not a config: the JSON is no object")
    value = {"hosts": hosts.UNNAMED} | upgrades.upgrade(value)
    return ml_collections.ConfigDict(_typed(value))


def _typed(value: Any) -> Any:
    """Lists as tuples and null as a placeholder, which a command line can override."""
    if isinstance(value, dict):
        return {k: _typed(v) for k, v in value.items()}
    if isinstance(value, list):
        return tuple(map(_typed, value))
    return config_dict.placeholder(object) if value is None else value


# what to type for a value of a kind
TO_TYPE = {
    bool: "type true or false",
    int: "type a whole number, such as 64 or 1e3",
    float: "type a decimal number, such as 0.5 or 2e-4",
}
_BOOLS = {"true": True, "t": True, "1": True, "false": False, "f": False, "0": False}


def type_of(config: ml_collections.ConfigDict, key: str) -> type:
    """The type of "section.name", also of one that is None for now."""
    *sections, name = key.split(".")
    return functools.reduce(getattr, sections, config).get_type(name)


def value_of(text: str, kind: type) -> bool | int | float:
    """The value that was typed for a key of this kind, one of TO_TYPE; ValueError says
    what to type."""
    value = _BOOLS.get(text.lower()) if kind is bool else _number(text, kind)
    if value is None:
        raise ValueError(TO_TYPE[kind])
    if isinstance(value, int) and not -(2**63) <= value < 2**63:
        raise ValueError("it does not fit into 64 bits: type a smaller number")
    return value


def _number(text: str, kind: type) -> int | float | None:
    with contextlib.suppress(ValueError):
        return kind(text)
    with contextlib.suppress(ValueError, OverflowError):  # 1e3 for a whole number
        number = float(text)
        return int(number) if number == int(number) else None
    return None


def as_tuple(text: str, before: tuple) -> tuple:
    """The tuple that text holds: as Python writes it, words between commas, or cells
    between semicolons. Its elements are numbers or words as those of `before` are; one
    alone is a tuple of it. ValueError at anything but numbers, words and tuples.
    """
    kind = type(before[0]) if before else None
    try:
        value = ast.literal_eval(text)
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
        words = text.split(";")  # cells, which may have commas of their own
        if "=" not in text and kind in (str, int, float):
            words = text.strip("()[] ").split(",")
        value = [word.strip() for word in words if word.strip()]
    value = tuple(value) if isinstance(value, tuple | list) else (value,)
    if not _is_plain(value):
        raise ValueError("type numbers or words, with commas between them")
    return tuple(_element(v, kind) for v in value) if kind in (int, float) else value


def _is_plain(value: Any) -> bool:
    if isinstance(value, tuple | list):
        return all(map(_is_plain, value))
    return value is None or isinstance(value, bool | int | float | str)


def _element(value: Any, kind: type) -> Any:
    """A number of that kind, if value is one; else value, which the checks refuse."""
    try:
        number = kind(value)
    except (ValueError, TypeError, OverflowError):
        return value
    return number if isinstance(value, str) or number == value else value


def load(path: epath.PathLike) -> ml_collections.ConfigDict:
    """The config of a config.json; ValueError if it is damaged."""
    try:
        return _from_tree(files.load_json(path))
    except ValueError as error:
        raise ValueError(
            f"{path} is damaged: run train.py with the --config of this run, which "
            "writes it again"
        ) from error


def digest(config: ml_collections.ConfigDict) -> str:
    """16 hex digits, the same before and after a JSON round trip."""
    return hashlib.sha256(to_json(config).encode()).hexdigest()[:16]


def difference(a: ml_collections.ConfigDict, b: ml_collections.ConfigDict) -> list[str]:
    """["train.batch_size: 64 -> 128", ...]: what turns a into b."""
    flat_a, flat_b = flat(json.loads(to_json(a))), flat(json.loads(to_json(b)))
    return [
        f"{key}: {flat_a.get(key, 'absent')} -> {flat_b.get(key, 'absent')}"
        for key in sorted(flat_a | flat_b)
        if key not in flat_a or key not in flat_b or flat_a[key] != flat_b[key]
    ]


def unknown_key(key: str, known: Iterable[str]) -> str:
    """What to say of a key that is not one of `known`, with up to four that may be
    meant, those of fewer sections first."""
    known = list(known)
    same = [k for k in known if k.split(".")[-1] == key.split(".")[-1]]
    near = (
        upgrades.renamed(key)
        or [k for k in same if k.split(".")[0] == key.split(".")[0]]
        or same
        or difflib.get_close_matches(key, known, n=2)
    )
    near = sorted(near, key=lambda k: k.count("."))[:4]
    hint = f"did you mean {' or '.join(near)}? " if near else ""
    return f"unknown config key {key!r}: {hint}--print_config lists them all"


def write_provenance(workdir: str, config: ml_collections.ConfigDict) -> None:
    """workdir/config.json and workdir/env.json (argv, versions, devices); host 0 only.

    Initialises the devices.
    """
    if jax.process_index() != 0:
        return
    folder = epath.Path(workdir)
    files.save_json(folder / "config.json", to_dict(config))
    files.save_json(folder / "env.json", _environment())


def versions() -> dict[str, str]:
    """The version of each package that a result can depend on."""
    found = {}
    for package in _PACKAGES:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def as_json(value: Any) -> Any:
    """value as JSON reads it back: tuples are lists."""
    return json.loads(json.dumps(value))


def to_dict(config: ml_collections.ConfigDict) -> dict[str, Any]:
    """Every key as JSON reads it back: tuples are lists."""
    return json.loads(to_json(config))


def set_damaged_aside(workdir: str) -> None:
    """Rename what `write_provenance` wrote to NAME.damaged where it cannot be read, for
    those who write it again from --config. All hosts must call this."""
    if jax.process_index() == 0:
        for name, read in (("config.json", load), ("env.json", files.load_json)):
            path = epath.Path(workdir) / name
            try:
                read(path)
            except FileNotFoundError:
                continue
            except ValueError:
                files.set_aside(files.Damaged(path, "it cannot be read"))
    sharding.barrier("damaged provenance set aside")


def write_missing_provenance(workdir: str, config: ml_collections.ConfigDict) -> None:
    """What `write_provenance` writes, if a part of it is not there."""
    paths = (epath.Path(workdir) / name for name in ("config.json", "env.json"))
    if not all(path.exists() for path in paths):
        write_provenance(workdir, config)


def check_resume(workdir: str, config: ml_collections.ConfigDict) -> None:
    """Raise ValueError if workdir was trained with a config that differs where it
    matters; with config.allow_config_change, log the differences and go on."""
    path = epath.Path(workdir) / "config.json"
    if not path.exists():
        return
    changes = []
    for line in difference(load(path), config):
        key = line.split(":")[0]
        if key == "train.num_steps" and config.train.decay != "constant":
            logging.info("%s: the learning rate follows the longer run", line)
        if key.split(".")[0] in _TRAINING_SECTIONS and key not in _HARMLESS:
            changes.append(line)
    if changes and config.allow_config_change:
        logging.warning("the config of %s changes: %s", workdir, "; ".join(changes))
    elif changes:
        raise ValueError(
            f"{workdir} was trained with another config ({'; '.join(changes)}): use "
            "that config, another --workdir, or --config.allow_config_change"
        )


def flat(tree: Any, prefix: str = "") -> dict[str, Any]:
    """{"train.batch_size": 128, ...} of nested dicts."""
    if not isinstance(tree, dict):
        return {prefix[:-1]: tree}
    return {k: v for n, t in tree.items() for k, v in flat(t, f"{prefix}{n}.").items()}


def _environment() -> dict[str, Any]:
    return {
        "time": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        "argv": sys.argv,
        "git": _git_commit(),
        "python": platform.python_version(),
        "platform": platform.platform(),
        "versions": versions(),
        "devices": [d.device_kind for d in jax.devices()],
        "processes": jax.process_count(),
    }


def _git_commit() -> str | None:
    """The commit of this package, "-dirty" if changed; None if it is not a checkout."""

    def git(*arguments: str) -> str:
        folder = str(pathlib.Path(__file__).parent)
        return subprocess.run(
            ["git", "-C", folder, *arguments],
            capture_output=True,
            check=True,
            text=True,
            timeout=10,
        ).stdout.strip()

    try:
        # a package installed inside somebody's repository is not part of it
        git("ls-files", "--error-unmatch", pathlib.Path(__file__).name)
        return git("describe", "--always", "--dirty", "--abbrev=40", "--exclude=*")
    except (OSError, subprocess.SubprocessError):
        return None
