"""What a config says of the rule, and what its images say of it."""

import numpy as np

from progguide_jax.systems import effects, specs


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
