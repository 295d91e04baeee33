"""Each key is checked, each message names the key and the way out."""

import functools
import re

import jax
import ml_collections
import pytest

from configs import base, cifar10, classifier
from progguide_jax.guidance import schedules
from progguide_jax.scoring import eval_checks
from progguide_jax.systems import build, validation

# Keys that take any value of their type, or are checked only where they are used.
FREE = """distributed train.fsdp allow_config_change data.dir data.digest data.flip
    model.unet.sigma_skip sample.double_batch sample.trace sample.export_adm
    eval.weights eval.reference eval.samples eval.per_class""".split()


def check(config):
    """All checks of a config for one command."""
    validation.validate(config)
    validation.check_unused([config])
    validation.check_examples(config)
    eval_checks.check_eval(config)


def keys(tree, prefix=""):
    for name, value in tree.items():
        if isinstance(value, dict):
            yield from keys(value, f"{prefix}{name}.")
        else:
            yield prefix + name, value


def changed(**values) -> ml_collections.ConfigDict:
    config = base.get_config().lock()
    config.update_from_flattened_dict(values)
    return config


def nonsense(value):
    if isinstance(value, str):
        return "/no such/"
    if isinstance(value, bool):
        return not value
    if value is None:
        return -3
    return ("no such",) if isinstance(value, tuple) else type(value)(-3)


@pytest.mark.parametrize("key, value", list(keys(base.get_config().to_dict())))
def test_every_key_is_checked(key, value):
    if key in FREE or key.startswith("experiment."):  # tests/experiments has those
        return
    config = changed(**{key: nonsense(value)})
    with pytest.raises(ValueError, match=re.escape(key)) as error:
        check(config)
    assert len(str(error.value).splitlines()) == 1


