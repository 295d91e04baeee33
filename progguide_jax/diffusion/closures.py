"""Functions that read arrays from around them, told apart by what they read.

`jax.jit` knows a function by its identity and takes the arrays that it reads, such as
parameters from an outer scope, as constants: bound to other parameters, the same
function would go on with the old ones, and an equal function made anew would be
compiled anew.
"""

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
    """fn, equal to another function of the same code that reads the same variables:
    those that its own lines name, their arrays and numbers one by one. What is no plain
    function is itself."""
    if not inspect.isfunction(fn):
        return fn
    read = inspect.getclosurevars(fn)
    leaves, tree = jax.tree.flatten((read.nonlocals, read.globals, fn.__defaults__))
    numbers = int | float | complex | bool | str
    marks = [(type(v), v if isinstance(v, numbers) else _identity(v)) for v in leaves]
    return Keyed(fn, (fn.__code__, tree, *marks), leaves)


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
