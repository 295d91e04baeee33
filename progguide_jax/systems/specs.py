"""From a config to one frozen description of a sampling run."""

import dataclasses
import functools
from typing import Any

import numpy as np

from progguide_jax.diffusion import levels, plans, solvers
from progguide_jax.diffusion.system import System
from progguide_jax.guidance import curves, projections, references, rules
from progguide_jax.systems import build, entries


@dataclasses.dataclass(frozen=True, eq=False)
class SamplingSpec:
    """All that an image depends on besides the model, its condition and its index.

    omega: {branch: [S], or [K,S] with a curve for each class}. guides: {reference: what
    it needs}, such as the second network of autoguidance. about: the same as JSON, by
    the names and settings of the registries: with the system's origin and the labels it
    is the provenance of the images. Everything is an argument of the compiled program.
    """

    levels: levels.Levels
    plan: plans.Plan
    omega: dict[str, np.ndarray]
    rule: rules.Rule
    guides: dict[str, dict[str, System]]
    projection: projections.Projection | None
    seed: int
    about: dict[str, Any]

    @functools.cached_property
    def per_class(self) -> bool:
        """Whether some omega has a curve for each class."""
        return any(values.ndim == 2 for values in self.omega.values())

    def weights(self, labels: np.ndarray) -> dict[str, np.ndarray]:
        """omega for images of these labels [B]: {branch: [S] or [S,B]}."""
        return {
            branch: values[labels].T if values.ndim == 2 else values
            for branch, values in self.omega.items()
        }


def grid(config, num_steps: int | None = None) -> levels.Levels:
    """The levels of config.sample."""
    sample = config.sample
    settings = entries.settings(config, "sample.spacing")
    return levels.make(
        sample.spacing,
        build.noise_schedule(config),
        num_steps or sample.num_steps,
        sample.offset,
        **settings,
    )


def reference_settings(config, name: str) -> dict[str, Any]:
    """What the section of a reference sets of its factory."""
    held = entries.settings(config, "guidance.references", name)
    return {key: held[key] for key in references.settings(name)}


def of(
    config,
    omega: dict[str, np.ndarray],
    guides: dict[str, System] | None = None,
    num_steps: int | None = None,
) -> SamplingSpec:
    """The spec of config.sample and config.guidance.

    omega: {branch: weights on `grid`}; guides: {reference: System} of the references
    that need one. num_steps: instead of sample.num_steps.
    """
    made = grid(config, num_steps)
    solver, rule, projection = (
        entries.settings(config, key)
        for key in ("sample.solver", "guidance.rule", "guidance.projection")
    )
    guides = guides or {}
    plan = _plan(config.sample.solver, solver, made, omega)
    return SamplingSpec(
        levels=made,
        plan=plan,
        omega=omega,
        rule=rules.make(config.guidance.rule, **rule).on(plan),
        guides={
            name: reference_settings(config, name)
            | ({"guide": guides[name]} if name in guides else {})
            for name in config.guidance.references
        },
        projection=projections.make(config.guidance.projection, **projection),
        seed=config.sample.seed,
        about=about(config, made, omega, guides),
    )


def _plan(name: str, settings: dict, grid: levels.Levels, omega) -> plans.Plan:
    solver = solvers.make(name, **settings)
    if not settings.get("restart"):
        return solver(grid)
    found = {k for values in omega.values() for k in curves.jumps(values)}
    return solver(grid, jumps=sorted(found))


def about(
    config,
    grid: levels.Levels,
    omega: dict[str, np.ndarray],
    guides: dict[str, System] | None = None,
) -> dict[str, Any]:
    """What a spec says of itself, as JSON."""
    keys = "sample.spacing sample.solver guidance.rule guidance.projection".split()
    result: dict[str, Any] = {
        key.split(".")[1]: {
            "name": entries.chosen(config, key)[0],
            **entries.settings(config, key),
        }
        for key in keys
    }
    result["references"] = {
        references.REFERENCES[name].branch: {
            "name": name,
            **reference_settings(config, name),
            **({"guide": guides[name].origin} if guides and name in guides else {}),
        }
        for name in config.guidance.references
    }
    result["t"] = grid.t[:-1].tolist()
    result["sigma"] = grid.sigma.tolist()
    result["omega"] = {b: np.asarray(w, np.float64).tolist() for b, w in omega.items()}
    result["seed"] = config.sample.seed
    return result
