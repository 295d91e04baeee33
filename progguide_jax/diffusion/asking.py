"""Running branches: each function once in a program, each branch once an evaluation."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp

from progguide_jax.diffusion import prediction, process


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Branches:
    """functions: the different ones, with their parameters; conds: {branch: cond};
    places: (branch, which function, what it predicts) each."""

    functions: tuple
    conds: dict[str, Any]
    places: tuple[tuple[str, int, str], ...] = dataclasses.field(
        metadata=dict(static=True)
    )

    @property
    def predicts(self) -> str:
        """What the conditional branch predicts."""
        return next(kind for name, _, kind in self.places if name == "cond")


def share(branches: dict[str, prediction.Branch]) -> Branches:
    """The branches with every function object once, so that parameters that several
    share are one argument of a compiled program."""
    functions: list = []
    places = []
    for name, branch in branches.items():
        which = next((i for i, f in enumerate(functions) if f is branch.fn), None)
        if which is None:
            which = len(functions)
            functions.append(branch.fn)
        places.append((name, which, branch.predicts))
    conds = {name: branch.cond for name, branch in branches.items()}
    return Branches(tuple(functions), conds, tuple(places))


@jax.tree_util.register_pytree_node_class
class Predictions(list):
    """A list of predictions, which knows the mistake c = evaluate("cond")."""

    def _one(self):
        raise ValueError(
            "evaluate(...) gives a list, also for one branch: take the prediction out "
            'of it, as in (c,) = evaluate("cond")'
        )

    x0 = eps = property(_one)

    def tree_flatten(self):
        return tuple(self), None

    @classmethod
    def tree_unflatten(cls, _, predictions):
        return cls(predictions)


class Evaluate:
    """evaluate("cond", "null") -> a list, a Prediction of each; with x=..., of that
    instead of x_t. A branch runs once on the same x, however often it is asked for."""

    def __init__(self, branches: Branches, x, level, step, double_batch: bool):
        self._branches, self._x, self._level = branches, x, level
        self._step, self._double = step, double_batch
        self.found: dict[str, prediction.Prediction] = {}
        self.count = 0  # of network evaluations of the whole batch

    def branch(self) -> "Evaluate":
        """A copy that knows what this one knows, for one side of a `lax.cond`."""
        copy = Evaluate(self._branches, self._x, self._level, self._step, self._double)
        copy.found, copy.count = dict(self.found), self.count
        return copy

    def __call__(self, *names: str, x=None) -> Predictions:
        known = {name for name, _, _ in self._branches.places}
        for name in names:
            if name not in known:
                raise ValueError(
                    f"the rule asks for the branch {name!r} and there are "
                    f"{', '.join(sorted(known))}: add the reference that it needs"
                )
        if x is not None:
            found = self._run(names, x)
        else:
            missing = [name for name in names if name not in self.found]
            self.found |= self._run(missing, self._x)
            found = self.found
        return Predictions(found[name] for name in names)

    def _run(self, names, x) -> dict[str, prediction.Prediction]:
        groups: dict[Any, list] = {}
        for name, which, predicts in self._branches.places:
            if name in names:
                key = (which, predicts) if self._double else name
                groups.setdefault(key, []).append((name, which, predicts))
        found = {}
        for members in groups.values():
            _, which, predicts = members[0]
            conds = [self._branches.conds[name] for name, _, _ in members]
            raws = _stacked(self._branches.functions[which], x, self._level, conds)
            for (name, _, _), raw in zip(members, raws, strict=True):
                found[name] = prediction.of_raw(
                    raw, x, self._step.alpha, self._step.sigma, predicts
                )
        self.count += len(found)
        return found


def _stacked(fn, x, level: process.Level, conds: list) -> list[jax.Array]:
    """fn under every one of the conditions, in one pass."""
    n, batch = len(conds), len(x)
    if n == 1:
        return [_checked(fn(x, level, conds[0]), x)]
    # row by row c, u, c, u, ...: each device repeats the rows that it holds
    together = jax.tree.map(
        lambda *c: jnp.stack(c, 1).reshape(n * batch, *c[0].shape[1:]), *conds
    )
    repeated = process.Level(*(jnp.repeat(value, n) for value in level))
    repeated_x = jnp.repeat(x, n, axis=0)
    raw = _checked(fn(repeated_x, repeated, together), repeated_x)
    raw = raw.reshape(batch, n, *x.shape[1:])
    return [raw[:, i] for i in range(n)]


def _checked(raw, x: jax.Array) -> jax.Array:
    """What a model returned for x; ValueError unless it is one number for each of x."""
    shape = getattr(raw, "shape", None)
    if shape != x.shape or not jnp.issubdtype(raw.dtype, jnp.floating):
        there = f"{raw.dtype} {shape}" if shape is not None else type(raw).__name__
        raise ValueError(
            f"the model returned {there} for x of {x.dtype} {x.shape}: it must be "
            "floating-point and of the shape of x"
        )
    return raw
