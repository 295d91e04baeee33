"""Whether a config makes sense: every key, before any work is done."""

import difflib
import math
import os
from collections.abc import Sequence
from typing import Any

import ml_collections

from progguide_jax.diffusion import process, samplers
from progguide_jax.guidance import curves, schedules
from progguide_jax.metrics import suite

_CHOICES = {
    "data.name": ("cifar10", "two_gaussians", "synthetic"),
    "noise.name": ("ddpm_linear", "scaled_linear", "cosine"),
    "model.name": ("unet", "pix_film"),
    "model.dtype": ("float32", "bfloat16"),
    "train.decay": ("constant", "cosine"),
    "probe.timesteps": ("stratified", "uniform"),
    "guidance.schedule": tuple(schedules.names()),
    "guidance.normalize": ("default", *curves.MODES),
    "sample.spacing": samplers.SPACINGS,
    "sample.solver": ("ddim", "ddpm"),
    "sample.variance": samplers.VARIANCES,
    "experiment.name": ("", "two_gaussians", "sweep", "calibration"),
    "eval.split": ("train", "test"),
    "eval.features": (
        "inception",
        "resnet20",
        "resnet56",
        "dinov2_vits14",
        "dinov2_vitl14",
        "clip_vitb32",
        "clip_vitb16",
        "clip_vitl14",
        "pixels",
    ),
}

_AT_LEAST_ONE = """data.image_size data.channels data.num_classes data.num_examples
    noise.num_timesteps model.base_channels model.num_res_blocks model.label_dim
    model.width model.depth train.num_steps train.batch_size train.log_every
    train.checkpoint_every train.keep train.sample_steps probe.num_examples
    probe.batch_size probe.checkpoint_every sample.num_images sample.batch_size
    sample.num_steps eval.batch_size eval.reference_features experiment.num_images
    experiment.num_paths""".split()

# (key, range in words, test); a NaN fails every test
_RANGES = [
    *((key, "at least 1", lambda x: x >= 1) for key in _AT_LEAST_ONE),
    *(
        (key, "in 0 ... 2^32 - 1", lambda x: 0 <= x < 2**32)
        for key in ("seed", "probe.seed", "sample.seed", "eval.seed")
    ),
    *(
        (key, "at least 0", lambda x: x >= 0)
        for key in (
            "train.warmup_steps",
            "train.sample_every",
            "sample.offset",
            "eval.num_images",
        )
    ),
    *(
        (key, "finite and above 0", lambda x: 0 < x < math.inf)
        for key in "data.std train.learning_rate train.grad_clip guidance.power".split()
    ),
    *(
        (key, "at least 0 and below 1", lambda x: 0 <= x < 1)
        for key in "model.dropout train.ema_decay train.label_drop".split()
    ),
    ("data.mean", "finite", math.isfinite),
    ("sample.eta", "in [0, 1]", lambda x: 0 <= x <= 1),
]


def validate(config: ml_collections.ConfigDict) -> None:
    """Raise ValueError, in one line that says what to do, at the first bad value."""
    try:
        for key, choices in _CHOICES.items():
            _check_choice(key, _get(config, key), choices)
        for key, words, test in _RANGES:
            value = _get(config, key)
            if not isinstance(value, int | float) or not test(value):
                raise ValueError(f"{key} is {value}: it must be {words}")
        _check_data_and_model(config)
        _check_training(config.train)
        _check_noise_and_grids(config)
        _check_guidance(config.guidance, config.noise.num_timesteps - 1)
        _check_evaluation(config)
        _check_experiment(config)
        for key in ("sample.name", "experiment.folder"):
            _check_folder(key, _get(config, key))
    except AttributeError as error:  # a config file that does not start from base.py
        raise ValueError(
            f"the config lacks a key of configs/base.py: {error}"
        ) from None


def _get(config: ml_collections.ConfigDict, key: str) -> Any:
    value = config
    for part in key.split("."):
        value = getattr(value, part)
    return value


