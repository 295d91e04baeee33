"""The sections of a config are the entries of the tables, their defaults the same."""

import pytest

from configs import base
from progguide_jax.systems import entries

ROWS = [(key, name) for key, table in entries.TABLES.items() for name in table]


@pytest.mark.parametrize("key, name", ROWS)
def test_a_section_has_the_settings_of_its_entry_and_their_defaults(key, name):
    """Without those that the section around it, or the whole, gives."""
    config = base.get_config()
    around = {*entries.common(config, key.split(".")[0]), "name", "parent", "predicts"}
    known = entries.defaults(key, name)
    held = entries.settings(config, key, name)
    if set(held) - set(known):  # a file, a workdir, a scale
        unset = [value for name, value in held.items() if name not in known]
        assert known.items() <= held.items() and not any(unset)
    elif held or key.split(".")[0] in ("model", "guidance", "sample"):
        own = known.keys() - around | held.keys()
        assert held == {k: v for k, v in known.items() if k in own}


def test_every_section_of_the_config_is_that_of_an_entry():
    config = base.get_config()
    for section in ("data", "noise", "model", "train", "guidance", "sample"):
        names = {n for k, n in ROWS if k.startswith(f"{section}.")}
        held = {k for k, v in config[section].items() if entries.is_section(v)}
        assert held <= names


def test_settings_of_the_chosen_entry():
    config = base.get_config()
    config.guidance.schedule, config.guidance.gn.curve = "gn_all", "c.npz"
    config.sample.solver = "unipc"
    assert entries.settings(config, "guidance.schedule") == {
        "curve": "c.npz",
        "carry": False,
    }
    assert entries.settings(config, "sample.solver") == {"restart": False}
    assert entries.settings(config, "sample.solver", "ddim") == {"eta": 0.0}
    assert entries.chosen(config, "guidance.references") == ("null",)
    assert entries.common(config, "model") == {"name": "unet", "label_dim": 512}