def test_the_defaults_are_valid():
    check(base.get_config())
    check(base.get_config().lock())


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
        ({"sample.ddim.eta": 1.5}, "in [0, 1]"),
        ({"sample.offset": 20}, "sample.offset 20 moves"),
        ({"data.image_size": 36}, "36 is not divisible by 8"),
        ({"model.unet.attention_resolutions": (14,)}, "no feature map is 14 pixels "
         "wide: use some of 32, 16, 8, 4"),
        ({"model.unet.channel_mult": (1, 2.5)}, "model.unet.channel_mult holds 2.5"),
        ({"model.unet.channel_mult": ()}, "model.unet.channel_mult is empty"),
        ({"model.unet.base_channels": 48}, "cannot split 144 channels"),
        ({"model.unet.base_channels": 3}, "cannot split 3 channels"),
        ({"guidance.schedule": "interval", "guidance.interval.t_min": 5,
          "guidance.interval.t_max": 4}, "use 0 <= t_min <= t_max"),
        ({"guidance.schedule": "interval", "guidance.interval.t_min": 1000},
         "holds no timestep of 0 ... 999"),
        ({"guidance.schedule": "neg_perturb", "guidance.neg_perturb.t_max": -1},
         "guidance.neg_perturb.t_max is -1: it must be None, or a timestep"),
        ({"guidance.schedule": "table"}, "set guidance.table.file"),
        ({"guidance.schedule": "gn", "guidance.gn.carry": True},
         "guidance.gn.carry is set and there is no other curve: set guidance.gn.curve"),
        ({"guidance.schedule": "interval"}, "guidance.interval: give t_min, t_max or"),
        ({"guidance.schedule": "interval", "guidance.interval.t_min": 5,
          "guidance.interval.sigma_max": 1.0},
         "guidance.interval: the ends are given in t and in sigma"),
        ({"guidance.schedule": "interval", "guidance.interval.sigma_min": 500.0},
         "guidance.interval: sigma_min and sigma_max hold no noise level of the grid"),
        ({"guidance.schedule": "beta", "guidance.beta.a": 0.5},
         "guidance.beta: a 0.5, b 2.0: use numbers of 1 or more"),
        ({"guidance.schedule": "tv", "guidance.normalize": "sampling"},
         "guidance.normalize: normalize is 'sampling' and schedule 'tv' has a scaling"),
        ({"noise.name": "scaled_linear", "noise.scaled_linear.beta_end": 0.0001},
         "beta_start <= "),
        ({"noise.name": "scaled_linear", "noise.scaled_linear.beta_end": 1.0},
         "beta_end < 1"),
        ({"train.exit_weight": 0.7}, "train.exit_weight is 0.7 and model.unet.exit is "
         "off: set model.unet.exit"),
        ({"noise.zero_terminal_snr": True}, "set train.predicts=v or x0"),
        ({"sample.spacing": "karras", "sample.offset": 1},
         "sample.offset 1 moves timesteps: leave it out with"),
        ({"sample.spacing": "karras", "sample.karras.sigma_max": 500.0},
         "sample.karras.sigma_max 500 leaves the range of ddpm_linear: use 0.01 ... "),
        ({"sample.spacing": "log_snr", "sample.log_snr.sigma_min": 2.0,
          "sample.log_snr.sigma_max": 1.0},
         "sample.log_snr.sigma_min 2 and sigma_max 1: they must satisfy"),
        ({"sample.solver": "ddpm", "sample.ddpm.variance": "medium"}, "sample.ddpm: "),
        ({"sample.solver": "heun", "sample.heun.stage_omega": "nearest"},
         "sample.heun: "),
        ({"guidance.rule": "cfgpp"}, "the rule 'cfgpp' takes -1 ... 0"),
        ({"guidance.references": ()}, "at least one"),
        ({"guidance.references": ("null", "autoguidance"),
          "guidance.autoguidance.step": 1,
          "guidance.autoguidance.scale": float("nan")},
         "guidance.autoguidance.scale: guidance scale nan"),
        ({"guidance.references": ("autoguidance",), "guidance.autoguidance.step": 1,
          "guidance.autoguidance.scale": 0.5}, "set that instead"),
        ({"guidance.references": ("icg",), "guidance.icg.schedule": "linear"},
         "guidance.icg.schedule beside no other reference would replace guidance.sch"),
        ({"guidance.references": ("null", "icg"), "guidance.icg.schedule": "cosin"},
         "unknown guidance.icg.schedule 'cosin': did you mean 'cosine'"),
        ({"guidance.references": ("null", "icg"), "guidance.icg.schedule": "pag"},
         "guidance.icg.schedule is 'pag': set guidance.references to that instead"),
        ({"guidance.references": ("null", "icg"), "guidance.icg.schedule": "table"},
         "guidance.icg.schedule 'table' needs a file: set guidance.table.file"),
        ({"guidance.references": ("null", "icg"), "guidance.icg.schedule": "interval"},
         "guidance.interval: give t_min, t_max or"),
        ({"guidance.references": ("null", "icg"), "guidance.icg.schedule": "linear",
          "guidance.scale": -0.5}, "guidance scale -0.5 makes no sense for 'linear'"),
        ({"guidance.references": ("null", "autoguidance"), "guidance.rule": "recfg",
          "guidance.autoguidance.step": 1}, "guidance.rule 'recfg': this rule takes "
         "one reference and there are 2 (null, guide): use another rule, such as cfg"),
        ({"guidance.rule": "cfgpp", "guidance.scale": -0.5, "sample.solver": "heun"},
         "sample.solver 'heun': this rule denoises with"),
        ({"sample.solver": "heun", "sample.heun.churn": 1e9},
         "sample.solver 'heun': churn: "),
        ({"noise.zero_terminal_snr": True, "train.predicts": "v",
          "sample.spacing": "trailing", "sample.solver": "heun"},
         "heun cannot start from pure noise"),
        ({"guidance.rule": "adaptive", "guidance.adaptive.rule": "apgg"},
         "unknown guidance.adaptive.rule 'apgg': did you mean 'apg'"),
        ({"guidance.rule": "adaptive", "guidance.adaptive.rule": "adaptive"},
         "guidance.adaptive: adaptive: rule is one that stops by itself"),
        ({"guidance.rule": "adaptive", "guidance.adaptive.rule": "power_law",
          "guidance.power_law.exponent": -2.0}, "guidance.power_law: power_law: exp"),
        ({"guidance.rule": "adaptive", "guidance.adaptive.rule": "cfgpp"},
         "the rule 'adaptive' takes -1 ... 0"),
        ({"guidance.rule": "adaptive", "guidance.adaptive.rule": "cfgpp",
          "guidance.scale": -0.5, "sample.solver": "heun"},
         "sample.solver 'heun': this rule denoises with"),
        ({"guidance.references": ("null", "icg"), "guidance.rule": "adaptive",
          "guidance.adaptive.rule": "feedback"},
         "guidance.rule 'adaptive': this rule takes one reference and there are 2"),
        ({"guidance.references": ("null", "null")}, "each reference once"),
        ({"guidance.references": ("nul",)}, "did you mean 'null'?"),
        ({"guidance.rule": "pag"}, "set guidance.references to that instead"),
        ({"guidance.references": ("autoguidance",)}, "set guidance.autoguidance."),
        ({"guidance.references": ("autoguidance",), "checkpoint.step": 9,
          "guidance.autoguidance.step": 9}, "set guidance.autoguidance."),
        ({"data.name": "two_gaussians"}, "two_gaussians has 2 classes"),
        ({"sample.name": "../elsewhere"}, "leave out the slashes"),
        ({"seed": 2**32}, "seed is 4294967296"),
        ({"noise.num_timesteps": 10**6 + 1}, "noise.num_timesteps is 1000001"),
        ({"sample.num_images": 2**40}, "sample.num_images is 1099511627776: use at"),
    ],
)  # fmt: skip
def test_bad_values_are_named_with_a_remedy(values, words):
    with pytest.raises(ValueError) as error:
        check(changed(**values))
    assert words in str(error.value) and "\n" not in str(error.value)


