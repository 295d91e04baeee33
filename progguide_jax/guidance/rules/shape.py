"""What a rule is, and what its line in the registry says of it."""

import dataclasses
import functools
import math
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import jax
import numpy as np

from progguide_jax.diffusion import plans, prediction
from progguide_jax.diffusion.levels import Levels


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Rule:
    """fn(evaluate, step, carry, **settings) with its settings, which are traced: rules
    that differ only in them share a compiled program.

    init: x_T -> first carry. active: carry -> bool [B], the images that are guided at
    this step: the others are as with omega = 0, and where none is, the conditional
    branch runs alone. consistent: whether the x0 and eps it returns belong to the same
    x_t; where not (CFG++), a projection of x0 leaves eps alone. on_plan: (plan,
    **settings) -> the settings that fn takes, for those that follow from the grid.
    omegas: the lowest and the highest weight that makes sense. references: what it does
    with several: it sees their "mean" (`prediction.Step.mean`), reads step.weights of
    "each", or takes "one" only. memory: the setting by which it counts what it
    remembers: at 0 that acts on nothing.
    """

    settings: dict[str, Any]
    fn: Callable = dataclasses.field(metadata=dict(static=True))
    init: Callable | None = dataclasses.field(default=None, metadata=dict(static=True))
    active: Callable | None = dataclasses.field(
        default=None, metadata=dict(static=True)
    )
    consistent: bool = dataclasses.field(default=True, metadata=dict(static=True))
    on_plan: Callable | None = dataclasses.field(
        default=None, metadata=dict(static=True)
    )
    omegas: tuple[float, float] = dataclasses.field(
        default=(-math.inf, math.inf), metadata=dict(static=True)
    )
    memory: str = dataclasses.field(default="", metadata=dict(static=True))
    references: str = dataclasses.field(default="mean", metadata=dict(static=True))

    def check_references(self, names: Iterable[str]) -> None:
        """ValueError if these are more than it takes."""
        names = list(names)
        if self.references == "one" and len(names) > 1:
            raise ValueError(
                f"this rule takes one reference and there are {len(names)} "
                f"({', '.join(names)}): use another rule, such as cfg, or leave one out"
            )

    def check_signs(self, omega: Iterable[np.ndarray]) -> None:
        """ValueError if it sees the mean of references and at some step one has a
        weight below 0 and another one above; omega: [S] or [S,B] of each."""
        columns = [np.reshape(values, (len(values), -1)) for values in omega]
        lowest, highest = (
            functools.reduce(f, columns) for f in (np.minimum, np.maximum)
        )
        apart = np.argwhere((lowest < 0) & (highest > 0))
        if self.references == "mean" and len(apart):
            at = tuple(apart[0])
            raise ValueError(
                f"at step {at[0]} omega is {lowest[at]:.3g} of one reference and "
                f"{highest[at]:.3g} of another: this rule sees their weighted mean, so "
                "use weights of one sign, or the rule cfg"
            )

    def on(self, plan: plans.Plan) -> "Rule":
        """The rule for the evaluations of this plan."""
        if self.on_plan is None:
            return self
        if plan.levels is None:
            raise ValueError(
                "this rule has settings that follow from the grid, and the plan does "
                "not say its levels: pass solver(levels), or plan._replace(levels=...)"
            )
        settings = self.on_plan(plan, **self.settings)
        return dataclasses.replace(self, settings=settings, on_plan=None)

    def remembers(self) -> bool:
        """Whether what it saw at earlier steps acts on later ones."""
        share = self.settings.get(self.memory, 1)
        known_zero = not isinstance(share, jax.core.Tracer) and np.all(share == 0)
        return self.init is not None and not known_zero

    def __call__(self, evaluate, step: prediction.Step, carry):
        return self.fn(evaluate, step, carry, **self.settings)


class RuleEntry(NamedTuple):
    """make: settings -> Rule. as_cfg: (levels, omega [S]) -> (settings, omega [S]) with
    which the rule takes the steps that CFG takes at omega under DDIM; None if it never
    does. as_cond: settings with which, whatever omega is, it is the conditional model.
    One of the two is its neutral setting. scales: the guidance scales that make sense,
    lowest and highest. calls: how often it has the network in the program beside p_c
    and p_u at x_t: in a loop, or for a gradient."""

    make: Callable[..., Rule]
    as_cfg: Callable[[Levels, np.ndarray], tuple[dict, np.ndarray]] | None = None
    as_cond: dict[str, Any] | None = None
    scales: tuple[float, float] = (-1.0, math.inf)
    calls: int = 0


def same_omega(**settings) -> Callable[[Levels, np.ndarray], tuple[dict, np.ndarray]]:
    """as_cfg of a rule that is CFG at these settings and CFG's own omega."""
    return lambda levels, omega: (settings, omega)


@functools.cache
def bound(fn: Callable, **choices) -> Callable:
    """fn with choices that change the program, such as a name: the same object for the
    same choices, so that they share a compiled program."""
    return functools.partial(fn, **choices)
