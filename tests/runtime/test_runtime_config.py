"""Each key is checked, each message names the key and the way out."""

import json
import re
import subprocess
import sys

import jax
import jax.numpy as jnp
import ml_collections
import pytest

from configs import base
from progguide_jax import models
from progguide_jax.diffusion import process
from progguide_jax.runtime import config as config_lib

# Keys that take any value of their type, or are checked only where they are used.
FREE = """distributed allow_config_change data.dir data.flip data.mean model.sigma_skip
    guidance.table guidance.curve sample.clip_x0 sample.double_batch
    noise.beta_start noise.beta_end guidance.t_min guidance.t_max""".split()


def keys(tree, prefix=""):
    for name, value in tree.items():
        if isinstance(value, dict):
            yield from keys(value, f"{prefix}{name}.")
        else:
            yield prefix + name, value


def changed(**values) -> ml_collections.ConfigDict:
    config = base.get_config()
    config.update_from_flattened_dict(
        {key.replace("__", "."): value for key, value in values.items()}
    )
    return config


def nonsense(value):
    if isinstance(value, str):
        return "/no such/"
    return ("no such",) if isinstance(value, tuple) else type(value)(-3)


@pytest.mark.parametrize("key, value", list(keys(base.get_config().to_dict())))
def test_every_key_is_checked(key, value):
    if key in FREE:
        return
    config = changed(**{key: nonsense(value)})
    with pytest.raises(ValueError, match=re.escape(key)) as error:
        config_lib.validate(config)
    assert len(str(error.value).splitlines()) == 1


def test_the_defaults_are_valid():
    config_lib.validate(base.get_config())
    config_lib.validate(base.get_config().lock())


@pytest.mark.parametrize(
    "values, words",
    [
        ({"guidance.schedule": "cosin"}, "unknown guidance.schedule 'cosin': did you "
         "mean 'cosine'?"),
        ({"data.name": "cifar"}, "did you mean 'cifar10'?"),
        ({"noise.num_timesteps": 100}, "sample.num_steps is 200: use at most 100"),
        ({"train.sample_steps": 1001}, "train.sample_steps is 1001: use at most 1000"),
        ({"guidance.scale": float("nan")}, "guidance.scale nan makes no sense"),
        ({"guidance.scale": float("inf")}, "use a finite number"),
        ({"guidance.scale": -1.5}, "at least -1"),
        ({"guidance.scale": -0.5, "guidance.schedule": "linear"}, "at least 0"),
        ({"train.label_drop": 1.0}, "at least 0 and below 1"),
        ({"train.ema_decay": 1.0}, "at least 0 and below 1"),
        ({"train.learning_rate": float("nan")}, "finite and above 0"),
        ({"sample.eta": 1.5}, "in [0, 1]"),
        ({"sample.offset": 20}, "config.sample: offset 20"),
        ({"data.image_size": 36}, "36 is not divisible by 8"),
        ({"model.attention_resolutions": (14,)}, "no feature map is 14 pixels wide, "
         "they are 32, 16, 8, 4"),
        ({"model.channel_mult": (1, 2.5)}, "model.channel_mult holds 2.5"),
        ({"model.channel_mult": ()}, "model.channel_mult is empty"),
        ({"model.base_channels": 48}, "cannot split 144 channels"),
        ({"model.base_channels": 3}, "cannot split 3 channels"),
        ({"guidance.schedule": "interval", "guidance.t_min": 5, "guidance.t_max": 4},
         "use 0 <= t_min <= t_max"),
        ({"guidance.schedule": "interval", "guidance.t_min": 1000,
          "guidance.t_max": 2000}, "holds no timestep of 0 ... 999"),
        ({"guidance.schedule": "table"}, "set guidance.table"),
        ({"noise.name": "scaled_linear", "noise.beta_end": 0.0001}, "beta_start <= "),
        ({"noise.name": "scaled_linear", "noise.beta_end": 1.0}, "beta_end < 1"),
        ({"train.decay": "cosine", "train.num_steps": 5000}, "warmup_steps 5000"),
        ({"data.name": "two_gaussians"}, "two_gaussians has 2 classes"),
        ({"sample.name": "../elsewhere"}, "leave out the slashes"),
        ({"seed": 2**32}, "seed is 4294967296"),
        ({"experiment.scales": (0.0, -2.0)}, "experiment.scales -2.0"),
        ({"experiment.num_paths": 1000}, "more than num_images"),
    ],
)  # fmt: skip
def test_bad_values_are_named_with_a_remedy(values, words):
    with pytest.raises(ValueError) as error:
        config_lib.validate(changed(**values))
    assert words in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize(
    "values",
    [
        {"guidance.scale": -1.0},  # the unconditional model
        {"guidance.scale": 0.0, "guidance.schedule": "gn"},
        {"noise.num_timesteps": 200, "train.sample_every": 0},
        {"sample.spacing": "trailing", "sample.num_steps": 1000},
        {"noise.name": "scaled_linear"},
        {"model.name": "pix_film", "data.image_size": 7},
        {"model.base_channels": 8, "model.channel_mult": (1, 2)},
    ],
)
def test_unusual_values_that_make_sense_pass(values):
    config_lib.validate(changed(**values))