def test_a_setting_of_another_type_is_named():
    config = changed(**{"guidance.schedule": "interval"})
    with config.ignore_type():
        config.guidance.interval.sigma_min = "a"
    with pytest.raises(ValueError, match="^guidance.interval: sigma_min must be a num"):
        validation.validate(config)


@pytest.mark.parametrize(
    "values",
    [
        {"guidance.scale": -1.0},  # the unconditional model
        {"guidance.scale": 0.0, "guidance.schedule": "gn"},
        {"noise.num_timesteps": 200, "train.sample_every": 0},
        {"sample.spacing": "trailing", "sample.num_steps": 1000},
        {"noise.name": "scaled_linear"},
        {"noise.zero_terminal_snr": True, "train.predicts": "v"},
        {"sample.spacing": "karras", "sample.num_steps": 2000},
        {"guidance.rule": "cfgpp", "guidance.scale": -0.4},
        {"guidance.references": ("null", "autoguidance"),
         "guidance.autoguidance.step": 500},
        {"guidance.schedule": "interval", "guidance.interval.t_max": 50},
        {"model.name": "pix_film", "data.image_size": 7},
        {"model.unet.base_channels": 8, "model.unet.channel_mult": (1, 2)},
    ],
)  # fmt: skip
def test_unusual_values_that_make_sense_pass(values):
    check(changed(**values))


