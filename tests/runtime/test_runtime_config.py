"""What is written down reads back the same, and a changed run is refused."""

import json
import subprocess
import sys

import jax
import ml_collections
import pytest

from configs import base, cifar10
from configs.paper import table2
from progguide_jax.runtime import config as config_lib


def changed(**values) -> ml_collections.ConfigDict:
    config = base.get_config()
    config.update_from_flattened_dict(
        {key.replace("__", "."): value for key, value in values.items()}
    )
    return config


def test_json_round_trip_keeps_values_and_digest():
    config = changed(**{"train.learning_rate": 3, "model.unet.channel_mult": (1, 2)})
    again = config_lib.from_json(config_lib.to_json(config))
    assert again.to_dict() == config.to_dict()
    assert isinstance(again.model.unet.channel_mult, tuple)
    assert again.guidance.interval.t_max is None
    again.guidance.interval.t_max = 5  # a placeholder still
    assert isinstance(again.train.learning_rate, float)
    config.guidance.interval.t_max = 5
    assert config_lib.digest(again) == config_lib.digest(config)
    assert config_lib.digest(config) != config_lib.digest(base.get_config())
    reordered = ml_collections.ConfigDict(
        dict(reversed(list(config.to_dict().items())))
    )
    assert config_lib.digest(reordered) == config_lib.digest(config)


def test_difference_lists_changed_new_and_lost_keys():
    a, b = base.get_config(), changed(**{"train.batch_size": 64, "seed": 5})
    del a.model.pix_film.width
    assert config_lib.difference(a, b) == [
        "model.pix_film.width: absent -> 256",
        "seed: 0 -> 5",
        "train.batch_size: 128 -> 64",
    ]
    assert config_lib.difference(b, b.copy_and_resolve_references()) == []


def test_provenance_says_what_ran(tmp_path):
    config = changed(seed=7)
    config_lib.write_provenance(str(tmp_path / "run"), config)
    written = json.loads((tmp_path / "run" / "config.json").read_text())
    assert written["seed"] == 7 and written["model"]["unet"]["channel_mult"] == [
        1,
        2,
        2,
        2,
    ]
    environment = json.loads((tmp_path / "run" / "env.json").read_text())
    assert environment["argv"] == sys.argv
    assert environment["versions"]["jax"] == jax.__version__
    assert environment["devices"] == ["cpu"] * 8 and environment["processes"] == 1
    assert environment["python"] == ".".join(map(str, sys.version_info[:3]))


def test_the_commit_is_that_of_the_package_only(tmp_path, monkeypatch):
    def git(*arguments):
        identity = ["-c", "user.name=n", "-c", "user.email=e"]
        command = ["git", "-C", str(tmp_path), *identity, *arguments]
        return subprocess.run(
            command, check=True, capture_output=True, text=True
        ).stdout.strip()

    (tmp_path / "config.py").write_text("installed here by pip")
    monkeypatch.setattr(config_lib, "__file__", str(tmp_path / "config.py"))
    assert config_lib._git_commit() is None
    git("init")
    git("commit", "--allow-empty", "-m", "someone's repository")
    assert config_lib._git_commit() is None
    git("add", ".")
    git("commit", "-m", "ours")
    assert config_lib._git_commit() == git("rev-parse", "HEAD")
    (tmp_path / "config.py").write_text("edited")
    assert config_lib._git_commit() == git("rev-parse", "HEAD") + "-dirty"


def test_a_changed_config_is_refused_with_the_difference(tmp_path, caplog):
    workdir = str(tmp_path)
    config_lib.check_resume(workdir, base.get_config())  # nothing there yet
    config_lib.write_provenance(workdir, base.get_config())
    harmless = {
        "train.num_steps": 10, "train.log_every": 1, "train.checkpoint_every": 1,
        "train.keep": 9, "train.sample_every": 0, "data.dir": "/elsewhere",
        "sample.seed": 3, "guidance.scale": 1.0, "probe.seed": 2,
    }  # fmt: skip
    config_lib.check_resume(workdir, changed(**harmless))
    other = changed(**{"train.batch_size": 64, "seed": 1, "sample.seed": 3})
    with pytest.raises(ValueError) as error:
        config_lib.check_resume(workdir, other)
    message = str(error.value)
    assert "(seed: 0 -> 1; train.batch_size: 128 -> 64)" in message
    assert "--config.allow_config_change" in message and "\n" not in message
    other.allow_config_change = True
    config_lib.check_resume(workdir, other)
    assert "train.batch_size: 128 -> 64" in caplog.text


def test_a_decaying_run_may_be_made_longer_and_says_so(tmp_path, caplog):
    caplog.set_level("INFO")
    config = changed(**{"train.decay": "cosine"})
    config_lib.write_provenance(str(tmp_path), config)
    config.train.num_steps += 1
    config_lib.check_resume(str(tmp_path), config)
    assert "train.num_steps: 800000 -> 800001: the learning rate follows" in caplog.text


def test_the_readmes_small_model_goes_on_in_the_papers_table(tmp_path):
    config_lib.write_provenance(str(tmp_path), cifar10.get_config("cpu"))
    config_lib.check_resume(str(tmp_path), table2.get_config("cpu"))


def test_a_digit_changed_in_a_config_json_is_seen(tmp_path):
    config_lib.write_provenance(str(tmp_path), base.get_config())
    path = tmp_path / "config.json"
    assert (
        config_lib.load(path).to_dict()
        == config_lib.from_json(config_lib.to_json(base.get_config())).to_dict()
    )
    path.write_text(
        path.read_text().replace('"num_steps": 800000', '"num_steps": 800001')
    )
    with pytest.raises(ValueError, match="config.json is damaged: run train.py"):
        config_lib.load(path)


@pytest.mark.parametrize("text", ["{", "[]", ""])
def test_a_damaged_config_json_is_one_line(tmp_path, text):
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(
        ValueError, match="config.json is damaged: run train.py"
    ) as error:
        config_lib.check_resume(str(tmp_path), base.get_config())
    assert "\n" not in str(error.value)


def test_what_no_integer_can_be_is_left_to_the_checks():
    assert config_lib.as_tuple("1e999,2", (1, 2)) == (float("inf"), 2)
