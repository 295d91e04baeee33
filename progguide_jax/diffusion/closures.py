"""Functions that read arrays from around them, told apart by what they read.

`jax.jit` knows a function by its identity and takes the arrays that it reads, such as
parameters from an outer scope, as constants: bound to other parameters, the same
function would go on with the old ones, and an equal function made anew would be
compiled anew.
"""

import contextlib
import dis
import functools
import hashlib
import inspect
import sys
import types
import weakref
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from jax.extend.core import ClosedJaxpr


class Keyed:
    """fn, equal to another one of the same key that reads the same.

    held: what the key has the ids of, so that they stay theirs. reading: what fn reads.
    """

    def __init__(self, fn: Callable, key: tuple, held: Any, reading=None):
        self._fn, self._key, self._held, self._reading = fn, key, held, reading

    def __call__(self, *args, **kwargs):
        result = self._fn(*args, **kwargs)
        if self._reading is not None:
            self._reading.after_trace(self._fn)
        return result

    def __eq__(self, other) -> bool:
        same = isinstance(other, Keyed) and self._key == other._key
        return same and self._variables() == other._variables()

    def __hash__(self) -> int:
        return hash(self._key)

    def _variables(self) -> list:
        known = self._reading.variables if self._reading else []
        return [pair for pair in known if pair[0] not in _WRITTEN]


def by_trace(fn: Callable, *args) -> Keyed:
    """fn, equal to another function that does the same with the same arrays.

    args: what fn will be called with, or arrays of these shapes; it is traced with
    them, which takes as long as its Python does.
    """
    _Reading(objects=True).mark(fn)  # says what a trace would not see
    closed = jax.make_jaxpr(lambda *a: fn(*a))(*args)  # jax keeps a trace of fn itself
    constants = _constants(closed)
    # what has effects, such as a callback, is like nothing else
    itself = (id(fn),) if closed.effects else ()
    key = (str(closed.jaxpr), *itself, *map(_identity, constants))
    return Keyed(fn, key, (fn, constants))


def by_variables(fn: Callable, objects: bool = False) -> Callable:
    """fn, equal to another function of the same code that reads the same arrays and
    numbers, by itself or in functions of the user's that it calls. What reads an object
    whose attributes may have changed is like nothing else; with `objects` one is known
    by its own hash, as a flax module is, or by its identity."""
    reading = _Reading(objects)
    return Keyed(fn, (reading.mark(fn),), reading.held, reading)


def of_user(fn: Callable) -> Callable:
    """A user's function by its variables; one of this package as it is."""
    inner = fn.func if _is_partial(fn) else fn
    ours = inspect.isfunction(inner) and _of_library(inner)
    return fn if ours or isinstance(fn, Keyed) else by_variables(fn)


def of_partials(tree: Any) -> Any:
    """tree, in which the function of every `Partial` is known by what it reads: bound
    to something else, it is compiled again, and the same one made anew is not."""

    def known(leaf):
        if not _is_partial(leaf):
            return leaf
        fn, (args, keywords) = leaf.func, of_partials((leaf.args, leaf.keywords))
        ours = inspect.isfunction(fn) and _of_library(fn)
        if not ours and not isinstance(fn, Keyed):
            fn = by_variables(fn, objects=True)
        return jax.tree_util.Partial(fn, *args, **keywords)

    return jax.tree.map(known, tree, is_leaf=_is_partial)


def _is_partial(value: Any) -> bool:
    return isinstance(value, functools.partial)


_LIBRARIES = ("jax", "numpy", "flax", "progguide_jax", "builtins")
# (code, variable) of what functions change while they are traced, such as a counter:
# it is no part of what they are known by
_WRITTEN: set = set()