@pytest.mark.parametrize(
    "values, words",
    [
        ({"model.pix_film.width": 17}, "model.pix_film.width is set and model.name is "
         "'unet': leave it out, or set model.name=pix_film"),
        ({"model.name": "pix_film", "model.unet.dropout": 0.0},
         "model.unet.dropout is set and model.name is 'pix_film'"),
        ({"data.two_gaussians.std": 0.5}, "set data.name=two_gaussians"),
        ({"noise.scaled_linear.beta_end": 0.02}, "set noise.name=scaled_linear"),
        ({"train.min_snr.gamma": 1.0}, "set train.loss_weight=min_snr"),
    ],
)  # fmt: skip
def test_a_key_that_nothing_uses_is_refused_at_once(values, words):
    with pytest.raises(ValueError) as error:
        validation.validate(changed(**values))
    assert words in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize(
    "values, words",
    [
        ({"guidance.interval.t_min": 0}, "set guidance.schedule=interval"),
        ({"guidance.neg_perturb.t_max": 9}, "set guidance.schedule=neg_perturb"),
        ({"guidance.pcs.power": 2.0}, "set guidance.schedule=pcs"),
        ({"guidance.icg.schedule": "pcs"}, "set guidance.references=('icg',)"),
        ({"guidance.table.file": "w.npy"}, "set guidance.schedule=table"),
        ({"guidance.gn.curve": "c.npz"}, "set guidance.schedule=gn"),
        ({"guidance.apg.eta": 0.5}, "guidance.apg.eta is set and guidance.rule is 'cfg'"
         ": leave it out, or set guidance.rule=apg"),
        ({"guidance.adaptive.rule": "apg"}, "or set guidance.rule=adaptive"),
        ({"guidance.rule": "adaptive", "guidance.apg.eta": 0.5}, "guidance.apg.eta is "
         "set and guidance.rule is 'adaptive': leave it out"),
        ({"guidance.autoguidance.step": 5}, "guidance.references is ('null',): leave "
         "it out, or set guidance.references=('autoguidance',)"),
        ({"guidance.dynamic_threshold.quantile": 0.9},
         "set guidance.projection=dynamic_threshold"),
        ({"guidance.projection": "none", "guidance.clip.bound": 2.0},
         "set guidance.projection=clip"),
        ({"sample.solver": "heun", "sample.ddim.eta": 1.0}, "set sample.solver=ddim"),
        ({"sample.ddpm.variance": "large"}, "set sample.solver=ddpm"),
        ({"sample.euler.churn": 1.0}, "set sample.solver=euler"),
        ({"sample.karras.rho": 5.0}, "set sample.spacing=karras"),
        ({"sample.solver": "euler", "sample.euler.churn_min": 0.1}, "set churn too"),
    ],
)  # fmt: skip
def test_a_key_of_guidance_or_sampling_must_act_in_some_cell(values, words):
    config = changed(**values)
    validation.validate(config)
    for configs in ([config], [config, config]):
        with pytest.raises(ValueError) as error:
            validation.check_unused(configs)
        assert words in str(error.value) and "\n" not in str(error.value)
    with pytest.raises(ValueError):
        validation.check_command(config)
    config.experiment.name = "sweep"  # whose cells decide what the recipe may set
    validation.check_command(config)
    with pytest.raises(ValueError):  # but what was typed acts here or nowhere
        validation.check_command(config, list(values))


@pytest.mark.parametrize(
    "recipe, typed",
    [
        ({"model.unet.dropout": 0.0, "model.unet.attention_resolutions": (8,)},
         {"model.name": "pix_film"}),
        ({"data.name": "two_gaussians", "data.num_classes": 2,
          "data.two_gaussians.mean": 0.5}, {"data.name": "synthetic"}),
        ({"guidance.rule": "apg", "guidance.apg.eta": 1.0}, {"guidance.rule": "cfg"}),
        ({"guidance.rule": "adaptive", "guidance.adaptive.rule": "apg",
          "guidance.apg.eta": 1.0}, {"guidance.rule": "cfg"}),
        ({"guidance.schedule": "table", "guidance.table.file": "w.npy"},
         {"guidance.schedule": "gn"}),
        ({"guidance.references": ("autoguidance",), "guidance.autoguidance.step": 5,
          "guidance.autoguidance.scale": 2.0}, {"guidance.references": ("null",)}),
    ],
)  # fmt: skip
def test_what_a_recipe_says_of_an_entry_goes_with_it(recipe, typed):
    """The config becomes the one of somebody who never set these keys."""
    config = changed(**recipe)
    config.update_from_flattened_dict(typed)
    validation.check_command(config, list(typed))
    kept = {k: v for k, v in recipe.items() if k.count(".") == 1}
    assert config.to_dict() == changed(**(kept | typed)).to_dict()


def test_a_key_that_was_typed_stays_and_is_refused():
    config = changed(**{"model.name": "pix_film", "model.unet.dropout": 0.0})
    with pytest.raises(ValueError, match="model.unet.dropout is set and model.name"):
        validation.check_command(config, ["model.name", "model.unet.dropout"])


