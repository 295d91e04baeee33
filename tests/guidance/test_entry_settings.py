"""The settings of the registries as config keys, and the cards of their docstrings."""

import pytest

from configs import base
from progguide_jax import registry
from progguide_jax.guidance import entry_settings, references, rules


def test_a_setting_is_a_key_with_the_default_of_the_factory():
    held = entry_settings.sections()
    assert held["apg"]["momentum"].default == -0.5
    config = base.get_config()
    for name, settings in held.items():
        for key, setting in settings.items():
            value = config.guidance[name][key]
            assert value == setting.default, (name, key)
            if setting.default is None:  # it can be set to what it may be
                config.guidance[name][key] = "1" if setting.kind is str else 1


def test_every_reference_but_null_and_those_of_the_condition_has_a_scale():
    held = entry_settings.sections()
    having = {name for name in references.names() if "scale" in held.get(name, {})}
    assert having == set(references.names()) - {"null", "cads"}


def test_a_second_network_is_found_by_workdir_and_step():
    held = entry_settings.sections()
    having = {name for name, keys in held.items() if {"workdir", "step"} <= set(keys)}
    assert having == {"autoguidance", "heavy_tail", "classifier"}


def test_a_card():
    def entry():
        """A rule (Somebody 2024, arXiv:1).

        Formula: a + b
            + c.
        Cost: 2 evaluations.

        More words: none of it.
        """

    assert registry.card(entry) == {
        "Title": "A rule (Somebody 2024, arXiv:1)",
        "Formula": "a + b + c",
        "Cost": "2 evaluations",
    }


@pytest.mark.parametrize("name", rules.names())
def test_every_rule_has_its_card(name):
    card = registry.card(rules.RULES[name].make)
    assert {"Title", "Formula", "Convention", "Space", "Cost", "Neutral"} <= set(card)


@pytest.mark.parametrize("name", references.names())
def test_every_reference_has_its_card(name):
    card = registry.card(references.REFERENCES[name].make)
    assert {"Title", "Formula", "Cost", "Neutral"} <= set(card)
