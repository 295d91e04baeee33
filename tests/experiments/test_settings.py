"""The experiment section: each key is checked, each message says the way out."""

import pytest

from configs import base, calibration
from configs.paper import fig2, table2
from progguide_jax import experiments
from progguide_jax.experiments import reproduce
from progguide_jax.runtime import config as config_lib

RECIPES = {"two_gaussians": fig2, "sweep": table2, "calibration": calibration}
SECTIONS = [(n, key) for n, e in experiments.EXPERIMENTS.items() for key in e.defaults]


def refused(config, words):
    with pytest.raises(ValueError, match=words) as error:
        reproduce.check(config)
    assert "\n" not in str(error.value)


def test_the_sections_of_base_are_those_of_the_registry():
    section = base.get_config().experiment
    common = {"name", "folder", "schedules", "scales", "cells"}
    assert set(experiments.EXPERIMENTS) == set(RECIPES)
    assert set(section) == common | set(RECIPES)
    for name, experiment in experiments.EXPERIMENTS.items():
        assert section[name].to_dict() == dict(experiment.defaults)


@pytest.mark.parametrize("name", RECIPES)
def test_the_smallest_recipe_of_each_passes(name):
    config = RECIPES[name].get_config("smoke")
    assert reproduce.check(config) is experiments.EXPERIMENTS[name]
    # as a JSON file gives it back
    reproduce.check(config_lib.from_json(config_lib.to_json(config)))


@pytest.mark.parametrize(("name", "key"), SECTIONS)
def test_every_key_of_a_section_is_checked(name, key):
    config = RECIPES[name].get_config("smoke")
    default = config.experiment[name][key]
    config.experiment[name][key] = ("no such",) if isinstance(default, tuple) else -3
    refused(config, key)


@pytest.mark.parametrize(("name", "key"), SECTIONS)
def test_a_key_of_another_experiment_is_refused(name, key):
    other = next(n for n in RECIPES if n != name)
    config = RECIPES[other].get_config("smoke")
    default = config.experiment[name][key]
    value = (*default, 1) if isinstance(default, tuple) else default + 1
    config.experiment[name][key] = value
    refused(config, f"experiment.{name}.{key} is set and experiment.name is '{other}'")


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"name": ""}, "name is empty: pass .*configs/paper/fig2.py"),
        ({"name": "swep"}, "unknown experiment.name 'swep': did you mean 'sweep'"),
        ({"folder": "../elsewhere"}, "leave out the slashes|without slashes"),
        ({"folder": ""}, "experiment.folder is empty"),
        ({"schedules": ("cosin",)}, "did you mean 'cosine'"),
        ({"scales": (0.0, -2.0)}, "experiment.scales: guidance scale -2.0"),
        ({"scales": ("1",)}, "experiment.scales holds '1': use numbers"),
    ],
)
def test_common_keys(changes, words):
    config = table2.get_config("smoke")
    config.experiment.update(changes)
    refused(config, words)
