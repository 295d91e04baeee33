"""Functions that read arrays from around them, told apart by what they read.

`jax.jit` knows a function by its identity and takes the arrays that it reads, such as
parameters from an outer scope, as constants: bound to other parameters, the same
function would go on with the old ones, and an equal function made anew would be
compiled anew.
"""

import hashlib
from collections.abc import Callable

import jax
import numpy as np
from jax.extend.core import ClosedJaxpr


class Keyed:
    """fn, equal to another function that does the same with the same arrays.

    args: what fn will be called with, or arrays of these shapes; it is traced with
    them, which takes as long as its Python does.
    """

    def __init__(self, fn: Callable, *args):
        self._fn = fn
        closed = jax.make_jaxpr(lambda *a: fn(*a))(*args)  # a trace of fn is kept
        self._constants = _constants(closed)  # kept: while they live, ids are theirs
        # what has effects, such as a callback, is like nothing else
        itself = (id(fn),) if closed.effects else ()
        self._key = (str(closed.jaxpr), *itself, *map(_identity, self._constants))

    def __call__(self, *args):
        return self._fn(*args)

    def __eq__(self, other) -> bool:
        return isinstance(other, Keyed) and self._key == other._key

    def __hash__(self) -> int:
        return hash(self._key)


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


def _identity(array):
    """A jax array never changes; numpy's can, and are copied by a trace."""
    if isinstance(array, jax.Array):
        return id(array)
    array = np.asarray(array)
    content = hashlib.blake2b(array.tobytes()).hexdigest()
    return array.shape, str(array.dtype), content