class _Reading:
    """What tells functions apart. held: what must live as long as a mark; variables:
    ((code, name), mark) of all that was read."""

    def __init__(self, objects: bool):
        self._objects = objects
        self._seen: dict[int, int] = {}
        self.held: list = []
        self.variables: list = []

    def after_trace(self, fn: Callable) -> None:
        """Leave out from now on what fn changed while it was traced."""
        now = _Reading(self._objects)
        now.mark(fn)
        _WRITTEN.update(name for name, _ in set(self.variables) ^ set(now.variables))

    def mark(self, value: Any):
        """What tells a value from another one."""
        self.held.append(value)
        if value is None or isinstance(value, int | float | complex | str | bytes):
            return type(value), value
        if isinstance(value, jax.Array | np.ndarray | np.generic):
            return _identity(value)
        if inspect.ismodule(value) or inspect.isbuiltin(value):
            return id(value)
        inner = getattr(value, "fun", None)  # jax keeps a partial in a Partial there
        value = inner if _is_partial(inner) else value
        if _is_partial(value):
            return self.mark(value.func), self.mark((value.args, value.keywords))
        if inspect.ismethod(value):
            return self.mark(value.__func__), self.mark(value.__self__)
        if inspect.isfunction(value) or inspect.isclass(value):
            return self._code(value)
        if isinstance(value, dict | list):
            if id(value) in self._seen:  # it may hold itself
                return "again", self._seen[id(value)]
            self._seen[id(value)] = len(self._seen)
        if isinstance(value, dict):
            return type(value), *(
                (self.mark(k), self.mark(v)) for k, v in value.items()
            )
        if isinstance(value, list | tuple):
            return type(value), *map(self.mark, value)
        leaves, tree = jax.tree.flatten(value, is_leaf=lambda part: part is not value)
        if len(leaves) == 1 and leaves[0] is value or not _hashable(tree):
            return self._object(value)
        return tree, *map(self.mark, leaves)

    def _code(self, value):
        """Of a function its code and what it reads; of a class its methods."""
        if id(value) in self._seen:
            return "again", self._seen[id(value)]
        self._seen[id(value)] = len(self._seen)
        if _of_library(value):
            return id(value)
        if inspect.isclass(value):
            methods = filter(inspect.isfunction, vars(value).values())
            return id(value), *(self.mark(method) for method in methods)
        for name, read in _read(value).items():
            variable = (value.__code__, name)
            if variable not in _WRITTEN:
                self.variables.append((variable, self.mark(read)))
        return value.__code__, self.mark((value.__defaults__, value.__kwdefaults__))

    def _object(self, value):
        kind = self._code(type(value))
        if type(value).__hash__ not in (None, object.__hash__) and _hashable(value):
            return kind, value
        if self._objects or _of_library(type(value)):
            return kind, id(value)
        new = object()  # equal to itself only
        self.held.append(new)
        return id(new)


def _hashable(value: Any) -> bool:
    try:
        hash(value)
    except TypeError:  # of a frozen one that holds a list
        return False
    return True


def _of_library(value: Any) -> bool:
    """Whether a function or a class is not the user's own."""
    return _installed((value.__module__ or "").partition(".")[0])


@functools.cache
def _installed(package: str) -> bool:
    file = getattr(sys.modules.get(package), "__file__", None) or ""
    places = ("site-packages", "dist-packages")
    named = package in _LIBRARIES or package in sys.stdlib_module_names
    return named or any(place in file for place in places)


def _read(fn: Callable) -> dict[str, Any]:
    """The variables from around fn that it names, in functions that stand inside it
    too (`inspect.getclosurevars` leaves these out)."""
    found: dict[str, Any] = {}
    if not _installed(fn.__globals__.get("__name__", "").partition(".")[0]):
        names = [name for name in _globals(fn.__code__) if name in fn.__globals__]
        found = {name: fn.__globals__[name] for name in names}
    cells = zip(fn.__code__.co_freevars, fn.__closure__ or (), strict=True)
    for name, cell in cells:
        with contextlib.suppress(ValueError):  # a cell that is still empty
            found[name] = cell.cell_contents
    return found


@functools.lru_cache(maxsize=4096)
def _globals(code: types.CodeType) -> tuple[str, ...]:
    """The globals that the code names, not the attributes of the same name."""
    inner = [c for c in code.co_consts if inspect.iscode(c)]
    own = [i.argval for i in dis.get_instructions(code) if i.opname in _LOADS]
    return tuple(dict.fromkeys([*own, *(name for c in inner for name in _globals(c))]))


_LOADS = ("LOAD_GLOBAL", "LOAD_NAME")


def _constants(closed: ClosedJaxpr) -> list:
    """The arrays that a traced function reads, those of functions inside it too."""
    found = list(closed.consts)
    for equation in closed.jaxpr.eqns:
        for inner in jax.tree.leaves(
            equation.params, is_leaf=lambda x: isinstance(x, ClosedJaxpr)
        ):
            if isinstance(inner, ClosedJaxpr):
                found += _constants(inner)
    return found


def _identity(value):
    """Of a numpy array its content, which may change, or be the copy of a trace; of
    anything else, such as a jax array, which never changes, its id.

    ValueError if a numpy array was changed of which jax goes on with its first copy.
    """
    if not isinstance(value, np.ndarray | np.generic):
        return id(value)
    content = hashlib.blake2b(value.tobytes()).hexdigest()
    if (
        isinstance(value, np.ndarray)
        and jax.dtypes.canonicalize_dtype(value.dtype) != value.dtype
    ):
        i = id(value)
        there = weakref.ref(value, lambda _: _COPIED.pop(i, None))
        if _COPIED.setdefault(i, (there, content))[1] != content:
            raise ValueError(
                f"a numpy array {value.dtype}{list(value.shape)} that a function reads "
                "was changed in place, and jax keeps its first copy: bind a new array, "
                "or hand it in with the parameters"
            )
    return value.shape, str(value.dtype), content


_COPIED: dict = {}  # id -> (weak reference, content) of arrays that jax has copied
