"""Against what a prediction is guided: the branches beside the conditional one.

A reference gives one branch, under a name of its own, for the conditions of a batch.
Guidance moves the conditional prediction away from it.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

from progguide_jax import registry
from progguide_jax.diffusion import prediction, system


def null(model: system.System, cond: Any) -> prediction.Branch:
    """The same network without a condition (Ho and Salimans 2022)."""
    return model.branch(system.null_like(model.null, cond))


def autoguidance(
    model: system.System, cond: Any, guide: system.System
) -> prediction.Branch:
    """A weaker network for the same conditions (Karras et al. 2024, arXiv:2406.02507):
    smaller, or trained for a shorter time, on the same data."""
    if guide.shape != model.shape:
        raise ValueError(
            f"autoguidance: the guide makes {guide.shape} and the model {model.shape}: "
            "use a guide of the same data"
        )
    if guide.noise_schedule != model.noise_schedule:
        raise ValueError(
            f"autoguidance: the guide has the noise schedule "
            f"{guide.noise_schedule.name} and the model {model.noise_schedule.name}: "
            "use a guide of the same"
        )
    return guide.branch(cond)


class ReferenceEntry(NamedTuple):
    """branch: its name; make: (model, cond, **needs) -> Branch."""

    branch: str
    make: Callable[..., prediction.Branch]


REFERENCES = {
    "null": ReferenceEntry("null", null),
    "autoguidance": ReferenceEntry("guide", autoguidance),
}


def names() -> list[str]:
    """The references that `branches` knows."""
    return list(REFERENCES)


def branches(
    model: system.System, cond: Any, references: dict[str, dict[str, Any]]
) -> dict[str, prediction.Branch]:
    """{"cond": ..., and a branch for each reference}; references: {name: its needs}."""
    result = {"cond": model.branch(cond)}
    for name, needs in references.items():
        entry = REFERENCES[registry.check("reference", name, REFERENCES)]
        result[entry.branch] = entry.make(model, cond, **needs)
    return result