def _check_choice(key: str, value: str, choices: Sequence[str]) -> None:
    if value not in choices:
        near = difflib.get_close_matches(str(value), choices, n=1)
        hint = f"did you mean {near[0]!r}? " if near else ""
        raise ValueError(
            f"unknown {key} {value!r}: {hint}use one of {', '.join(choices)}"
        )


def _check_data_and_model(config: ml_collections.ConfigDict) -> None:
    data, model = config.data, config.model
    if data.name == "two_gaussians" and data.num_classes != 2:
        raise ValueError(
            f"data.num_classes is {data.num_classes}: two_gaussians has 2 classes"
        )
    if model.name != "unet":
        return
    for key in ("channel_mult", "attention_resolutions"):
        for value in model[key]:
            if not isinstance(value, int) or value < 1:
                raise ValueError(
                    f"model.{key} holds {value!r}: use whole numbers, at least 1"
                )
    if not model.channel_mult:
        raise ValueError("model.channel_mult is empty: use (1,) or longer")
    factor = 2 ** (len(model.channel_mult) - 1)
    if data.image_size % factor:
        raise ValueError(
            f"data.image_size {data.image_size} is not divisible by {factor}, which "
            f"{len(model.channel_mult)} levels of model.channel_mult need: use fewer "
            "levels or another size"
        )
    sizes = [data.image_size // 2**i for i in range(len(model.channel_mult))]
    for size in model.attention_resolutions:
        if size not in sizes:
            raise ValueError(
                f"model.attention_resolutions: no feature map is {size} pixels wide, "
                f"they are {', '.join(map(str, sizes))}"
            )
    for channels in _widths(model):
        groups = min(32, channels // 4)
        if not groups or channels % groups:
            raise ValueError(
                f"model.base_channels {model.base_channels} with channel_mult "
                f"{tuple(model.channel_mult)}: group normalisation cannot split "
                f"{channels} channels; use base_channels 8, 16 or a multiple of 32"
            )


def _widths(model: ml_collections.ConfigDict) -> list[int]:
    """Channels that the U-Net normalises, those after joining a skip included."""
    levels = [model.base_channels * mult for mult in model.channel_mult]
    skips, width = [model.base_channels], model.base_channels
    for i, channels in enumerate(levels):
        skips += [channels] * (model.num_res_blocks + (i < len(levels) - 1))
        width = channels
    widths = [*skips]
    for channels in reversed(levels):
        for _ in range(model.num_res_blocks + 1):
            widths.append(width + skips.pop())
            width = channels
    return sorted({*widths, width})


def _check_training(train: ml_collections.ConfigDict) -> None:
    if train.decay == "cosine" and train.warmup_steps >= train.num_steps:
        raise ValueError(
            f"train.warmup_steps {train.warmup_steps} leaves nothing of num_steps "
            f"{train.num_steps} to decay over: use fewer"
        )


def _check_noise_and_grids(config: ml_collections.ConfigDict) -> None:
    noise, sample = config.noise, config.sample
    if noise.name == "scaled_linear":
        if not 0 < noise.beta_start <= noise.beta_end < 1:
            raise ValueError(
                f"noise.beta_start {noise.beta_start} and beta_end {noise.beta_end}: "
                "they must satisfy 0 < beta_start <= beta_end < 1"
            )
        process.scaled_linear(noise.num_timesteps, noise.beta_start, noise.beta_end)
    for key in ("train.sample_steps", "sample.num_steps"):
        if _get(config, key) > noise.num_timesteps:
            raise ValueError(
                f"{key} is {_get(config, key)}: use at most {noise.num_timesteps}, "
                "which is noise.num_timesteps"
            )
    grids = {"sample.num_steps": sample.num_steps}
    if config.train.sample_every:
        grids["train.sample_steps"] = config.train.sample_steps
    for key, num_steps in grids.items():
        try:
            samplers.timesteps(
                noise.num_timesteps, num_steps, sample.spacing, sample.offset
            )
        except ValueError as error:
            raise ValueError(f"{key} with config.sample: {error}") from error
    pairs = config.data.num_classes * noise.num_timesteps
    if config.probe.timesteps == "stratified" and config.probe.num_examples < pairs:
        raise ValueError(
            f"probe.num_examples {config.probe.num_examples} cannot visit each of "
            f"{config.data.num_classes} classes x {noise.num_timesteps} timesteps: use "
            f"at least {pairs}"
        )


def _check_scale(key: str, scale: float, schedule: str) -> None:
    if not isinstance(scale, int | float):
        raise ValueError(f"{key} holds {scale!r}: use numbers")
    try:
        schedules.check_scale(schedule, scale)
    except ValueError as error:
        raise ValueError(f"{key}: {error}") from error


def _check_evaluation(config: ml_collections.ConfigDict) -> None:
    for metric in config.eval.metrics:
        _check_choice("eval.metrics", metric, suite.names())
    if not config.eval.metrics:
        raise ValueError(f"eval.metrics is empty: use {', '.join(suite.names())}")


def _check_experiment(config: ml_collections.ConfigDict) -> None:
    experiment = config.experiment
    for schedule in experiment.schedules:
        _check_choice("experiment.schedules", schedule, schedules.names())
        for scale in experiment.scales:
            _check_scale("experiment.scales", scale, schedule)
    if experiment.num_paths > experiment.num_images:
        raise ValueError(
            f"experiment.num_paths {experiment.num_paths} is more than num_images "
            f"{experiment.num_images}: use fewer"
        )
    for num_steps in experiment.num_steps:
        most = config.noise.num_timesteps
        if not isinstance(num_steps, int) or not 1 <= num_steps <= most:
            raise ValueError(
                f"experiment.num_steps holds {num_steps}: use 1 ... {most}, which is "
                "noise.num_timesteps"
            )
    for window in experiment.intervals:
        pair = isinstance(window, tuple) and len(window) == 2
        if not pair or not 0 <= window[0] <= window[1]:
            raise ValueError(
                f"experiment.intervals holds {window}: use pairs 0 <= t_min <= t_max"
            )
    for name in experiment.features:
        _check_choice("experiment.features", name, _CHOICES["eval.features"])
    for std in experiment.noise:
        if not isinstance(std, int | float) or not 0 <= std < math.inf:
            raise ValueError(
                f"experiment.noise holds {std!r}: use grey levels, finite, at least 0"
            )
    if len(set(experiment.axes)) != 2 or len(experiment.axes) != 2:
        raise ValueError(f"experiment.axes is {experiment.axes}: name two scores")
    for row in experiment.paper:
        triple = isinstance(row, tuple) and len(row) == 3
        if not triple or not isinstance(row[0], str) or not isinstance(row[1], str):
            raise ValueError(
                f"experiment.paper holds {row}: use (cell, score, printed number)"
            )


def _check_guidance(guidance: ml_collections.ConfigDict, last: int) -> None:
    _check_scale("guidance.scale", guidance.scale, guidance.schedule)
    if guidance.schedule in ("interval", "neg_perturb"):
        if not 0 <= guidance.t_min <= guidance.t_max or guidance.t_min > last:
            raise ValueError(
                f"guidance.t_min {guidance.t_min} ... t_max {guidance.t_max} holds no "
                f"timestep of 0 ... {last}: use 0 <= t_min <= t_max"
            )
    if guidance.schedule == "table" and not guidance.table:
        raise ValueError(
            "guidance.schedule 'table' needs a file: set guidance.table to a .npy or "
            ".txt of weights over t, ascending"
        )


def _check_folder(key: str, name: str) -> None:
    if name != os.path.basename(name) or name in (".", ".."):
        raise ValueError(
            f"{key} {name!r} is not the name of a folder: leave out the slashes"
        )
