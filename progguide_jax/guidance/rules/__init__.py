"""How the predictions of several branches combine.

A rule is a function (evaluate, step, carry) -> (Prediction, carry), pure and per image:

    evaluate("cond", "null")     the predictions of these branches, each run once; with
                                 x=... they are run on that instead of x_t
    step                         x_t, level, omega, ... (`prediction.Step`)
    carry                        the rule's own state; what `init(x_T)` gives at first

step.reference is the name of p_u, null or another; of several references it is that of
their weighted mean, and step.omega the sum of their weights (`prediction.Step.mean`).

omega is the weight of p_c + omega (p_c - p_u): 0 is the conditional model, -1 the
unconditional one. (Imagen, diffusers and others write w = 1 + omega.) A rule never sees
omega = 0: the sampler gives an image of omega = 0 the conditional prediction and its
old carry, whatever the rule does and whatever its neighbours' omega is.
"""

import dataclasses
import math
import numbers
from collections.abc import Callable

import jax

from progguide_jax import registry
from progguide_jax.diffusion import closures
from progguide_jax.guidance.rules import (
    ahead,
    along,
    angles,
    bands,
    history,
    jacobian,
    linear,
    norms,
    projected,
    shape,
    tables,
    tangents,
    watching,
)

Rule, RuleEntry = shape.Rule, shape.RuleEntry
cfg, cfgpp, cfgpp_omega = linear.cfg, linear.cfgpp, linear.cfgpp_omega
apg = projected.apg
adg, fdg = angles.adg, bands.fdg
rescale, cfg_renorm, ep_cfg = norms.rescale, norms.cfg_renorm, norms.ep_cfg
beta_norm, power_law, pmc = along.beta_norm, along.power_law, along.pmc
vags, mambo_g = along.vags, along.mambo_g
cfg_zero, tcfg, adamag = tangents.cfg_zero, tangents.tcfg, tangents.adamag
recfg, recfg_ratio = tables.recfg, tables.recfg_ratio
adaptive, feedback = watching.adaptive, watching.feedback
feedback_settings = watching.feedback_settings
smc, cfg_cache, higs = history.smc, history.cfg_cache, history.higs
characteristic, reg, tsr = jacobian.characteristic, jacobian.reg, jacobian.tsr
rectified_cfgpp, fsg = ahead.rectified_cfgpp, ahead.fsg


def of(rule: Rule | Callable) -> Rule:
    """A user's function (evaluate, step, carry) as a Rule; its attribute `init`, if it
    has one, gives the first carry. Numbers that it reads from around it are constants
    of the compiled program, and other ones make another, as they do for the function of
    a Rule: `Rule(settings, fn)` hands its settings over as arguments."""
    if isinstance(rule, Rule):
        for value in jax.tree.leaves(rule.settings):
            if not isinstance(value, numbers.Number) and not hasattr(value, "dtype"):
                raise ValueError(
                    f"the settings of a Rule hold {value!r:.40}: pass numbers or "
                    "arrays, and what else it needs with functools.partial(fn, ...)"
                )
        return dataclasses.replace(rule, fn=closures.of_user(rule.fn))
    if any(rule is entry.make for entry in RULES.values()):
        raise ValueError(
            f"rule is the factory rules.{rule.__name__}: call it, "
            f"rules.{rule.__name__}()"
        )
    if not callable(rule):
        raise ValueError(
            "a rule is a function (evaluate, step, carry) or what `rules.make` gives, "
            f"such as rules.cfg(): got {type(rule).__name__}"
        )
    init = getattr(rule, "init", None)
    return Rule({}, closures.by_variables(rule), init, references="each")


RULES = {
    "cfg": shape.RuleEntry(linear.cfg, shape.same_omega()),
    "apg": shape.RuleEntry(
        projected.apg,
        shape.same_omega(momentum=0.0, norm_threshold=math.inf, eta=1.0),
    ),
    "cfgpp": shape.RuleEntry(
        linear.cfgpp,
        lambda levels, omega: ({}, linear.cfgpp_omega(levels, omega)),
        scales=linear.CFGPP_OMEGAS,
    ),
    "adg": shape.RuleEntry(
        angles.adg, as_cond={"max_angle": 0.0}, scales=(0.0, math.inf)
    ),
    "rescale": shape.RuleEntry(norms.rescale, shape.same_omega(phi=0.0)),
    "cfg_renorm": shape.RuleEntry(norms.cfg_renorm, shape.same_omega(ratio=math.inf)),
    "ep_cfg": shape.RuleEntry(norms.ep_cfg, shape.same_omega(strength=0.0)),
    "beta_norm": shape.RuleEntry(along.beta_norm, shape.same_omega(gamma=0.0)),
    "power_law": shape.RuleEntry(along.power_law, shape.same_omega(exponent=0.0)),
    "pmc": shape.RuleEntry(along.pmc, shape.same_omega(norm_cap=math.inf)),
    "vags": shape.RuleEntry(along.vags, shape.same_omega(kappa=0.0)),
    "mambo_g": shape.RuleEntry(along.mambo_g, shape.same_omega(alpha=0.0)),
    "cfg_zero": shape.RuleEntry(tangents.cfg_zero, shape.same_omega(strength=0.0)),
    "tcfg": shape.RuleEntry(tangents.tcfg, shape.same_omega(strength=0.0)),
    "adamag": shape.RuleEntry(
        tangents.adamag, shape.same_omega(beta=1.0, gamma=0.0, w_min=0.0)
    ),
    "fdg": shape.RuleEntry(
        bands.fdg, shape.same_omega(high=1.0, low=1.0, parallel=1.0)
    ),
    "recfg": shape.RuleEntry(tables.recfg, shape.same_omega(ratio=1.0)),
    "adaptive": shape.RuleEntry(
        watching.adaptive, shape.same_omega(threshold=math.inf, rule="cfg")
    ),
    "feedback": shape.RuleEntry(
        watching.feedback,
        shape.same_omega(pi=0.5, tau=0.0, delta=0.0),
        as_cond=dict(pi=1.0),
    ),
    "smc": shape.RuleEntry(history.smc, shape.same_omega(gain=0.0)),
    "cfg_cache": shape.RuleEntry(history.cfg_cache, shape.same_omega(every=1)),
    "higs": shape.RuleEntry(history.higs, as_cond=dict(cutoff=math.inf)),
    "characteristic": shape.RuleEntry(
        jacobian.characteristic, shape.same_omega(iterations=0), calls=2
    ),
    "reg": shape.RuleEntry(jacobian.reg, shape.same_omega(strength=0.0), calls=1),
    "tsr": shape.RuleEntry(jacobian.tsr, shape.same_omega(k=1.0)),
    "rectified_cfgpp": shape.RuleEntry(
        ahead.rectified_cfgpp, shape.same_omega(reach=0.0), calls=2
    ),
    "fsg": shape.RuleEntry(
        ahead.fsg,
        lambda levels, omega: ({"starts": ()}, linear.cfgpp_omega(levels, omega)),
        scales=(-1.0, 0.0),
        calls=3,
    ),
}


def names() -> list[str]:
    """The rules that `make` knows."""
    return list(RULES)


def make(name: str, **settings) -> Rule:
    """The rule `name`; a setting `rule` may be the name of another, at its defaults."""
    if isinstance(settings.get("rule"), str):
        settings["rule"] = make(settings["rule"])
    return registry.make(
        "rule", name, {k: e.make for k, e in RULES.items()}, **settings
    )
