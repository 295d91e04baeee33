"""Bytes of a checkpoint -> numpy arrays, for the dtypes that checkpoints have."""

import numpy as np

# bfloat16 is the upper half of a float32, and is given back as that float32.
ITEM_BYTES = {
    "float64": 8,
    "float32": 4,
    "float16": 2,
    "bfloat16": 2,
    "int64": 8,
    "int32": 4,
    "int16": 2,
    "int8": 1,
    "uint8": 1,
    "bool": 1,
}


def decode(
    data: bytes | memoryview, dtype: str, little_endian: bool = True
) -> np.ndarray:
    """The values [N] in `data`, whose length is a multiple of the item's.

    dtype: a key of ITEM_BYTES. The array has the machine's byte order; it may be
    read-only and share the memory of `data`.
    """
    order = "<" if little_endian else ">"
    if dtype == "bfloat16":
        return from_bfloat16(np.frombuffer(data, f"{order}u2"))
    if dtype == "bool":
        return np.frombuffer(data, np.uint8) != 0
    stored = np.frombuffer(data, np.dtype(dtype).newbyteorder(order))
    return stored.astype(dtype, copy=False)


def from_bfloat16(bits: np.ndarray) -> np.ndarray:
    """bfloat16 given as its 16 bits -> float32 of the same value, exactly."""
    return np.left_shift(bits.astype(np.uint32), np.uint32(16)).view(np.float32)
