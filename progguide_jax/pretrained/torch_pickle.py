"""The pickles inside torch's files, read without torch and without executing anything.

A pickle is a program that may call any function. Here it can name only what `_GLOBALS`
and `_named` list, none of which acts on anything outside the result, and tensors stay
descriptions (`Tensor`) of parts of storages that the caller reads.

It may also let a tuple hold another one twice, and that one the same, so that a few
bytes say 2^n things. Nothing here may therefore hash, compare, print or copy a value
before it is known to be small, which Python's own reader does for the keys of a dict.
"""

import os
import pickletools
from typing import Any, BinaryIO, NamedTuple

# torch.<name>Storage -> dtype of raw_arrays
_STORAGES = {
    "Double": "float64",
    "Float": "float32",
    "Half": "float16",
    "BFloat16": "bfloat16",
    "Long": "int64",
    "Int": "int32",
    "Short": "int16",
    "Char": "int8",
    "Byte": "uint8",
    "Bool": "bool",
}
_DTYPES = """float64 float32 float16 bfloat16 int64 int32 int16 int8 uint8 bool double
    float half long int short""".split()
_CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False, "EMPTY_TUPLE": ()}
# Opcodes that push their argument, as pickletools decodes it
_LITERALS = set(
    """INT BININT BININT1 BININT2 LONG LONG1 LONG4 FLOAT BINFLOAT STRING UNICODE
    BINUNICODE SHORT_BINUNICODE BINUNICODE8 BINBYTES SHORT_BINBYTES BINBYTES8
    BYTEARRAY8""".split()
)
_TUPLES = {"TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}
_MAX_DIMENSIONS = 64  # of numpy's arrays


class Storage(NamedTuple):
    """The flat memory [numel] that tensors are views of; key: its name in the file."""

    key: str
    dtype: str
    numel: int


class Tensor(NamedTuple):
    """A view of a storage; offset and stride count items."""

    storage: Storage
    offset: int
    size: tuple[int, ...]
    stride: tuple[int, ...]


class _StorageType(NamedTuple):
    dtype: str


class Module:
    """Stands for a TorchScript object; keeps its attributes, has no code."""

    attributes: Any = None


def load(file: BinaryIO) -> tuple[Any, dict[str, Storage]]:
    """The object of the pickle at the file's position, and its storages by key.

    Leaves the position behind the pickle. Sets come as lists. ValueError, naming what
    it found, if the pickle is damaged or wants anything but tensors and containers.
    """
    machine = _Machine()
    try:
        return machine.run(_Bounded(file)), machine.storages
    except (IndexError, KeyError) as error:  # of the stack, the marks or the memo
        raise ValueError(
            "cannot read its pickle: it takes what is not there"
        ) from error
    except Exception as error:  # a damaged pickle can raise almost anything
        reason = " ".join(str(error)[:300].split()) or type(error).__name__
        raise ValueError(f"cannot read its pickle: {reason}") from error


class _Bounded:
    """A file that is asked for no more than it has: what is asked for is allocated."""

    def __init__(self, file: BinaryIO):
        self.file, self.tell = file, file.tell
        start = file.tell()
        self.size = file.seek(0, os.SEEK_END)
        file.seek(start)

    def read(self, size: int) -> bytes:
        return self.file.read(min(size, self.size))

    def readline(self) -> bytes:
        return self.file.readline(1 << 20)


class _Machine:
    """What the opcodes of a pickle act on."""

    def __init__(self) -> None:
        self.stack: list[Any] = []
        self.marks: list[int] = []  # lengths that the stack had
        self.memo: dict[int, Any] = {}
        self.storages: dict[str, Storage] = {}
        self.copied = 0  # items of lists that became dicts

    def run(self, file: _Bounded) -> Any:
        for count, (opcode, argument, _) in enumerate(pickletools.genops(file)):
            self._step(opcode.name, argument, count)
        return self.stack.pop()

    def _step(self, opcode: str, argument: Any, count: int) -> None:
        stack = self.stack
        match opcode:
            case "PROTO" | "FRAME" | "STOP":
                pass
            case "MARK":
                self.marks.append(len(stack))
            case _ if opcode in _CONSTANTS:
                stack.append(_CONSTANTS[opcode])
            case _ if opcode in _LITERALS:
                stack.append(argument)
            case "BINSTRING" | "SHORT_BINSTRING":  # strings of Python 2
                stack.append(argument.encode("latin-1").decode())
            case "BINPUT" | "LONG_BINPUT" | "PUT":
                # Other numbers may be chosen so that their hashes are the same.
                if not 0 <= argument <= count:
                    raise ValueError(f"memo index {argument} after {count} opcodes")
                self.memo[argument] = stack[-1]
            case "MEMOIZE":
                self.memo[len(self.memo)] = stack[-1]
            case "BINGET" | "LONG_BINGET" | "GET":
                stack.append(self.memo[argument])
            case "GLOBAL":
                stack.append(_named(argument.replace(" ", ".", 1)))
            case "STACK_GLOBAL":
                names = self._popped(2)
                if max(map(len, names)) > 1000:
                    raise ValueError("it asks for a name of more than 1000 characters")
                stack.append(_named(".".join(names)))
            case "BINPERSID":
                stack.append(self._storage(stack.pop()))
            case "REDUCE":
                stack.append(self._called(*self._popped(2), count))
            case _:
                self._contain(opcode)

    def _contain(self, opcode: str) -> None:
        """The opcodes of containers and objects."""
        stack = self.stack
        match opcode:
            case "EMPTY_LIST" | "EMPTY_SET":
                stack.append([])
            case "LIST" | "FROZENSET":
                stack.append(self._marked())
            case "APPEND":
                value = stack.pop()
                _expect(stack[-1], list).append(value)
            case "APPENDS" | "ADDITEMS":
                values = self._marked()
                _expect(stack[-1], list).extend(values)
            case "TUPLE":
                stack.append(tuple(self._marked()))
            case _ if opcode in _TUPLES:
                stack.append(tuple(self._popped(_TUPLES[opcode])))
            case "EMPTY_DICT":
                stack.append({})
            case "DICT":
                stack.append(_fill({}, self._marked()))
            case "SETITEM":
                pair = self._popped(2)
                _fill(stack[-1], pair)
            case "SETITEMS":
                pairs = self._marked()
                _fill(stack[-1], pairs)
            case "NEWOBJ":
                kind, arguments = self._popped(2)
                if kind is not Module or arguments != ():
                    raise ValueError(f"it makes an object of a {type(kind).__name__}")
                stack.append(Module())
            case "BUILD":
                state = stack.pop()
                # A dict's are those of an OrderedDict, as _metadata of a state_dict.
                if type(stack[-1]) is not dict:
                    _expect(stack[-1], Module).attributes = state
            case _:
                raise ValueError(
                    f"it has the opcode {opcode}, which torch never writes"
                )

    def _popped(self, n: int) -> list[Any]:
        values = [self.stack.pop() for _ in range(n)]
        return values[::-1]

    def _marked(self) -> list[Any]:
        """What was pushed since the last mark."""
        mark = self.marks.pop()
        values = self.stack[mark:]
        del self.stack[mark:]
        return values

    def _called(self, function: Any, arguments: Any, count: int) -> Any:
        if not callable(function):
            raise ValueError(f"a {type(function).__name__} is not callable")
        if len(_expect(arguments, tuple)) > 8:
            raise ValueError(f"it calls with {len(arguments)} arguments")
        if function is _ordered_dict and arguments:
            # Python 2 writes a list for each; one for many would be copied often.
            self.copied += len(_expect(arguments[0], list))
            if self.copied > count:
                raise ValueError("it makes many dicts of one list")
        return function(*arguments)

    def _storage(self, pid: Any) -> Storage:
        # ("storage", type, key, device, numel), in the old format with a view's place
        match pid:
            case ("storage", _StorageType(dtype), str(key), _, int(numel), *view) if (
                0 <= numel < 2**63
                and len(key) < 100
                and (not view or (len(view) == 1 and view[0] is None))
            ):
                storage = Storage(key, dtype, numel)
            case _:
                raise ValueError(
                    f"it asks for a {type(pid).__name__} outside, which is no storage"
                )
        if self.storages.setdefault(key, storage) != storage:
            raise ValueError(f"storage {key} is used as two types")
        return storage


def _expect(value: Any, kind: type) -> Any:
    """The value, if of this very type: a Tensor is a tuple too."""
    if type(value) is not kind:
        raise ValueError(f"a {type(value).__name__} where a {kind.__name__} belongs")
    return value


def _fill(target: Any, pairs: list[Any]) -> dict:
    """Puts [key, value, key, value, ...] into a dict."""
    _expect(target, dict)
    if len(pairs) % 2:
        raise ValueError("a key without a value")
    for key, value in zip(pairs[::2], pairs[1::2], strict=True):
        if type(key) not in (str, int, float, bool, type(None)):
            raise ValueError(f"a dict has a {type(key).__name__} for a key")
        # Below, the hash of an integer is itself; above, many may have the same.
        if type(key) is int and abs(key) >= 2**60:
            raise ValueError("a dict has a key of more than 60 bits")
        target[key] = value
    return target


def _named(whole: str) -> Any:
    """What "module.name" stands for."""
    if whole in _GLOBALS:
        return _GLOBALS[whole]
    if whole.startswith("__torch__."):
        return Module
    raise ValueError(
        f"it asks for {whole[:100]!r}, which is refused because it may be code: save "
        "only the state dict of the network"
    )


def _ordered_dict(pairs: Any = ()) -> dict:
    target: dict = {}
    for pair in pairs:
        _fill(target, list(_sequence(pair, 2)))
    return target


def _sequence(value: Any, limit: int) -> tuple:
    """A list or tuple as a tuple."""
    if type(value) not in (list, tuple):
        raise ValueError(f"a {type(value).__name__} where a tuple belongs")
    if len(value) > limit:
        raise ValueError(f"{len(value)} items where at most {limit} belong")
    return tuple(value)


def _rebuild_tensor(storage: Any, offset: Any, size: Any, stride: Any) -> Tensor:
    size, stride = (_sequence(x, _MAX_DIMENSIONS) for x in (size, stride))
    numbers = (offset, *size, *stride)
    if any(type(n) is not int or abs(n) >= 2**63 for n in numbers):
        raise ValueError(
            "a tensor whose size, stride or offset is no integer of 64 bits"
        )
    if (
        type(storage) is not Storage
        or len(size) != len(stride)
        or any(n < 0 for n in numbers)
    ):
        raise ValueError(
            f"a tensor of size {size}, stride {stride} and offset {offset}"
        )
    return Tensor(storage, offset, size, stride)


def _rebuild_tensor_v2(
    storage: Any,
    offset: Any,
    size: Any,
    stride: Any,
    requires_grad: Any,
    hooks: Any,
    metadata: Any = None,
) -> Tensor:
    if metadata:  # bits such as "neg": the values are not those that are stored
        names = [name for name, bit in _expect(metadata, dict).items() if bit]
        if names:
            raise ValueError(f"a tensor with the bit {str(names[0])[:20]!r}")
        if len(metadata) > 8:  # one dict for many tensors would be searched often
            raise ValueError("a tensor with many metadata")
    return _rebuild_tensor(storage, offset, size, stride)


_GLOBALS: dict[str, Any] = {
    "collections.OrderedDict": _ordered_dict,
    "torch._utils._rebuild_tensor": _rebuild_tensor,
    "torch._utils._rebuild_tensor_v2": _rebuild_tensor_v2,
    "torch._utils._rebuild_parameter": lambda data, grad, hooks: data,
    "torch.Size": lambda numbers: _sequence(numbers, _MAX_DIMENSIONS),
    "torch.device": lambda *name: None,
    **{f"torch.{name}": f"torch.{name}" for name in _DTYPES},
    **{f"torch.{name}Storage": _StorageType(to) for name, to in _STORAGES.items()},
    "torch.jit._pickle.restore_type_tag": lambda value, type_name: value,
    **{
        f"torch.jit._pickle.build_{kind}list": lambda values: _expect(values, list)
        for kind in ("int", "double", "bool", "tensor")
    },
}
