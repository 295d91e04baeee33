"""What a config says of the rule, and what its images say of it."""

import jax
import numpy as np
import pytest

from configs import two_gaussians
from progguide_jax.analytic import gaussians
from progguide_jax.diffusion import noise, samplers, solvers
from progguide_jax.engine import weights
from progguide_jax.guidance import references, rules, schedules
from progguide_jax.runtime import sharding
from progguide_jax.systems import build, drawing, effects, specs, validation


def of(config):
    config.guidance.rule = "adaptive"
    return specs.of(config, {"null": np.ones(4, np.float32)})


def test_a_rule_within_another_has_the_settings_of_its_section(tiny):
    tiny.guidance.adaptive.rule, tiny.guidance.apg.eta = "apg", 0.3
    made = of(tiny)
    assert made.rule.settings["rule"]["eta"] == 0.3
    within = made.about["rule"].pop("rule")
    assert within.pop("name") == "apg" and within == tiny.guidance.apg.to_dict()
    assert made.about["rule"] == {"name": "adaptive", "threshold": 0.991}


def test_a_rule_within_another_may_follow_from_the_grid(tiny):
    tiny.guidance.adaptive.rule = "feedback"
    within = of(tiny).rule.settings["rule"]
    tiny.guidance.rule = "feedback"
    alone = specs.of(tiny, {"null": np.ones(4, np.float32)}).rule.settings
    assert within == alone and within["tau"] > 0


def test_adaptive_alone_says_what_it_said_before_it_could_hold_another(tiny):
    assert of(tiny).about["rule"] == {"name": "adaptive", "threshold": 0.991}


def test_only_adaptive_cfg_that_never_stops_is_cfg(tiny):
    tiny.guidance.adaptive.threshold = np.inf
    of(tiny)
    assert any("at which it is cfg" in line for line in effects.idle(tiny))
    tiny.guidance.adaptive.rule = "apg"
    assert not effects.idle(tiny)


@pytest.mark.slow
def test_curves_references_and_rules_of_a_config_are_those_of_python(one_device):
    config = two_gaussians.get_config("twin")
    config.sample.num_steps = 6
    guidance = config.guidance
    guidance.references, guidance.schedule, guidance.scale = ("null", "icg"), "pcs", 2.0
    guidance.icg.schedule, guidance.icg.scale = "linear", 0.5
    guidance.rule, guidance.adaptive.rule = "adaptive", "apg"
    guidance.adaptive.threshold, guidance.apg.eta = 0.9, 0.5
    guidance.projection = "none"
    validation.check_command(config)
    index, ns, key = np.arange(8), build.noise_schedule(config), jax.random.key(0)
    system = gaussians.TwoGaussians(0.5, 0.25, (2, 2)).system(ns)
    spec = specs.of(config, weights.make(config, "", {}))
    ours = drawing.draw(system, spec, index, index % 2, sharding.mesh())
    grid, keys = specs.grid(config), noise.image_keys(key, index)
    omega = {
        "null": schedules.make("pcs", 2.0, grid, ns.num_timesteps),
        "icg": schedules.make("linear", 0.5, grid, ns.num_timesteps),
    }
    branches = references.branches(system, index % 2, {"null": {}, "icg": {}})
    x_T = noise.initial_noise(noise.fold_in(keys, 0), (2, 2))
    theirs, trace = samplers.solve(
        branches, x_T, solvers.ddim()(grid), omega=omega, trace=True,
        rule=rules.adaptive(0.9, rules.apg(eta=0.5)), key=noise.fold_in(keys, 1),
    )  # fmt: skip
    np.testing.assert_allclose(ours, system.decode(theirs), atol=1e-5)
    guided = np.asarray(trace.applied["null"]) != 0
    assert guided.any(0).all() and not guided.all()
