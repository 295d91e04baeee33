"""Weights under their names elsewhere -> the variables of a Flax module, strictly."""

import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

_PARTS = 16  # a weight's part may fill a variable, as a third of query-key-value
_SHOWN = 3  # names in an error, for each kind of mistake


def keep(x: np.ndarray) -> np.ndarray:
    """The weight as it is."""
    return x


def conv(x: np.ndarray) -> np.ndarray:
    """A convolution's kernel, OIHW -> HWIO."""
    return np.transpose(x, (2, 3, 1, 0))


def dense(x: np.ndarray) -> np.ndarray:
    """A linear layer's kernel, [out,in] -> [in,out]."""
    return np.transpose(x, (1, 0))


class Renaming(NamedTuple):
    r"""Where the weights of one kind belong.

    source: a regular expression for the whole name, as in r"layer(\d)\.conv\.weight".
    target: the "/"-joined path of the variable, as in r"params/layer\1/conv/kernel";
    \1 ... are the groups of the match. transform: array -> array of the target's shape.
    """

    source: str
    target: str
    transform: Callable[[np.ndarray], np.ndarray] = keep


def convert(
    source: Mapping[str, np.ndarray],
    rules: Sequence[Renaming],
    target: Mapping[str, Any],
    *,
    ignore: Sequence[str] = (),
    where: str = "the weights",
) -> dict[str, Any]:
    """The nested dict of `target`, filled from `source` by `rules`.

    target: collections -> nested dicts of arrays or jax.ShapeDtypeStruct, as
    jax.eval_shape(module.init, ...) returns them; the result has numpy arrays of these
    shapes and dtypes, perhaps read-only. Every rule that matches a name is applied to
    it; ignore: regular expressions for names that need no rule. ValueError, one line
    beginning with `where`, unless every name is used or ignored and every variable is
    filled once, with finite values of its shape.
    """
    wanted = _flatten(target)
    mistakes: dict[str, list[str]] = {}
    filled: dict[str, list[str]] = {}  # path of a variable -> names that fill it
    found: dict[str, np.ndarray] = {}

    def mistake(kind: str, what: str) -> None:
        mistakes.setdefault(kind, []).append(what)

    compiled = [(re.compile(rule.source), rule) for rule in rules]
    for name, value in source.items():
        matches = [
            (m, rule) for regex, rule in compiled if (m := regex.fullmatch(name))
        ]
        if not matches and not any(re.fullmatch(regex, name) for regex in ignore):
            mistake("unused", name)
        for match, rule in matches:
            path = match.expand(rule.target)
            if path not in wanted:
                mistake("without a place in the network", f"{name} -> {path}")
                continue
            filled.setdefault(path, []).append(name)
            array = _fit(value, rule.transform, wanted[path])
            if array is None:
                shapes = f"{_shape(value)} for {_shape(wanted[path])} of {path}"
                mistake("of the wrong shape", f"{name} {shapes}")
            elif not np.all(np.isfinite(array)):
                mistake("not finite", name)
            else:
                found[path] = array
    for path, names in filled.items():
        if len(names) > 1:
            mistake("filled more than once", f"{path} by {_few(names, ' and ')}")
    for path in wanted:
        if path not in filled:
            mistake("missing", path)
    if mistakes:
        kinds = (f"{kind}: {_few(what)}" for kind, what in mistakes.items())
        raise ValueError(f"{where} do not fit the network: {'; '.join(kinds)}")
    return _nest(found, target)


def _fit(value: np.ndarray, transform: Callable, like: Any) -> np.ndarray | None:
    """transform(value) in the dtype of `like`; None if the shape is another."""
    if value.size > _PARTS * math.prod(like.shape):
        return None  # perhaps a view of one value, large only when copied
    try:
        array = transform(value)
    except (ValueError, IndexError):  # a transpose or split of another rank
        return None
    if array.shape != tuple(like.shape):
        return None
    with np.errstate(over="ignore"):  # what overflows is then not finite
        # ascontiguousarray would turn shape () into (1,)
        return np.asarray(array, dtype=like.dtype, order="C")


def _flatten(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, child in tree.items():
        if isinstance(child, Mapping):
            flat |= _flatten(child, f"{prefix}{name}/")
        else:
            flat[f"{prefix}{name}"] = child
    return flat


def _nest(flat: Mapping[str, Any], like: Mapping[str, Any], prefix: str = "") -> dict:
    return {
        name: _nest(flat, child, f"{prefix}{name}/")
        if isinstance(child, Mapping)
        else flat[f"{prefix}{name}"]
        for name, child in like.items()
    }


def _shape(x: Any) -> str:
    return f"[{','.join(map(str, x.shape))}]"


def _few(names: Iterable[str], separator: str = ", ") -> str:
    """The first names and how many there are in all."""
    names = list(names)
    shown = separator.join(names[:_SHOWN])
    return shown if len(names) <= _SHOWN else f"{shown}, ... ({len(names)} in all)"
