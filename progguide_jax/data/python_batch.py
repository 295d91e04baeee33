"""The python batches of CIFAR-10: pickles of a dict, read without executing anything.

numpy's own functions are not called: the state of a dtype, of which a pickle may say
anything, can end the interpreter.
"""

import io
import re
from typing import Any

import numpy as np

from progguide_jax.formats import pickles

_DTYPE = re.compile(r"[<>|=]?[biu][1248]")


def read(data: bytes) -> tuple[np.ndarray, np.ndarray]:
    """(pixels [n,3072], labels [n]) of a batch; ValueError if it is damaged or none."""
    content = pickles.expect(_Machine().load(io.BytesIO(data)), dict)
    content = {k.decode() if type(k) is bytes else k: v for k, v in content.items()}
    if not {"data", "labels"} <= set(content):
        raise ValueError("it has no data or no labels")
    pixels, labels = pickles.expect(content["data"], _Array).array, content["labels"]
    if isinstance(labels, _Array):
        labels = labels.array
    elif any(type(k) is not int for k in pickles.expect(labels, list)):
        raise ValueError("its labels are no whole numbers")
    if pixels is None or pixels.ndim != 2 or labels is None:
        raise ValueError("its data are no array of two axes")
    return pixels, np.asarray(labels)


class _Type:
    """Stands for a dtype: its name, and the byte order that its state adds."""

    def __init__(self, name: Any, *copy: Any):
        self.name = name.decode() if isinstance(name, bytes) else name
        if not isinstance(self.name, str) or not _DTYPE.fullmatch(self.name):
            raise ValueError("an array of something else than whole numbers")

    def order(self, state: Any) -> None:
        # (version, byte order, no parts, no names, no fields, ...)
        match state:
            case (3, bytes() | str() as order, None, None, None, *_):
                order = order.decode() if isinstance(order, bytes) else order
            case _:
                raise ValueError("a dtype with parts")
        if order not in ("<", ">", "|", "="):
            raise ValueError("a dtype of an unknown byte order")
        self.name = order + self.name.lstrip("<>|=")


class _Array:
    """Stands for an array until its state is known."""

    array: np.ndarray | None = None

    def __init__(self, *empty: Any):
        pass

    def fill(self, state: Any) -> None:
        match state:  # (version, shape, dtype, whether in the order of Fortran, bytes)
            case (
                1,
                tuple(shape),
                _Type(name=name),
                flag,
                bytes() | bytearray() as data,
            ):
                order = "F" if flag else "C"
            case _:
                raise ValueError("an array of objects, or of no known state")
        if any(type(n) is not int or n < 0 for n in shape):
            raise ValueError("an array of a negative shape")
        self.array = np.frombuffer(data, name).reshape(shape, order=order)


def _from_buffer(data: Any, dtype: Any, shape: Any, order: Any) -> _Array:
    array = _Array()
    array.fill((1, shape, dtype, order == "F", data))
    return array


def _encode(text: Any, encoding: Any) -> bytes:
    return pickles.expect(text, str).encode("latin-1")


_NAMED = {
    "numpy.ndarray": None,
    "numpy.dtype": _Type,
    "multiarray._reconstruct": _Array,
    # How Python 3 writes arrays at protocol 5 and bytes at protocol 2.
    "numeric._frombuffer": _from_buffer,
    "_codecs.encode": _encode,
}


class _Machine(pickles.Machine):
    keys = (bytes,)

    def named(self, whole: str) -> Any:
        short = whole
        for core in ("numpy.core.", "numpy._core."):  # before and since numpy 2
            short = short.removeprefix(core)
        return _NAMED[short] if short in _NAMED else super().named(whole)

    def build(self, target: Any, state: Any) -> None:
        if type(target) is _Type:
            target.order(state)
        else:
            pickles.expect(target, _Array).fill(state)

    def text(self, characters: str) -> bytes:
        return characters.encode("latin-1")
