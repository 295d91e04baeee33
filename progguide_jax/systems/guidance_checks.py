"""Whether the schedule, references, rule, projection and solver of a config go with
each other, with the grid and with what the network predicts."""

import numpy as np

from progguide_jax import registry
from progguide_jax.diffusion import loop, solvers
from progguide_jax.guidance import projections, references, rules, schedules
from progguide_jax.systems import build, entries, key_checks, specs, trained


def check(config) -> None:
    """ValueError at the first thing that does not."""
    _check_guidance(config)
    _check_settings(config)
    for key, name in entries.named(config, "guidance.schedule"):
        _check_schedule(config, key, name)


def _check_guidance(config) -> None:
    guidance = config.guidance
    chosen = tuple(guidance.references)
    places = [references.REFERENCES[name].branch for name in chosen]
    against = [place for place in places if place != "cond"]
    if not against or len(set(places)) < len(places):
        raise ValueError(
            f"guidance.references is {chosen}: name each reference once, at least one "
            "to guide against"
        )
    _check_scale("guidance.scale", config, guidance.schedule)
    for name in chosen:
        _check_reference(config, name, alone=len(against) == 1)


def _check_schedule(config, key: str, name: str) -> None:
    """That the schedule `name`, which `key` holds, has what it needs, and settings that
    make sense on the grid."""
    guidance = config.guidance
    if name == "table" and not guidance.table.file:
        raise ValueError(
            f"{key} 'table' needs a file: set guidance.table.file to a .npy or .txt of "
            "weights"
        )
    settings = entries.settings(config, "guidance.schedule", name)
    if settings.get("carry") and not settings["curve"]:
        raise ValueError(
            "guidance.gn.carry is set and there is no other curve: set "
            "guidance.gn.curve to the probe/curve.npz of another workdir"
        )
    mode = None if guidance.normalize == "default" else guidance.normalize
    try:
        schedules.check_normalize(name, mode)
    except ValueError as error:
        raise ValueError(f"guidance.normalize: {error}") from error
    curve = schedules.SCHEDULES[name].curve
    registry.check_numbers(f"guidance.{name}", curve, settings)
    if set(settings) <= set(registry.defaults(curve)):  # else it needs a file
        steps = schedules.steps_of(
            specs.grid(config),
            config.noise.num_timesteps,
            guidance.scale,
            build.noise_schedule(config),
        )
        try:
            curve(steps, **settings)
        except ValueError as error:
            raise ValueError(f"guidance.{name}: {error}") from error


def _check_reference(config, name: str, alone: bool) -> None:
    """That its section makes sense."""
    own = entries.settings(config, "guidance.references", name)
    schedule = entries.schedule_of(config, name)
    if own.get("scale") is not None:
        _check_scale(f"guidance.{name}.scale", config, schedule)
    elif own.get("schedule"):
        _check_scale("guidance.scale", config, schedule)
    for key, unset in (("scale", None), ("schedule", "")):
        if alone and own.get(key, unset) != unset:
            raise ValueError(
                f"guidance.{name}.{key} beside no other reference would replace "
                f"guidance.{key}: set that instead"
            )
    entry = references.REFERENCES[name]
    if entry.guide:
        _check_guide(config, name)
    if references.needs(name):
        raise ValueError(
            f"guidance.references holds {name}, which needs "
            f"{', '.join(references.needs(name))}: no config has that, hand it to "
            "references.branches in Python"
        )
    if entry.check is not None:
        try:
            entry.check(**specs.reference_settings(config, name))
        except ValueError as error:
            raise ValueError(f"guidance.{name}: {error}") from error
    if entry.inside:
        _check_inside(config, name)


def _check_inside(config, name: str) -> None:
    """That the network has what this reference disturbs, and that what the reference
    uses is there."""
    untrained, labels = trained.of(config, {}, {}), np.zeros(1, np.int32)
    settings = specs.reference_settings(config, name)
    try:
        branch = references.REFERENCES[name].make(untrained, labels, **settings)
    except ValueError as error:  # which begins with the name
        raise ValueError(f"guidance.{error}") from error
    there = [references.REFERENCES[n].branch for n in config.guidance.references]
    for used in set(branch.uses) - {"cond", *there}:
        raise ValueError(
            f"guidance.references holds {name}, which uses {used}: add it, as in "
            f"{used},{name}"
        )


def _check_guide(config, name: str) -> None:
    """That the second network of a reference is another one."""
    guide = entries.settings(config, "guidance.references", name)
    if guide["step"] < 0:
        raise ValueError(
            f"guidance.{name}.step is {guide['step']}: it must be at least 0"
        )
    if not guide["workdir"] and references.REFERENCES[name].guide == "log_prob":
        raise ValueError(
            f"guidance.references holds {name}: set guidance.{name}.workdir to the "
            "workdir of a classifier, trained with configs/classifier.py"
        )
    if not guide["workdir"] and guide["step"] in (0, config.checkpoint.step):
        raise ValueError(
            f"guidance.references holds {name}: set guidance.{name}.workdir "
            "or .step to a weaker network than the one that is guided"
        )


def _check_scale(key: str, config, schedule: str) -> None:
    """That a guidance scale makes sense for the rule and the schedule."""
    scale, rule = key_checks.get(config, key), config.guidance.rule
    lowest, highest = entries.rule_scales(config)
    if highest > 0:
        key_checks.check_scale(key, scale, schedule)
    if not lowest <= scale <= highest:
        raise ValueError(
            f"{key} is {scale}: the rule {rule!r} takes {lowest:g} ... {highest:g}"
        )


def _check_settings(config) -> None:
    """That the chosen solver, rule and projection accept their settings, and go with
    each other, the grid and what the network predicts."""
    makers = {
        "sample.solver": solvers.make,
        "guidance.rule": rules.make,
        "guidance.projection": projections.make,
    }
    made = {}
    for key, make in makers.items():
        # what is within an entry first, and itself last
        for _, name in reversed(entries.named(config, key)):
            try:
                made[key] = make(name, **entries.settings(config, key, name))
            except ValueError as error:
                raise ValueError(f"{key.split('.')[0]}.{name}: {error}") from error
    against = [references.REFERENCES[n].branch for n in config.guidance.references]
    try:
        made["guidance.rule"].check_references(b for b in against if b != "cond")
    except ValueError as error:
        raise ValueError(f"guidance.rule {config.guidance.rule!r}: {error}") from error
    try:
        plan = made["sample.solver"](specs.grid(config))
        loop.check(plan, made["guidance.rule"], [config.train.predicts])
    except ValueError as error:
        raise ValueError(f"sample.solver {config.sample.solver!r}: {error}") from error
