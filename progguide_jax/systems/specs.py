"""From a config to one frozen description of a sampling run."""

import dataclasses
import functools
from typing import Any, NamedTuple

import numpy as np

from progguide_jax.diffusion import levels, plans, solvers, tilted
from progguide_jax.guidance import curves, projections, references, rules
from progguide_jax.systems import build, entries


class Guide(NamedTuple):
    """What a reference has from another workdir, a `System` or a log-probability, and
    what made it, as JSON."""

    given: Any
    origin: dict[str, Any]


@dataclasses.dataclass(frozen=True, eq=False)
class SamplingSpec:
    """All that an image depends on besides the model, its condition and its index.

    omega: {branch: what the plan counts, [S], or [K,S] with a curve for each class}.
    guides: {reference: what it needs}, such as the second network of autoguidance.
    about: the same as JSON, by the names and settings of the registries: with the
    system's origin and the labels it is the provenance of the images. particles: the
    settings of a sampler that keeps one of several an image. Everything but the number
    of these is an argument of the compiled program.
    """

    levels: levels.Levels
    plan: plans.Plan
    omega: dict[str, np.ndarray]
    rule: rules.Rule
    guides: dict[str, dict[str, Any]]
    projection: projections.Projection | None
    seed: int
    about: dict[str, Any]
    particles: dict[str, Any] | None = None

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
    guides: dict[str, Guide] | None = None,
    num_steps: int | None = None,
) -> SamplingSpec:
    """The spec of config.sample and config.guidance.

    omega: {branch: weights on `grid`}; guides: those of the references that need
    one. num_steps: instead of sample.num_steps.
    """
    made = grid(config, num_steps)
    projection = entries.settings(config, "guidance.projection")
    guides = guides or {}
    plan, counted = steps(config, made, omega)
    entry = tilted.TILTED.get(config.sample.tilted)
    return SamplingSpec(
        levels=made,
        plan=plan,
        omega=counted,
        rule=rule(config).on(plan),
        guides={
            name: reference_settings(config, name)
            | (
                {references.REFERENCES[name].guide: guides[name].given}
                if name in guides
                else {}
            )
            for name in config.guidance.references
        },
        projection=projections.make(config.guidance.projection, **projection),
        seed=config.sample.seed,
        about=about(config, made, omega, guides),
        particles=entries.settings(config, "sample.tilted")
        if entry and entry.groups
        else None,
    )


def rule(config) -> rules.Rule:
    """The rule of config.guidance, with the one that guides within it, if any."""
    (_, name), *within = entries.named(config, "guidance.rule")
    settings = entries.settings(config, "guidance.rule", name)
    for _, inner in within:
        own = entries.settings(config, "guidance.rule", inner)
        settings["rule"] = rules.make(inner, **own)
    return rules.make(name, **settings)


def steps(
    config, grid: levels.Levels, omega: dict[str, np.ndarray]
) -> tuple[plans.Plan, dict[str, np.ndarray]]:
    """The plan of config.sample on this grid, and omega as the plan counts it."""
    name, settings = config.sample.solver, entries.settings(config, "sample.solver")
    solver = solvers.make(name, **settings)
    if config.sample.tilted != entries.NONE:
        own = entries.settings(config, "sample.tilted")
        return tilted.TILTED[config.sample.tilted].steps(grid, omega, solver, **own)
    if not settings.get("restart"):
        return solver(grid), omega
    found = {k for values in omega.values() for k in curves.jumps(values)}
    return solver(grid, jumps=sorted(found)), omega


def about(
    config,
    grid: levels.Levels,
    omega: dict[str, np.ndarray],
    guides: dict[str, Guide] | None = None,
) -> dict[str, Any]:
    """What a spec says of itself, as JSON."""
    keys = "sample.spacing sample.solver guidance.rule guidance.projection".split()
    if config.sample.tilted != entries.NONE:  # as if there were no such key
        keys.append("sample.tilted")
    result: dict[str, Any] = {
        key.split(".")[1]: {
            "name": entries.chosen(config, key)[0],
            **entries.settings(config, key),
        }
        for key in keys
    }
    plain = entries.defaults("guidance.rule", config.guidance.rule).get("rule")
    for _, inner in entries.named(config, "guidance.rule")[1:]:
        own = entries.settings(config, "guidance.rule", inner)
        result["rule"]["rule"] = {"name": inner, **own}
        if inner == plain:  # as if there were no such key
            del result["rule"]["rule"]
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
