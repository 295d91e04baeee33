"""The constants of a frozen TensorFlow graph, read without TensorFlow.

Only the wire format of protocol buffers (https://protobuf.dev/programming-guides/
encoding) and the few fields of tensorflow/core/framework/{graph,node_def,attr_value,
tensor,tensor_shape,types}.proto that a Const node has.
"""

import math
from collections.abc import Iterator

import numpy as np

from progguide_jax.pretrained import raw_arrays

_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5  # wire types
_GRAPH_FIELDS = {1, 2, 3, 4, 5}  # node, library, versions, debug_info
_NODE, _NODE_NAME, _NODE_OP, _NODE_ATTR = 1, 1, 2, 5
_KEY, _VALUE, _ATTR_TENSOR = 1, 2, 8
_DTYPE, _SHAPE, _CONTENT = 1, 2, 4
_DIM, _DIM_SIZE, _UNKNOWN_RANK = 2, 1, 3
_STRING = 7
# DataType -> dtype of raw_arrays, the field that lists its values
_TYPES = {
    1: ("float32", 5),
    2: ("float64", 6),
    3: ("int32", 7),
    4: ("uint8", 7),
    5: ("int16", 7),
    6: ("int8", 7),
    9: ("int64", 10),
    10: ("bool", 11),
    14: ("bfloat16", 13),
    19: ("float16", 13),
}
_MAX_FILLED = 2**24  # values of all constants of which a file leaves some out
_FIXED = {_FIXED32: 4, _FIXED64: 8}


def looks_like(head: bytes) -> bool:
    """Whether a file may begin with these bytes: a node, and in it a name."""
    try:
        position = _varint(head, 1)[1]
    except ValueError:
        return False
    return head[:1] == head[position : position + 1] == b"\n"


def read(data: memoryview) -> dict[str, np.ndarray]:
    """Name of each Const node -> its value; those of strings are left out.

    data: the whole file. ValueError if it is no GraphDef or cut short.
    """
    constants: dict[str, np.ndarray] = {}
    room = _MAX_FILLED
    for field, wire, value in _fields(data):
        if field not in _GRAPH_FIELDS:
            raise ValueError(f"no GraphDef: it has a field {field}")
        if field != _NODE:
            continue
        name, op, tensor = _node(_message(wire, value))
        if op == "Const" and tensor is not None:
            try:
                array, filled = _tensor(tensor, room)
            except ValueError as error:
                raise ValueError(f"the constant {name}: {error}") from error
            if name in constants:
                raise ValueError(f"two constants have the name {name}")
            room -= filled
            if array is not None:
                constants[name] = array
    return constants


def _node(data: memoryview) -> tuple[str, str, memoryview | None]:
    """Name and operation of a node, and its attribute "value" if that is a tensor."""
    name = op = ""
    tensor = None
    for field, wire, value in _fields(data):
        if field == _NODE_NAME:
            name = str(_message(wire, value), "utf-8")
        elif field == _NODE_OP:
            op = str(_message(wire, value), "utf-8")
        elif field == _NODE_ATTR:
            entry = {f: (w, v) for f, w, v in _fields(_message(wire, value))}
            if _message(*entry.get(_KEY, (_BYTES, b""))) == b"value":
                attr = _message(*entry.get(_VALUE, (_BYTES, b"")))
                for f, w, v in _fields(attr):
                    if f == _ATTR_TENSOR:
                        tensor = _message(w, v)
    return name, op, tensor