def test_examples_must_suffice_where_there_is_a_probe():
    config = changed(**{"probe.num_examples": 9_999})
    validation.check_command(config)
    validation.check_training(config)
    with pytest.raises(ValueError, match="use at least 10000"):
        validation.check_probing(config)
    config.probe.timesteps, config.probe.num_examples = "uniform", 39_999
    with pytest.raises(ValueError, match="use at least 40000"):  # draws leave gaps
        validation.check_probing(config)
    config.probe.num_examples = 40_000
    validation.check_probing(config)
    config.probe.timesteps, config.probe.num_examples = "stratified", 1_009
    config.probe.stride = 10  # 0, 10, ... 990 and 999
    with pytest.raises(ValueError, match="10 classes x 101 timesteps: use at least 1"):
        validation.check_probing(config)
    config.probe.num_examples = 1_010
    validation.check_probing(config)
    config.probe.stride = 101
    with pytest.raises(ValueError, match="probe.stride is 101: use at most 100"):
        validation.check_probing(config)
    smoke = cifar10.get_config("smoke")
    smoke.noise.num_timesteps = 1000
    validation.check_probing(smoke)


def test_one_cell_that_uses_a_key_is_enough():
    plain = changed(**{"guidance.apg.eta": 0.5, "guidance.gn.curve": "c.npz"})
    apg = plain.copy_and_resolve_references()
    apg.guidance.rule, apg.guidance.schedule = "apg", "gn_all"
    validation.check_unused([plain, apg])
    with pytest.raises(ValueError, match="guidance.gn.curve is set"):
        validation.check_unused([plain, plain])


@pytest.mark.parametrize(
    "values, words",
    [
        ({"guidance.scale": 0.0, "guidance.normalize": "train"},
         ["guidance.normalize does nothing: guidance.scale is 0"]),
        ({"guidance.scale": 0.0, "guidance.rule": "apg", "guidance.apg.eta": 1.0},
         ["guidance.rule does nothing: guidance.scale is 0"]),
        ({"guidance.rule": "recfg"}, ["guidance.rule is 'recfg' and its settings are "
                                      "those at which it is cfg"]),
        ({"guidance.scale": 0.0, "guidance.schedule": "linear",
          "sample.double_batch": True},
         ["guidance.schedule does", "sample.double_batch does"]),
        ({"guidance.scale": 0.0, "guidance.references": ("null", "autoguidance"),
          "guidance.autoguidance.scale": 2.0, "guidance.autoguidance.step": 1}, []),
        ({"guidance.normalize": "train"}, ["guidance.normalize does nothing: the "
         "static schedule is constant"]),
        ({"sample.solver": "heun", "sample.heun.stage_omega": "step"},
         ["sample.heun.stage_omega does nothing"]),
        ({"data.name": "synthetic", "data.dir": "/data"}, ["data.dir is not read"]),
        ({"noise.zero_terminal_snr": True, "train.predicts": "v",
          "sample.spacing": "trailing", "train.loss_weight": "min_snr"},
         ["min_snr is 0 at pure noise"]),
        ({"noise.zero_terminal_snr": True, "train.predicts": "v"},
         ["noise.zero_terminal_snr does nothing in sampling: spacing 'leading'"]),
        ({"guidance.scale": 0.0, "sample.solver": "heun",
          "sample.heun.stage_omega": "step"}, ["stage_omega does nothing"]),
        ({}, []),
    ],
)  # fmt: skip
def test_a_setting_that_cannot_act_is_warned_of_unless_a_cell_uses_it(
    values, words, caplog
):
    config = changed(**values)
    validation.check_command(config)
    assert len(caplog.messages) == len(words)
    for message, part in zip(caplog.messages, words, strict=True):
        assert part in message
    caplog.clear()
    acts = config.copy_and_resolve_references()
    acts.guidance.scale, acts.guidance.schedule = 1.0, "linear"
    validation.check_unused([config, acts])
    assert not any(" does nothing: " in message for message in caplog.messages)


