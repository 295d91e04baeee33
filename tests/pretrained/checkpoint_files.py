"""Checkpoint files written byte by byte, after the descriptions of their formats."""

import json
import struct
import zipfile
from typing import Any, NamedTuple

import numpy as np

STORAGES = {
    "float64": "DoubleStorage",
    "float32": "FloatStorage",
    "float16": "HalfStorage",
    "int64": "LongStorage",
    "int32": "IntStorage",
    "int16": "ShortStorage",
    "int8": "CharStorage",
    "uint8": "ByteStorage",
    "bool": "BoolStorage",
}
SAFE_NAMES = {
    "float64": "F64",
    "float32": "F32",
    "float16": "F16",
    "int64": "I64",
    "int32": "I32",
    "int16": "I16",
    "int8": "I8",
    "uint8": "U8",
    "bool": "BOOL",
}


class Global(NamedTuple):
    module: str
    name: str


class Call(NamedTuple):
    function: Any
    arguments: tuple


class Persistent(NamedTuple):
    id: Any


class Instance(NamedTuple):
    type: Global
    state: Any


def code(value: Any) -> bytes:
    """The opcodes (protocol 2) that leave `value` on the stack."""
    match value:
        case Global(module, name):
            return b"c%b\n%b\n" % (module.encode(), name.encode())
        case Call(function, arguments):
            return code(function) + code(arguments) + b"R"
        case Persistent(id):
            return code(id) + b"Q"
        case Instance(kind, state):
            return code(kind) + b")\x81" + code(state) + b"b"
        case None:
            return b"N"
        case bool():
            return b"\x88" if value else b"\x89"
        case int():
            digits = value.to_bytes(value.bit_length() // 8 + 1, "little", signed=True)
            return b"\x8a" + bytes([len(digits)]) + digits
        case float():
            return b"G" + struct.pack(">d", value)
        case str():
            return b"X" + struct.pack("<I", len(value.encode())) + value.encode()
        case tuple():
            return b"(" + b"".join(map(code, value)) + b"t"
        case list():
            return b"](" + b"".join(map(code, value)) + b"e"
        case dict():
            pairs = (code(k) + code(v) for k, v in value.items())
            return b"}(" + b"".join(pairs) + b"u"


def dump(value: Any) -> bytes:
    return b"\x80\x02" + code(value) + b"."


def storage(key: str, dtype: str, numel: int, legacy: bool = False) -> Persistent:
    kind = Global("torch", STORAGES.get(dtype, "BFloat16Storage"))
    return Persistent(("storage", kind, key, "cpu", numel, *([None] * legacy)))


def tensor(memory: Persistent, offset: int, size: tuple, stride: tuple) -> Call:
    hooks = Call(Global("collections", "OrderedDict"), ())
    rebuild = Global("torch._utils", "_rebuild_tensor_v2")
    return Call(rebuild, (memory, offset, size, stride, False, hooks))


def views(base: np.ndarray, view: np.ndarray) -> tuple[int, tuple, tuple]:
    """offset, size, stride in items of a numpy view of `base`."""
    item = base.itemsize
    start = view.__array_interface__["data"][0] - base.__array_interface__["data"][0]
    return start // item, view.shape, tuple(s // item for s in view.strides)


def write_zip(path, tree: Any, storages: dict[str, bytes], **entries: bytes) -> None:
    """torch.save's archive; entries replace or add parts by name, None leaves out."""
    parts = {"data.pkl": dump(tree), "byteorder": b"little", "version": b"3\n"}
    parts |= {f"data/{key}": data for key, data in storages.items()} | entries
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in parts.items():
            if data is not None:
                archive.writestr(f"archive/{name}", data)


def write_legacy(path, tree: Any, storages: dict[str, tuple[int, bytes]]) -> None:
    """torch.save's old file; storages: key -> (number of values, bytes)."""
    machine = {"protocol_version": 1001, "little_endian": True, "type_sizes": {}}
    parts = [0x1950A86A20F9469CFC6C, 1001, machine, tree, list(storages)]
    with open(path, "wb") as file:
        for part in parts:
            file.write(dump(part))
        for numel, data in storages.values():
            file.write(struct.pack("<q", numel) + data)


def safetensors(header: Any, data: bytes = b"") -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + data


def field(number: int, value: bytes | int) -> bytes:
    """A field of a protocol buffer: bytes with their length, an int as a varint."""
    if isinstance(value, int):
        return varint(number << 3) + varint(value)
    return varint(number << 3 | 2) + varint(len(value)) + value


def varint(n: int) -> bytes:
    n %= 2**64
    out = []
    while n >= 128:
        out.append(n % 128 + 128)
        n //= 128
    return bytes([*out, n])


def constant(name: str, dtype: int, shape: tuple, *values: bytes) -> bytes:
    """A GraphDef of one Const node; values: encoded fields of its TensorProto."""
    dims = b"".join(field(2, field(1, n)) for n in shape)
    proto = field(1, dtype) + field(2, dims) + b"".join(values)
    attribute = field(1, b"value") + field(2, field(8, proto))
    node = field(1, name.encode()) + field(2, b"Const") + field(5, attribute)
    return field(1, node)
