"""Configs of the first edition go on under today's keys.

golden/first_edition_configs.json holds the resolved recipes of the first edition, as it
wrote them to config.json: {"cifar10:smoke": config, ...}.
"""

import importlib
import json
import pathlib

import pytest

from progguide_jax.runtime import config as config_lib
from progguide_jax.runtime import upgrades

GOLDEN = pathlib.Path(__file__).parents[1] / "golden" / "first_edition_configs.json"
FIRST = json.loads(GOLDEN.read_text())


# What recipes have said otherwise since then.
SINCE = {
    "cifar10:smoke": {"probe.num_examples": 2000},
    "paper/fig7b:cpu": {
        "experiment.sweep.num_intervals": 0,
        "experiment.sweep.intervals": tuple(
            (first, first + 99) for first in range(0, 1000, 100)
        ),
    },
}


def today(name):
    path, _, variant = name.partition(":")
    module = importlib.import_module(f"configs.{path.replace('/', '.')}")
    config = module.get_config(variant)
    config.update_from_flattened_dict(SINCE.get(name, {}))
    return config


def upgraded(name, **changes):
    """A config of the first edition with {"section.key": value} changed."""
    config = json.loads(json.dumps(FIRST[name]))
    for key, value in changes.items():
        section, key = key.split(".")
        assert key in config[section]
        config[section][key] = value
    return config_lib.from_json(json.dumps(config))


@pytest.mark.parametrize("name", FIRST)
def test_a_recipe_of_the_first_edition_is_todays(name):
    assert upgraded(name).to_dict() == today(name).to_dict()


def test_what_was_set_is_carried_over():
    old = {
        "sample.eta": 0.5, "sample.clip_x0": False, "model.sigma_skip": False,
        "guidance.schedule": "neg_perturb", "guidance.t_min": 20, "guidance.t_max": 49,
        "noise.name": "scaled_linear", "noise.beta_end": 0.02,
    }  # fmt: skip
    wanted = today("cifar10:smoke")
    wanted.sample.ddim.eta, wanted.guidance.projection = 0.5, "none"
    wanted.model.unet.sigma_skip = False
    wanted.guidance.schedule = "neg_perturb"
    wanted.guidance.neg_perturb.t_min, wanted.guidance.neg_perturb.t_max = 20, 49
    wanted.noise.name, wanted.noise.scaled_linear.beta_end = "scaled_linear", 0.02
    assert upgraded("cifar10:smoke", **old).to_dict() == wanted.to_dict()


def test_what_did_nothing_is_left_behind():
    """A power, a window and a table without their schedule, a variance without DDPM."""
    old = {
        "guidance.power": 2.0, "guidance.t_min": 5, "guidance.table": "w.npy",
        "sample.variance": "large", "data.mean": 3.0, "model.width": 7,
    }  # fmt: skip
    assert (
        upgraded("cifar10:smoke", **old).to_dict() == today("cifar10:smoke").to_dict()
    )


def test_gn_all_and_the_schedules_of_an_experiment_keep_their_files():
    gn = {"guidance.schedule": "gn_all", "guidance.curve": "c.npz"}
    assert upgraded("cifar10:smoke", **gn).guidance.gn.curve == "c.npz"
    table = {"experiment.schedules": ["table"], "guidance.table": "w.npy"}
    assert upgraded("paper/fig7b:cpu", **table).guidance.table.file == "w.npy"


def test_a_part_of_a_config_is_upgraded_and_todays_stays_as_it_is():
    part = {k: FIRST["two_gaussians"][k] for k in ("data", "noise")} | {"omega": [1.0]}
    now = json.loads(config_lib.to_json(today("two_gaussians")))
    assert upgrades.upgrade(part) == {
        "data": now["data"], "noise": now["noise"], "omega": [1.0]
    }  # fmt: skip
    assert upgrades.upgrade(now) == now


def test_a_run_goes_on_and_a_change_is_named_by_its_new_key(tmp_path):
    text = json.dumps(FIRST["cifar10:smoke"])
    (tmp_path / "config.json").write_text(text)
    config = today("cifar10:smoke")
    config_lib.check_resume(str(tmp_path), config)
    config.model.unet.channel_mult = (1, 2, 2)
    config.train.predicts = "v"
    with pytest.raises(ValueError) as error:
        config_lib.check_resume(str(tmp_path), config)
    assert r"model.unet.channel_mult: [1, 2] -> [1, 2, 2]" in str(error.value)
    assert "train.predicts: eps -> v" in str(error.value)


def test_a_default_of_then_is_that_of_today_where_nobody_chose_the_entry():
    then = {"tau": 0.0035, "delta": -0.081}
    plain = upgrades.upgrade({"guidance": {"rule": "cfg", "feedback": dict(then)}})
    held = plain["guidance"]["feedback"]
    assert held["tau"] is None and held["delta"] is None
    adaptive = {"rule": "adaptive", "adaptive": {"rule": "feedback"}}
    within = upgrades.upgrade({"guidance": adaptive | {"feedback": dict(then)}})
    assert within["guidance"]["feedback"].items() >= then.items()
    meant = upgrades.upgrade({"guidance": {"rule": "feedback", "feedback": dict(then)}})
    assert then.items() <= meant["guidance"]["feedback"].items()