@pytest.mark.parametrize(
    "recipe, variant, typed, wanted",
    [
        (cifar10, "smoke", {"data.image_size": 32}, (16,)),  # levels of 32, 16
        (cifar10, "smoke", {"data.image_size": 12}, (6,)),
        (cifar10, "cpu", {"data.image_size": 64}, (16,)),
        (cifar10, "cpu", {"data.image_size": 16}, (8,)),  # is there: it stays
        (cifar10, "cpu", {"model.unet.channel_mult": (1, 1)}, (16,)),
        (cifar10, "", {"data.image_size": 256}, (32,)),
        (classifier, "", {"data.image_size": 128}, (16,)),  # both become one
    ],
)
def test_attention_follows_the_size_of_the_images(
    recipe, variant, typed, wanted, caplog
):
    caplog.set_level("INFO")
    config = recipe.get_config(variant)
    name = config.model.name
    before = config.model[name].attention_resolutions
    config.update_from_flattened_dict(typed)
    validation.check_command(config, list(typed))
    assert config.model[name].attention_resolutions == wanted
    assert (f"model.{name}.attention_resolutions is {wanted}" in caplog.text) == (
        wanted != before
    )


def test_widths_of_attention_that_were_typed_stay():
    config = cifar10.get_config("smoke")
    config.data.image_size = 32
    with pytest.raises(ValueError, match="no feature map is 4 pixels wide: use some"):
        validation.check_command(
            config, ["data.image_size", "model.unet.attention_resolutions"]
        )
    with pytest.raises(ValueError, match="no feature map is 4 pixels wide"):
        validation.check_command(config)  # a recipe's own mistake
    config.data.image_size = 0
    with pytest.raises(ValueError, match="data.image_size is 0"):
        validation.check_command(config, ["data.image_size"])


@pytest.mark.parametrize(
    "values",
    [
        {"guidance.scale": 1e9},
        {"guidance.scale": 1e9, "guidance.schedule": "gn"},
        {"guidance.references": ("null", "autoguidance"),
         "guidance.autoguidance.scale": 2e3, "guidance.autoguidance.step": 1},
    ],
)  # fmt: skip
def test_a_scale_beyond_use_is_said_before_sampling(values, caplog):
    validation.check_command(changed(**{"guidance.scale": 100.0}))
    assert not caplog.messages
    validation.check_command(changed(**values))
    (line,) = caplog.messages
    assert line == schedules.beyond_use(1e9) and "published method" in line


def test_a_warm_up_of_the_whole_run_is_said_where_it_is_run(caplog):
    config = changed(**{"train.decay": "cosine", "train.num_steps": 5000})
    validation.check_command(config)
    assert not caplog.messages
    validation.check_training(config)
    words = "train.warmup_steps 5000 would be all of num_steps 5000: a tenth"
    assert words in caplog.text


def test_training_does_not_pick_a_checkpoint():
    config = changed(**{"checkpoint.step": 5})
    validation.check_command(config)
    with pytest.raises(ValueError, match="goes on from the newest checkpoint"):
        validation.check_training(config)


def test_changing_the_timesteps_needs_no_other_key():
    for schedule in ("interval", "neg_perturb"):
        limit = {f"guidance.{schedule}.t_min": 100}
        there = {"noise.num_timesteps": 250, "guidance.schedule": schedule}
        check(changed(**there, **limit))


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
        network = build.network(config)
        make = functools.partial(build.init_params, network, (8, 8, 3))
        try:
            jax.eval_shape(make, jax.random.key(0))
        except Exception:
            return False
        return True

    for base_channels in (4, 24, 36, 48, 80):
        for mult in ((1,), (1, 3)):
            config = changed(
                **{
                    "model.unet.base_channels": base_channels,
                    "model.unet.channel_mult": mult,
                    "model.unet.attention_resolutions": (),
                    "model.unet.num_res_blocks": 1,
                    "data.image_size": 8,
                }
            )
            try:
                validation.validate(config)
                valid = True
            except ValueError:
                valid = False
            assert valid == builds(config), (base_channels, mult)


def test_blocks_without_number_are_checked_without_memory():
    validation.validate(changed(**{"model.unet.num_res_blocks": 2**31}))