def test_a_missing_key_is_a_value_error():
    config = base.get_config()
    del config.train.grad_clip
    with pytest.raises(ValueError, match="lacks a key .*grad_clip"):
        config_lib.validate(config)
    config = changed()
    config.train.batch_size = None
    with pytest.raises(ValueError, match="train.batch_size is None"):
        config_lib.validate(config)


def test_the_normalised_widths_are_those_of_the_network():
    """The U-Net itself accepts and refuses the same sizes."""

    def builds(config):
        network = models.create(
            noise_schedule=process.ddpm_linear(10),
            num_classes=3,
            **config.model.to_dict(),
        )
        x, t = jnp.zeros((1, 8, 8, 3)), jnp.zeros((1,), jnp.int32)
        emb = jnp.zeros((1, config.model.label_dim))
        try:
            jax.eval_shape(network.init, jax.random.key(0), x, t, emb)
        except Exception:
            return False
        return True

    for base_channels in (4, 24, 36, 48, 80):
        for mult in ((1,), (1, 3)):
            config = changed(
                **{
                    "model.base_channels": base_channels,
                    "model.channel_mult": mult,
                    "model.attention_resolutions": (),
                    "model.num_res_blocks": 1,
                    "data.image_size": 8,
                }
            )
            try:
                config_lib.validate(config)
                valid = True
            except ValueError:
                valid = False
            assert valid == builds(config), (base_channels, mult)


def test_json_round_trip_keeps_values_and_digest():
    config = changed(**{"train.learning_rate": 3, "model.channel_mult": (1, 2)})
    again = config_lib.from_json(config_lib.to_json(config))
    assert again.to_dict() == config.to_dict()
    assert isinstance(again.model.channel_mult, tuple)
    assert isinstance(again.train.learning_rate, float)
    assert config_lib.digest(again) == config_lib.digest(config)
    assert config_lib.digest(config) != config_lib.digest(base.get_config())
    reordered = ml_collections.ConfigDict(
        dict(reversed(list(config.to_dict().items())))
    )
    assert config_lib.digest(reordered) == config_lib.digest(config)


def test_difference_lists_changed_new_and_lost_keys():
    a, b = base.get_config(), changed(**{"train.batch_size": 64, "seed": 5})
    del a.model.width
    assert config_lib.difference(a, b) == [
        "model.width: absent -> 256",
        "seed: 0 -> 5",
        "train.batch_size: 128 -> 64",
    ]
    assert config_lib.difference(b, b.copy_and_resolve_references()) == []


def test_provenance_says_what_ran(tmp_path):
    config = changed(seed=7)
    config_lib.write_provenance(str(tmp_path / "run"), config)
    written = json.loads((tmp_path / "run" / "config.json").read_text())
    assert written["seed"] == 7 and written["model"]["channel_mult"] == [1, 2, 2, 2]
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


def test_the_length_of_a_decaying_run_is_part_of_it(tmp_path):
    config = changed(**{"train.decay": "cosine"})
    config_lib.write_provenance(str(tmp_path), config)
    config.train.num_steps += 1
    with pytest.raises(ValueError, match="train.num_steps: 800000 -> 800001"):
        config_lib.check_resume(str(tmp_path), config)


@pytest.mark.parametrize("text", ["{", "[]", ""])
def test_a_damaged_config_json_is_one_line(tmp_path, text):
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(ValueError, match="config.json is damaged: delete it") as error:
        config_lib.check_resume(str(tmp_path), base.get_config())
    assert "\n" not in str(error.value)
