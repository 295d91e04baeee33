"""Running branches: each function once in a program, each branch once an evaluation."""

import dataclasses
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from progguide_jax.diffusion import closures, noise, prediction, process

_OF_BRANCHES = 2**20


class BranchPlace(NamedTuple):
    """Where a branch stands: function is an index into `Branches.functions`."""

    name: str
    function: int
    predicts: str
    random: bool
    uses: tuple[str, ...]

    @property
    def alone(self) -> bool:
        """Whether its function takes what no other branch's does."""
        return self.random or bool(self.uses)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Branches:
    """functions: the different ones, with their parameters; conds: {branch: cond}."""

    functions: tuple
    conds: dict[str, Any]
    places: tuple[BranchPlace, ...] = dataclasses.field(metadata=dict(static=True))

    @property
    def predicts(self) -> str:
        """What the conditional branch predicts."""
        return next(place.predicts for place in self.places if place.name == "cond")


def share(branches: dict[str, prediction.Branch]) -> Branches:
    """The branches with every function object once, so that parameters that several
    share are one argument of a compiled program.

    ValueError if a branch uses one that is not there, or one that uses others itself.
    """
    functions: list = []
    places = []
    for name, branch in branches.items():
        which = next((i for i, f in enumerate(functions) if f is branch.fn), None)
        if which is None:
            which = len(functions)
            functions.append(branch.fn)
        for used in branch.uses:
            if used not in branches or branches[used].uses:
                raise ValueError(
                    f"the branch {name!r} uses the prediction of {used!r}: add that "
                    "reference"
                )
        places.append(
            BranchPlace(name, which, branch.predicts, branch.random, branch.uses)
        )
    conds = {name: branch.cond for name, branch in branches.items()}
    functions = [closures.of_partials(fn) for fn in functions]
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
    instead of x_t, and with level=... at that one. A branch runs once on x_t, however
    often it is asked for. `prediction.MEAN` is the mean of all references there."""

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

    def record(self, count, **found: prediction.Prediction) -> None:
        """What a rule found in a `lax.cond` or a loop of its own, asking a `branch()`:
        the evaluations there, a number that may be traced, and predictions at x_t."""
        self.count = self.count + count
        self.found |= found

    def __call__(self, *names: str, x=None, level=None) -> Predictions:
        known = {place.name for place in self._branches.places}
        for name in names:
            if name not in known and name != prediction.MEAN:
                raise ValueError(
                    f"the rule asks for the branch {name!r} and there are "
                    f"{', '.join(sorted(known))}: add the reference that it needs"
                )
        here = x is None and level is None
        found = dict(self.found) if here else {}
        averaged = prediction.MEAN in names and prediction.MEAN not in found
        wanted = (*names, *self._step.weights) if averaged else names
        missing = [name for name in wanted if name not in found]
        found |= self._run(missing, self._x if x is None else x, found, level)
        if averaged:
            found[prediction.MEAN] = self._step.mean(found)
        if here:
            self.found = found
        return Predictions(found[name] for name in names)

    def _run(self, names, x, known, level=None) -> dict[str, prediction.Prediction]:
        """Those of `names`, and what they use; known: what is not run again; level: t,
        alpha and sigma, scalars, instead of those of the step."""
        told, here = self._level, level or self._step
        if level is not None:
            told = process.Level(*(jnp.full(len(x), value) for value in level))
        places = [place for place in self._branches.places if place.name in names]
        used = {name for place in places for name in place.uses}
        first = used - set(names) - set(known)
        found = self._run(first, x, known, level) if first else {}
        groups: dict[Any, list[BranchPlace]] = {}
        # those that use others come after them
        for place in sorted(places, key=lambda place: bool(place.uses)):
            together = self._double and not place.alone
            key = (place.function, place.predicts) if together else place.name
            groups.setdefault(key, []).append(place)
        for members in groups.values():
            conds = [self._branches.conds[place.name] for place in members]
            extra = self._extra(members[0], known | found)
            fn = self._branches.functions[members[0].function]
            raws = _stacked(fn, x, told, conds, extra)
            for place, raw in zip(members, raws, strict=True):
                found[place.name] = prediction.of_raw(
                    raw, x, here.alpha, here.sigma, place.predicts
                )
        self.count += len(places)
        return found

    def _extra(self, place: BranchPlace, known) -> dict[str, Any]:
        """What a branch takes besides x, level and condition, by keyword."""
        extra: dict[str, Any] = {}
        if place.random:
            which = self._branches.places.index(place)
            # beside those that a rule may fold in for itself
            extra["keys"] = noise.fold_in(self._step.keys, _OF_BRANCHES + which)
        if place.uses:
            extra["given"] = {name: known[name] for name in place.uses}
        return extra


def _stacked(fn, x, level: process.Level, conds: list, extra) -> list[jax.Array]:
    """fn under every one of the conditions, in one pass."""
    n, batch = len(conds), len(x)
    if n == 1:
        return [_checked(fn(x, level, conds[0], **extra), x)]
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
