"""The pickles inside torch's files, read without torch and without executing anything.

A pickle is a program that may call any function. Here it can name only what
`torch_names.named` knows.

It may also let a tuple hold another one twice, and that one the same, so that a few
bytes say 2^n things. Nothing here may therefore hash, compare, print or copy a value
before it is known to be small, which Python's own reader does for the keys of a dict.
"""

import os
import pickletools
from typing import Any, BinaryIO

from progguide_jax.pretrained import torch_names

_CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False, "EMPTY_TUPLE": ()}
# Opcodes that push their argument, as pickletools decodes it
_LITERALS = set(
    """INT BININT BININT1 BININT2 LONG LONG1 LONG4 FLOAT BINFLOAT STRING UNICODE
    BINUNICODE SHORT_BINUNICODE BINUNICODE8 BINBYTES SHORT_BINBYTES BINBYTES8
    BYTEARRAY8""".split()
)
_TUPLES = {"TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}


def load(file: BinaryIO) -> tuple[Any, dict[str, torch_names.Storage]]:
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
        self.storages: dict[str, torch_names.Storage] = {}
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
                stack.append(torch_names.named(argument.replace(" ", ".", 1)))
            case "STACK_GLOBAL":
                names = self._popped(2)
                if max(map(len, names)) > 1000:
                    raise ValueError("it asks for a name of more than 1000 characters")
                stack.append(torch_names.named(".".join(names)))
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
                torch_names.expect(stack[-1], list).append(value)
            case "APPENDS" | "ADDITEMS":
                values = self._marked()
                torch_names.expect(stack[-1], list).extend(values)
            case "TUPLE":
                stack.append(tuple(self._marked()))
            case _ if opcode in _TUPLES:
                stack.append(tuple(self._popped(_TUPLES[opcode])))
            case "EMPTY_DICT":
                stack.append({})
            case "DICT":
                stack.append(torch_names.fill({}, self._marked()))
            case "SETITEM":
                pair = self._popped(2)
                torch_names.fill(stack[-1], pair)
            case "SETITEMS":
                pairs = self._marked()
                torch_names.fill(stack[-1], pairs)
            case "NEWOBJ":
                kind, arguments = self._popped(2)
                if kind is not torch_names.Module or arguments != ():
                    raise ValueError(f"it makes an object of a {type(kind).__name__}")
                stack.append(torch_names.Module())
            case "BUILD":
                state = stack.pop()
                # A dict's are those of an OrderedDict, as _metadata of a state_dict.
                if type(stack[-1]) is not dict:
                    torch_names.expect(stack[-1], torch_names.Module).attributes = state
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
        if len(torch_names.expect(arguments, tuple)) > 8:
            raise ValueError(f"it calls with {len(arguments)} arguments")
        if function is torch_names.ordered_dict and arguments:
            # Python 2 writes a list for each; one for many would be copied often.
            self.copied += len(torch_names.expect(arguments[0], list))
            if self.copied > count:
                raise ValueError("it makes many dicts of one list")
        return function(*arguments)

    def _storage(self, pid: Any) -> torch_names.Storage:
        # ("storage", type, key, device, numel), in the old format with a view's place
        match pid:
            case (
                "storage",
                torch_names.StorageType(dtype),
                str(key),
                _,
                int(numel),
                *view,
            ) if (
                0 <= numel < 2**63
                and len(key) < 100
                and (not view or (len(view) == 1 and view[0] is None))
            ):
                storage = torch_names.Storage(key, dtype, numel)
            case _:
                raise ValueError(
                    f"it asks for a {type(pid).__name__} outside, which is no storage"
                )
        if self.storages.setdefault(key, storage) != storage:
            raise ValueError(f"storage {key} is used as two types")
        return storage