def _tensor(data: memoryview, room: int) -> tuple[np.ndarray | None, int]:
    """The value of a TensorProto, None for strings; how many of its values were made
    because the file leaves some out, at most `room`."""
    dtype, shape, content, listed = 0, [], None, {}
    for field, wire, value in _fields(data):
        if field == _DTYPE and wire == _VARINT:
            dtype = value
        elif field == _SHAPE:
            shape = _shape(_message(wire, value))
        elif field == _CONTENT:
            content = _message(wire, value)
        else:
            listed.setdefault(field, []).append((wire, value))
    if dtype == _STRING:
        return None, 0
    if dtype not in _TYPES:
        raise ValueError(f"type {dtype} is none of floats, integers and bool")
    kind, field = _TYPES[dtype]
    count = math.prod(shape)
    if content:
        if len(content) != count * raw_arrays.ITEM_BYTES[kind]:
            raise ValueError(f"{len(content)} bytes for {kind} {shape}")
        return raw_arrays.decode(content, kind).reshape(shape), 0
    values = _listed(listed.get(field, []), kind)
    if len(values) > count:
        raise ValueError(f"{len(values)} values for {kind} {shape}")
    if len(values) <= 1:
        # A view, because a few bytes may ask for any shape.
        value = values[0] if len(values) else np.zeros((), values.dtype)
        return np.broadcast_to(value, shape), 0
    filled = count if len(values) < count else 0
    if filled > room:
        raise ValueError(f"{len(values)} values for {kind} {shape}, the rest left out")
    # The last value stands for all that are left out.
    return np.pad(values, (0, count - len(values)), mode="edge").reshape(shape), filled


def _listed(parts: list, kind: str) -> np.ndarray:
    """Values [N] of a repeated field, packed or one by one."""
    if kind in ("float32", "float64"):
        if any(wire == _VARINT for wire, _ in parts):
            raise ValueError(f"no GraphDef: integers for {kind}")
        return raw_arrays.decode(b"".join(value for _, value in parts), kind)
    numbers = []
    for wire, value in parts:
        if wire == _VARINT:
            numbers.append(value)
            continue
        position, data = 0, _message(wire, value)
        while position < len(data):
            number, position = _varint(data, position)
            numbers.append(number)
    bits = np.array(numbers, np.uint64)
    if kind == "bfloat16":
        return raw_arrays.from_bfloat16(bits.astype(np.uint16))
    if kind == "float16":
        return bits.astype(np.uint16).view(np.float16)
    return bits.astype(kind)  # negative numbers are stored modulo 2^64


def _shape(data: memoryview) -> list[int]:
    shape = []
    for field, wire, value in _fields(data):
        if field == _UNKNOWN_RANK and value:
            raise ValueError("its shape is unknown")
        if field == _DIM:
            dim = {f: v for f, w, v in _fields(_message(wire, value)) if w == _VARINT}
            shape.append(dim.get(_DIM_SIZE, 0))
    if any(not 0 <= size < 2**63 for size in shape) or len(shape) > 32:
        raise ValueError(f"its shape is {shape[:8]}")
    return shape


def _fields(data: memoryview) -> Iterator[tuple[int, int, memoryview | int]]:
    """(number, wire type, value) of each field; a varint as an int, others as bytes."""
    position = 0
    while position < len(data):
        tag, position = _varint(data, position)
        field, wire = tag >> 3, tag & 7
        if wire == _VARINT:
            value, position = _varint(data, position)
            yield field, wire, value
            continue
        if wire == _BYTES:
            length, position = _varint(data, position)
        elif wire in _FIXED:
            length = _FIXED[wire]
        else:
            raise ValueError(f"no GraphDef: wire type {wire}")
        if length > len(data) - position:
            raise ValueError("truncated, or no GraphDef")
        yield field, wire, data[position : position + length]
        position += length


def _message(wire: int, value: memoryview | int) -> memoryview:
    if wire != _BYTES:
        raise ValueError(f"no GraphDef: wire type {wire} where bytes belong")
    return value


def _varint(data: bytes | memoryview, position: int) -> tuple[int, int]:
    """The number at a position, and the position after it."""
    result = 0
    for shift in range(0, 70, 7):
        if position >= len(data):
            raise ValueError("truncated, or no GraphDef")
        byte = data[position]
        position += 1
        result |= (byte & 0x7F) << shift
        if byte < 0x80:
            return result & 0xFFFF_FFFF_FFFF_FFFF, position
    raise ValueError("no GraphDef: a number of more than 64 bits")
