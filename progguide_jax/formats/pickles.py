"""Pickles, read without executing anything.

A pickle is a program that may call any function. Here it can only name what its reader
knows (`Machine.named`), call what it got so, and fill what was made so.

It may also let a tuple hold another one twice, and that one the same, so that a few
bytes say 2^n things. Nothing here may therefore hash, compare, print or copy a value
before it is known to be small, which Python's own reader does for the keys of a dict.
"""

import os
import pickletools
from typing import Any, BinaryIO

_CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False, "EMPTY_TUPLE": ()}
# Opcodes that push their argument, as pickletools decodes it
_LITERALS = set(
    """INT BININT BININT1 BININT2 LONG LONG1 LONG4 FLOAT BINFLOAT STRING UNICODE
    BINUNICODE SHORT_BINUNICODE BINUNICODE8 BINBYTES SHORT_BINBYTES BINBYTES8
    BYTEARRAY8""".split()
)
_TUPLES = {"TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}


def expect(value: Any, kind: type) -> Any:
    """The value, if of this very type: a named tuple is a tuple too."""
    if type(value) is not kind:
        raise ValueError(f"a {type(value).__name__} where a {kind.__name__} belongs")
    return value


def fill(target: Any, pairs: list[Any], kinds: tuple[type, ...] = ()) -> dict:
    """Puts [key, value, key, value, ...] into a dict; kinds: types of keys beside
    strings and numbers."""
    expect(target, dict)
    if len(pairs) % 2:
        raise ValueError("a key without a value")
    for key, value in zip(pairs[::2], pairs[1::2], strict=True):
        if type(key) not in (str, int, float, bool, type(None), *kinds):
            raise ValueError(f"a dict has a {type(key).__name__} for a key")
        # Below, the hash of an integer is itself; above, many may have the same.
        if type(key) is int and abs(key) >= 2**60:
            raise ValueError("a dict has a key of more than 60 bits")
        target[key] = value
    return target


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


class Machine:
    """What the opcodes of a pickle act on. A reader says what may be named, and what is
    made of objects, of storages and of Python 2's strings; the latter are refused."""

    keys: tuple[type, ...] = ()  # types of dict keys beside strings and numbers

    def __init__(self) -> None:
        self.stack: list[Any] = []
        self.marks: list[int] = []  # lengths that the stack had
        self.memo: dict[int, Any] = {}

    def load(self, file: BinaryIO) -> Any:
        """The object of the pickle at the file's position, which is then behind it.

        Sets come as lists. ValueError, naming what it found, if the pickle is damaged
        or wants anything that is not known here.
        """
        try:
            for count, step in enumerate(pickletools.genops(_Bounded(file))):
                self._step(step[0].name, step[1], count)
            return self.stack.pop()
        except (IndexError, KeyError) as error:  # of the stack, the marks or the memo
            raise ValueError(
                "cannot read its pickle: it takes what is not there"
            ) from error
        except Exception as error:  # a damaged pickle can raise almost anything
            reason = " ".join(str(error)[:300].split()) or type(error).__name__
            raise ValueError(f"cannot read its pickle: {reason}") from error

    def named(self, whole: str) -> Any:
        """What "module.name" stands for."""
        raise ValueError(f"it asks for {whole[:100]}")

    def called(self, function: Any, arguments: tuple, count: int) -> Any:
        """What a call gives; count: the opcodes before it."""
        return function(*arguments)

    def made(self, kind: Any, arguments: Any) -> Any:
        """A new object."""
        raise ValueError(f"it makes an object of a {type(kind).__name__}")

    def build(self, target: Any, state: Any) -> None:
        """Give an object its state."""
        raise ValueError(f"it gives a {type(target).__name__} a state")

    def outside(self, pid: Any) -> Any:
        """What lies outside of the pickle."""
        raise ValueError(f"it asks for a {type(pid).__name__} outside")

    def text(self, characters: str) -> Any:
        """A string of Python 2, as the characters of its bytes."""
        return characters.encode("latin-1").decode()

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
            case "BINSTRING" | "SHORT_BINSTRING":
                stack.append(self.text(argument))
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
                stack.append(self.named(argument.replace(" ", ".", 1)))
            case "STACK_GLOBAL":
                names = [expect(name, str) for name in self._popped(2)]
                if max(map(len, names)) > 1000:
                    raise ValueError("it asks for a name of more than 1000 characters")
                stack.append(self.named(".".join(names)))
            case "BINPERSID":
                stack.append(self.outside(stack.pop()))
            case "NEWOBJ":
                stack.append(self.made(*self._popped(2)))
            case "BUILD":
                state = stack.pop()
                self.build(stack[-1], state)
            case "REDUCE":
                function, arguments = self._popped(2)
                if not callable(function):
                    raise ValueError(f"a {type(function).__name__} is not callable")
                if len(expect(arguments, tuple)) > 8:
                    raise ValueError(f"it calls with {len(arguments)} arguments")
                stack.append(self.called(function, arguments, count))
            case _:
                self._contain(opcode)

    def _contain(self, opcode: str) -> None:
        """The opcodes of containers."""
        stack = self.stack
        match opcode:
            case "EMPTY_LIST" | "EMPTY_SET":
                stack.append([])
            case "LIST" | "FROZENSET":
                stack.append(self._marked())
            case "APPEND":
                value = stack.pop()
                expect(stack[-1], list).append(value)
            case "APPENDS" | "ADDITEMS":
                values = self._marked()
                expect(stack[-1], list).extend(values)
            case "TUPLE":
                stack.append(tuple(self._marked()))
            case _ if opcode in _TUPLES:
                stack.append(tuple(self._popped(_TUPLES[opcode])))
            case "EMPTY_DICT":
                stack.append({})
            case "DICT":
                stack.append(fill({}, self._marked(), self.keys))
            case "SETITEM":
                pair = self._popped(2)
                fill(stack[-1], pair, self.keys)
            case "SETITEMS":
                pairs = self._marked()
                fill(stack[-1], pairs, self.keys)
            case _:
                raise ValueError(f"it has the opcode {opcode}, which is not read here")

    def _popped(self, n: int) -> list[Any]:
        values = [self.stack.pop() for _ in range(n)]
        return values[::-1]

    def _marked(self) -> list[Any]:
        """What was pushed since the last mark."""
        mark = self.marks.pop()
        values = self.stack[mark:]
        del self.stack[mark:]
        return values
