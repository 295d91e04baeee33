"""Functions that read arrays from around them, told apart by what they read.

`jax.jit` knows a function by its identity and takes the arrays that it reads, such as
parameters from an outer scope, as constants: bound to other parameters, the same
function would go on with the old ones, and an equal function made anew would be
compiled anew.
"""

import contextlib
import hashlib
import inspect
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from jax.extend.core import ClosedJaxpr


class Keyed:
    """fn, equal to another one of the same key.

    held: what the key has the ids of, so that they stay theirs.
    """

    def __init__(self, fn: Callable, key: tuple, held: Any):
        self._fn, self._key, self._held = fn, key, held

    def __call__(self, *args, **kwargs):
        return self._fn(*args, **kwargs)

    def __eq__(self, other) -> bool:
        return isinstance(other, Keyed) and self._key == other._key

    def __hash__(self) -> int:
        return hash(self._key)


def by_trace(fn: Callable, *args) -> Keyed:
    """fn, equal to another function that does the same with the same arrays.

    args: what fn will be called with, or arrays of these shapes; it is traced with
    them, which takes as long as its Python does.
    """
    closed = jax.make_jaxpr(lambda *a: fn(*a))(*args)  # jax keeps a trace of fn itself
    constants = _constants(closed)
    # what has effects, such as a callback, is like nothing else
    itself = (id(fn),) if closed.effects else ()
    key = (str(closed.jaxpr), *itself, *map(_identity, constants))
    return Keyed(fn, key, (fn, constants))


def by_variables(fn: Callable) -> Callable:
    """fn, equal to another function of the same code that reads the same arrays and
    numbers, by itself or in functions of the user's that it calls. What reads anything
    else, such as an object whose attributes may have changed, is like nothing else."""
    held: list = []
    return Keyed(fn, (_mark(fn, held, ()),), held)


_LIBRARIES = ("jax", "numpy", "flax", "progguide_jax", "functools", "math", "builtins")


def _mark(value: Any, held: list, inside: tuple):
    """What tells a value from another one; held: what must live as long as the mark."""
    held.append(value)
    if value is None or isinstance(value, int | float | complex | bool | str):
        return type(value), value
    if isinstance(value, jax.Array | np.ndarray | np.generic):
        return _identity(value)
    home = (getattr(value, "__module__", None) or "").partition(".")[0]
    if inspect.ismodule(value) or inspect.isbuiltin(value) or home in _LIBRARIES:
        return id(value)
    if any(value is outer for outer in inside):
        return "itself"
    if inspect.isfunction(value):
        around = (_read(value), value.__defaults__, value.__kwdefaults__)
        return value.__code__, _mark(around, held, (*inside, value))
    leaves, tree = jax.tree.flatten(value)
    if len(leaves) == 1 and leaves[0] is value:
        new = object()  # equal to itself only
        held.append(new)
        return id(new)
    return tree, *(_mark(leaf, held, inside) for leaf in leaves)


def _read(fn: Callable) -> dict[str, Any]:
    """The variables from around fn that it names, in functions that stand inside it
    too (`inspect.getclosurevars` leaves these out)."""
    found, codes = {}, [fn.__code__]
    while codes:
        code = codes.pop()
        codes += [c for c in code.co_consts if inspect.iscode(c)]
        names = [name for name in code.co_names if name in fn.__globals__]
        found |= {name: fn.__globals__[name] for name in names}
    cells = zip(fn.__code__.co_freevars, fn.__closure__ or (), strict=True)
    for name, cell in cells:
        with contextlib.suppress(ValueError):  # a cell that is still empty
            found[name] = cell.cell_contents
    return found


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
    anything else, such as a jax array, which never changes, its id."""
    if not isinstance(value, np.ndarray | np.generic):
        return id(value)
    content = hashlib.blake2b(value.tobytes()).hexdigest()
    return value.shape, str(value.dtype), content
