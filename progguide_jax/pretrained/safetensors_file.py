"""The safetensors format: a JSON header, then the tensors without gaps.

Format: https://github.com/huggingface/safetensors#format. Read here rather than by its
library, because bfloat16 is no numpy dtype and the whole format is this one page.
"""

import json
import math
from typing import Any, BinaryIO

import numpy as np

from progguide_jax.pretrained import raw_arrays

_HEADER_LIMIT = 100_000_000  # bytes; the same limit as the library's
_DTYPES = {
    "F64": "float64",
    "F32": "float32",
    "F16": "float16",
    "BF16": "bfloat16",
    "I64": "int64",
    "I32": "int32",
    "I16": "int16",
    "I8": "int8",
    "U8": "uint8",
    "BOOL": "bool",
}


def looks_like(head: bytes) -> bool:
    """Whether a file may begin with these bytes (9 at least)."""
    length = int.from_bytes(head[:8], "little")
    return 2 <= length <= _HEADER_LIMIT and head[8:9] == b"{"


def read(file: BinaryIO, size: int) -> dict[str, np.ndarray]:
    """Every tensor of an open file of `size` bytes; ValueError if it is not sound."""
    length = int.from_bytes(file.read(8), "little")
    if length > size - 8:
        raise ValueError(
            f"truncated: a safetensors header of {length} bytes in a file of {size}"
        )
    header = _header(file.read(length))
    data_bytes = size - 8 - length
    tensors: dict[str, np.ndarray] = {}
    position = 0
    for name, entry in sorted(header.items(), key=lambda item: _offsets(*item)):
        begin, end = _offsets(name, entry)
        if begin != position:
            what = "overlaps the one before" if begin < position else "follows a gap"
            raise ValueError(f"damaged safetensors file: tensor {name!r} {what}")
        if end > data_bytes:
            raise ValueError(
                f"truncated: safetensors tensor {name!r} ends at byte {end} of "
                f"{data_bytes}"
            )
        position = end
        dtype, shape = _type(name, entry, end - begin)
        values = raw_arrays.decode(file.read(end - begin), dtype)
        tensors[name] = values.reshape(shape)
    if position != data_bytes:
        raise ValueError(
            f"damaged safetensors file: {data_bytes - position} bytes after the last "
            "tensor"
        )
    return tensors


def _header(text: bytes) -> dict[str, Any]:
    """Name -> entry; the library's own __metadata__ is left out."""
    try:
        header = json.loads(text, object_pairs_hook=_unique)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"damaged safetensors header ({error})") from error
    if not isinstance(header, dict):
        raise ValueError("damaged safetensors header: not a JSON object")
    header.pop("__metadata__", None)
    return header


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result = dict(pairs)
    if len(result) != len(pairs):
        raise ValueError("a name occurs twice")
    return result


def _offsets(name: str, entry: Any) -> tuple[int, int]:
    """Where the bytes of a tensor begin and end after the header."""
    offsets = entry.get("data_offsets") if isinstance(entry, dict) else None
    if not _naturals(offsets) or len(offsets) != 2 or offsets[0] > offsets[1]:
        raise ValueError(
            f"damaged safetensors header: tensor {name!r} has data_offsets {offsets!r}"
        )
    return offsets[0], offsets[1]


def _type(name: str, entry: dict[str, Any], num_bytes: int) -> tuple[str, list[int]]:
    """The dtype and shape of a tensor of num_bytes."""
    stored, shape = entry.get("dtype"), entry.get("shape")
    if not isinstance(stored, str) or stored not in _DTYPES:
        raise ValueError(
            f"tensor {name!r} has the dtype {stored!r}: readable are "
            f"{', '.join(_DTYPES)}"
        )
    dtype = _DTYPES[stored]
    if not _naturals(shape):
        raise ValueError(
            f"damaged safetensors header: tensor {name!r} has shape {shape!r}"
        )
    if math.prod(shape) * raw_arrays.ITEM_BYTES[dtype] != num_bytes:
        raise ValueError(
            f"damaged safetensors header: tensor {name!r} {stored} {shape} has "
            f"{num_bytes} bytes"
        )
    return dtype, shape


def _naturals(value: Any) -> bool:
    """Whether value is a list of at most 64 integers in 0 ... 2^63 - 1."""
    known = isinstance(value, list) and len(value) <= 64
    return known and all(type(n) is int and 0 <= n < 2**63 for n in value)
