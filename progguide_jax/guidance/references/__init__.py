"""Against what a prediction is guided: the branches beside the conditional one.

A reference gives one branch, under a name of its own, for the conditions of a batch.
Guidance moves the conditional prediction away from it.
"""

import inspect
from collections.abc import Callable
from typing import Any, NamedTuple

from progguide_jax import registry
from progguide_jax.diffusion import arguments, prediction, system
from progguide_jax.guidance.references import (
    classifier,
    guides,
    levels_shifted,
    other_conditions,
    perturbed,
    windows,
)

null, autoguidance = guides.null, guides.autoguidance


class ReferenceEntry(NamedTuple):
    """branch: its name; "cond" for one that changes what the conditional prediction is.
    make: (model, cond, **needs) -> Branch; parameters with a default are settings.
    guide: the parameter that takes what another workdir has: "guide", a second system,
    or "log_prob", a classifier; "" = none. train_noise: on what noise that is trained.
    check: ValueError at settings that make no sense, before there is a model. inside:
    whether it disturbs the network inside, or asks it about a part of an image, so that
    settings are to be held against the network before it is trained."""

    branch: str
    make: Callable[..., prediction.Branch]
    guide: str = ""
    train_noise: str = "gaussian"
    check: Callable[..., None] | None = None
    inside: bool = False


REFERENCES = {
    "null": ReferenceEntry("null", guides.null),
    "autoguidance": ReferenceEntry("guide", guides.autoguidance, guide="guide"),
    "heavy_tail": ReferenceEntry(
        "heavy_tail", guides.heavy_tail, guide="guide", train_noise="student_t"
    ),
    "sigma_scale": ReferenceEntry(
        "sigma_scale",
        levels_shifted.sigma_scale,
        check=levels_shifted.check_sigma_scale,
    ),
    "self_guidance": ReferenceEntry(
        "self_guidance",
        levels_shifted.self_guidance,
        check=levels_shifted.check_self_guidance,
    ),
    "tsg": ReferenceEntry("tsg", levels_shifted.tsg, check=levels_shifted.check_tsg),
    "icg": ReferenceEntry("icg", other_conditions.icg),
    "cads": ReferenceEntry(
        "cond", other_conditions.cads, check=other_conditions.check_cads
    ),
    "classifier": ReferenceEntry("classifier", classifier.classifier, guide="log_prob"),
    "pag": ReferenceEntry("pag", perturbed.pag, check=perturbed.check, inside=True),
    "seg": ReferenceEntry("seg", perturbed.seg, check=perturbed.check, inside=True),
    "sag": ReferenceEntry("sag", perturbed.sag, check=perturbed.check, inside=True),
    "s2": ReferenceEntry("s2", perturbed.s2, check=perturbed.check, inside=True),
    "internal": ReferenceEntry("internal", perturbed.internal, inside=True),
    "swg": ReferenceEntry("swg", windows.swg, check=windows.check_swg, inside=True),
}


def names() -> list[str]:
    """The references that `branches` knows."""
    return list(REFERENCES)


def settings(name: str) -> dict[str, Any]:
    """{setting: default} of a reference."""
    known = _parameters(name).items()
    return {k: v for k, v in known if v is not inspect.Parameter.empty}


def needs(name: str) -> list[str]:
    """What only a caller in Python can hand to a reference: neither settings nor what
    a config names as its guide."""
    there = (REFERENCES[name].guide, *settings(name))
    return [n for n in _parameters(name) if n not in there]


def _parameters(name: str) -> dict[str, Any]:
    """{parameter: default} of a reference, beside the model and the conditions."""
    return dict([*registry.defaults(REFERENCES[name].make).items()][2:])


def branches(
    model: system.System, cond: Any, references: dict[str, dict[str, Any]]
) -> dict[str, prediction.Branch]:
    """{"cond": ..., and a branch for each reference}; references: {name: its needs},
    such as {"null": {}, "autoguidance": {"guide": a system}}. omega goes by branch,
    `REFERENCES[name].branch`: that of autoguidance is "guide".

    ValueError at a setting that a reference does not have or that makes no sense.
    """
    if not isinstance(references, dict) or not all(
        isinstance(needs, dict) for needs in references.values()
    ):
        raise ValueError(
            f"references are {references!r:.60}: pass a dict by name of what each "
            'needs, such as {"null": {}, "sigma_scale": {"factor": 1.1}}'
        )
    cond = arguments.lists_as_arrays(cond)
    result = {"cond": system.of(model, "the model").branch(cond)}
    for name, needs in references.items():
        entry = REFERENCES[registry.check("reference", name, REFERENCES)]
        known = _parameters(name)
        for need in needs:
            registry.check(f"setting of {name!r}:", need, known)
        for need in known.keys() - settings(name) - needs.keys():
            raise ValueError(
                f"{name} needs {need}: pass {{{name!r}: {{{need!r}: ...}}}}"
            )
        registry.check_numbers(name, entry.make, needs)
        if entry.check is not None:
            chosen = {k: v for k, v in needs.items() if k in settings(name)}
            entry.check(**settings(name) | chosen)
        result[entry.branch] = entry.make(model, cond, **needs)
    return result
