"""The experiment section: each key is checked, each message says the way out."""

import pytest

from configs import base, calibration, cifar10, gallery
from configs.paper import fig2, fig7b, table1, table2
from progguide_jax import experiments
from progguide_jax.experiments import reproduce
from progguide_jax.experiments.compare import run as compare
from progguide_jax.runtime import config as config_lib


class Comparison:
    """What eval.compare makes of a config."""

    @staticmethod
    def get_config(arg):
        config = cifar10.get_config(arg)
        compare.begin(config, [], base.get_config())
        config.eval.features, config.eval.metrics = "pixels", ("fd",)
        return config


RECIPES = {
    "two_gaussians": fig2,
    "sweep": table2,
    "compare": Comparison,
    "gallery": gallery,
    "calibration": calibration,
}
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


def test_a_scale_beyond_use_is_said_of_a_sweep(caplog):
    config = table2.get_config("smoke")
    reproduce.check(config)
    before = list(caplog.messages)
    config.experiment.scales = (0.5, 1e9)
    reproduce.check(config)
    (line,) = [m for m in caplog.messages if m not in before]
    assert "a guidance weight is above 1000" in line


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
        ({"scales": (0.0, -2.0)}, "experiment.scales, cell static_w-2: .*scale -2.0"),
        ({"scales": ("1",)}, "experiment.scales holds '1': use numbers"),
    ],
)
def test_common_keys(changes, words):
    config = table2.get_config("smoke")
    config.experiment.update(changes)
    refused(config, words)


GIVEN = [
    (table2, {"guidance.scale": 9.0}, "takes guidance.scale from experiment.scales: "),
    (table2, {"guidance.schedule": "linear"}, "from experiment.schedules: set that"),
    (table1, {"sample.num_steps": 4}, "num_steps from experiment.sweep.num_steps: set"),
    (fig7b, {"guidance.neg_perturb.t_min": 3}, "from experiment.sweep.num_intervals"),
    (fig7b, {"experiment.sweep.num_intervals": 4,
             "experiment.sweep.intervals": ((0, 9),)},
     "experiment.sweep.num_intervals from experiment.sweep.intervals"),
    (fig7b, {"probe.num_examples": 9}, "does not read probe.num_examples: leave it"),
    (table2, {"experiment.cells": ("sample.seed=1", "sample.seed=2"),
              "experiment.schedules": ("gn",)},
     "takes experiment.schedules from experiment.cells"),
    (table2, {"experiment.cells": ("sample.seed=1", "sample.seed=2"),
              "experiment.scales": (1.0,)}, "takes experiment.scales from"),
    (table2, {"experiment.cells": ("sample.seed=1", "sample.seed=2"),
              "sample.seed": 5}, "takes sample.seed from experiment.cells"),
    (fig2, {"guidance.scale": 1.0}, "takes guidance.scale from experiment.scales"),
    (fig2, {"guidance.schedule": "gn"}, "from experiment.schedules: set that"),
    (fig2, {"sample.num_images": 5}, "from experiment.two_gaussians.num_images"),
    (fig2, {"sample.name": "a"}, "does not read sample.name: leave it out"),
    (fig2, {"sample.trace": True}, "does not read sample.trace"),
    (fig2, {"sample.double_batch": True}, "does not read sample.double_batch"),
    (fig2, {"eval.metrics": ("fd",)}, "does not read eval.metrics"),
    (calibration, {"guidance.scale": 2.0}, "does not read guidance.scale"),
    (calibration, {"sample.num_steps": 4}, "does not read sample.num_steps"),
    (calibration, {"experiment.scales": (1.0,)}, "does not read experiment.scales"),
    (calibration, {"eval.features": "pixels"}, "experiment.calibration.features: set"),
    (calibration, {"model.label_dim": 8}, "does not read model.label_dim"),
]  # fmt: skip


@pytest.mark.parametrize(("recipe", "typed", "words"), GIVEN)
def test_what_was_typed_and_is_not_read_is_refused(recipe, typed, words):
    config = recipe.get_config("smoke")
    config.update_from_flattened_dict(typed)
    reproduce.check(config)  # a recipe may say it, for sample.py
    with pytest.raises(ValueError, match=words) as error:
        reproduce.check(config, list(typed))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("recipe", "typed"),
    [
        (table2, {"sample.num_steps": 4, "eval.seed": 1, "probe.batch_size": 64,
                  "guidance.projection": "none", "guidance.apg.eta": 0.5,
                  "guidance.rule": "apg", "experiment.scales": (1.0,)}),
        (table2, {"experiment.cells": ("guidance.scale=1", "sample.seed=2"),
                  "guidance.scale": 2.0, "sample.seed": 4}),
        (fig7b, {"noise.num_timesteps": 200, "sample.batch_size": 8}),
        (fig2, {"sample.num_steps": 4, "sample.seed": 3, "train.num_steps": 50}),
        (calibration, {"eval.metrics": ("fd",), "data.num_examples": 600}),
    ],
)  # fmt: skip
def test_what_was_typed_and_is_read_passes(recipe, typed):
    config = recipe.get_config("smoke")
    config.update_from_flattened_dict(typed)
    reproduce.check(config, list(typed))


def test_another_network_can_be_named_without_unsetting_the_recipes():
    config = table2.get_config("smoke")
    config.model.name = "pix_film"
    reproduce.check(config, ["model.name"])
    assert config.model.unet == base.get_config().model.unet


def test_only_a_sweep_that_probes_needs_examples():
    for recipe, words in ((fig7b, None), (table2, "at least 300"), (fig2, "use")):
        config = recipe.get_config("smoke")
        config.probe.num_examples = 9
        if words:
            refused(config, words)
        else:
            reproduce.check(config)
    config = table2.get_config("smoke")
    config.probe.num_examples, config.guidance.gn.curve = 9, "other/curve.npz"
    reproduce.check(config)


def test_the_exact_model_has_no_other_reference():
    config = fig2.get_config("smoke")
    config.guidance.references = ("autoguidance",)
    config.guidance.autoguidance.step = 20
    refused(config, "guidance.references is .*has null only")
