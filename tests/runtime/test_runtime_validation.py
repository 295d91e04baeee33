"""Each key is checked, each message names the key and the way out."""

import re

import jax
import jax.numpy as jnp
import ml_collections
import pytest

from configs import base
from progguide_jax import models
from progguide_jax.diffusion import process
from progguide_jax.runtime import validation

# Keys that take any value of their type, or are checked only where they are used.
FREE = """distributed allow_config_change data.dir data.flip data.mean model.sigma_skip
    guidance.table guidance.curve sample.clip_x0 sample.double_batch
    eval.weights eval.reference eval.samples eval.per_class
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
        validation.validate(config)
    assert len(str(error.value).splitlines()) == 1


def test_the_defaults_are_valid():
    validation.validate(base.get_config())
    validation.validate(base.get_config().lock())


@pytest.mark.parametrize(
    "values, words",
    [
        ({"guidance.schedule": "cosin"}, "unknown guidance.schedule 'cosin': did you "
         "mean 'cosine'?"),
        ({"data.name": "cifar"}, "did you mean 'cifar10'?"),
        ({"noise.num_timesteps": 100}, "sample.num_steps is 200: use at most 100"),
        ({"train.sample_steps": 1001}, "train.sample_steps is 1001: use at most 1000"),
        ({"guidance.scale": float("nan")}, "guidance scale nan makes no sense"),
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
        ({"experiment.scales": (0.0, -2.0)}, "experiment.scales: guidance scale -2.0"),
        ({"experiment.num_paths": 1000}, "more than num_images"),
    ],
)  # fmt: skip
def test_bad_values_are_named_with_a_remedy(values, words):
    with pytest.raises(ValueError) as error:
        validation.validate(changed(**values))
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
    validation.validate(changed(**values))


def test_a_missing_key_is_a_value_error():
    config = base.get_config()
    del config.train.grad_clip
    with pytest.raises(ValueError, match="lacks a key .*grad_clip"):
        validation.validate(config)
    config = changed()
    config.train.batch_size = None
    with pytest.raises(ValueError, match="train.batch_size is None"):
        validation.validate(config)


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
                validation.validate(config)
                valid = True
            except ValueError:
                valid = False
            assert valid == builds(config), (base_channels, mult)
