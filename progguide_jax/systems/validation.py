"""Whether a config makes sense, before any work is done: what the engine reads of it.

The names that a key can hold are those of its table (`entries`); ranges stand here.
The checks of config.eval and config.experiment stand with what reads those.
"""

import logging
import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import ml_collections

from progguide_jax import registry
from progguide_jax.diffusion import levels, process
from progguide_jax.guidance import curves, gradnorm, schedules
from progguide_jax.runtime import hosts
from progguide_jax.systems import (
    build,
    classifier_checks,
    effects,
    entries,
    guidance_checks,
    key_checks,
    tilted_checks,
    unet_checks,
)

# of keys that choose no entry of a table
_CHOICES = {
    "model.unet.dtype": ("float32", "bfloat16"),
    "model.encoder.dtype": ("float32", "bfloat16"),
    "train.decay": ("constant", "cosine"),
    "train.predicts": process.PREDICTIONS,
    "probe.timesteps": ("stratified", "uniform"),
    "guidance.normalize": ("default", *curves.MODES),
}

# (words, test, keys); a NaN fails every test
_RANGES: list[tuple[str, Callable[[Any], bool], str]] = [
    (
        "at least 1",
        lambda x: x >= 1,
        """data.image_size data.channels data.num_classes data.num_examples
        model.label_dim model.unet.base_channels
        model.unet.num_res_blocks model.encoder.base_channels
        model.encoder.num_res_blocks model.pix_film.width model.pix_film.depth
        train.num_steps train.batch_size train.log_every train.checkpoint_every
        train.accumulate train.keep train.sample_steps probe.num_examples
        probe.batch_size probe.checkpoint_every probe.stride sample.num_images
        sample.batch_size sample.num_steps""",
    ),
    ("in 1 ... 1,000,000", lambda x: 1 <= x <= 1_000_000, "noise.num_timesteps"),
    ("in 0 ... 2^32 - 1", lambda x: 0 <= x < 2**32, "seed probe.seed sample.seed"),
    (
        "at least 0",
        lambda x: x >= 0,
        """train.skip_nonfinite train.warmup_steps train.sample_every checkpoint.step
        sample.offset guidance.autoguidance.step hosts.num_processes
        sample.euler.churn_min sample.euler.churn_max sample.heun.churn_min
        sample.heun.churn_max""",
    ),
    (
        "finite and at least 0",
        lambda x: 0 <= x < math.inf,
        """sample.euler.churn sample.euler.churn_noise sample.heun.churn
        sample.heun.churn_noise""",
    ),
    ("above 0", lambda x: x > 0, "guidance.apg.norm_threshold"),
    ("at least -1", lambda x: x >= -1, "hosts.process_id"),
    (
        "finite and above 0",
        lambda x: 0 < x < math.inf,
        """hosts.timeout data.two_gaussians.std train.learning_rate train.grad_clip
        train.exit_weight train.min_snr.gamma guidance.pcs.power guidance.clip.bound
        guidance.dynamic_threshold.bound sample.karras.rho""",
    ),
    (
        "at least 0 and below 1",
        lambda x: 0 <= x < 1,
        "model.unet.dropout model.encoder.dropout train.ema_decay train.label_drop",
    ),
    (
        "above 0 and at most 1",
        lambda x: 0 < x <= 1,
        "guidance.dynamic_threshold.quantile",
    ),
    ("in [0, 1]", lambda x: 0 <= x <= 1, "sample.ddim.eta"),
    (
        "finite",
        math.isfinite,
        "data.two_gaussians.mean guidance.apg.momentum guidance.apg.eta",
    ),
    (
        "None, or finite and above 0",
        lambda x: x is None or 0 < x < math.inf,
        """sample.karras.sigma_min sample.karras.sigma_max sample.log_snr.sigma_min
        sample.log_snr.sigma_max""",
    ),
    (
        "None, or a timestep",
        lambda x: x is None or isinstance(x, int) and x >= 0,
        """guidance.interval.t_min guidance.interval.t_max guidance.neg_perturb.t_min
        guidance.neg_perturb.t_max""",
    ),
]


def validate(config: ml_collections.ConfigDict) -> None:
    """Raise ValueError, in one line that says what to do, at the first bad value.

    Settings of data, noise, model and training that nothing uses are refused too; those
    of guidance and sampling by `check_unused`, which sees all cells of an experiment.
    """
    try:
        entries.check_names(config)
        for key, choices in _CHOICES.items():
            registry.check(key, key_checks.get(config, key), choices)
        key_checks.check_sizes(config)
        key_checks.check_ranges(config, _RANGES)
        hosts.check(config.hosts)
        for line in entries.unused([config], ("data", "noise", "model", "train")):
            raise ValueError(line)
        _check_data(config)
        _check_training(config)
        _check_noise(config)
        _check_grids(config)
        guidance_checks.check(config)
        tilted_checks.check(config)
        key_checks.check_folder("sample.name", config.sample.name)
    except (AttributeError, KeyError) as error:  # of a file without base.py's keys
        raise ValueError(
            f"the config lacks a key of configs/base.py: {error}"
        ) from None


def check_unused(
    configs: Sequence[ml_collections.ConfigDict], keys: Iterable[str] | None = None
) -> None:
    """ValueError at a setting of guidance or sampling that acts in none of the configs:
    those of all cells of an experiment, or the one of a command or a cell. Warn, in one
    line each, where nothing else can have been meant. keys: look at these only.
    """

    def first_words(lines):
        return [s for s in lines if keys is None or s.partition(" ")[0] in keys]

    refused = entries.unused(configs, ("guidance", "sample"))
    refused += effects.in_all(map(effects.incomplete, configs))
    for line in first_words(refused):
        raise ValueError(line)
    for line in first_words(effects.in_all(map(effects.idle, configs))):
        logging.warning(line)


def warn_beyond_use(configs: Iterable[ml_collections.ConfigDict]) -> None:
    """Say so, in one line, where a guidance scale of one of them is beyond use."""
    scales = [s for config in configs for s in entries.scales(config).values()]
    if words := schedules.beyond_use(*scales):
        logging.warning(words)


def check_command(config: ml_collections.ConfigDict, given: Sequence[str] = ()) -> None:
    """`validate` and `check_unused` for a command with this one config; given: the keys
    that were typed.

    What the recipe of an experiment sets may be for its cells alone: of that only what
    was typed must act here. Settings of an entry that was replaced by typing the name
    of another get their defaults back (`entries.reset`), and the widths of attention
    follow the size of the images (`unet_checks.follow`).
    """
    entries.reset(config, given)
    unet_checks.follow(config, given)
    validate(config)
    check_unused([config], given if config.experiment.name else None)
    warn_beyond_use([config])


def check_training(
    config: ml_collections.ConfigDict, given: Sequence[str] = ()
) -> None:
    """`check_command` for train.py, which goes on from the newest checkpoint."""
    check_command(config, given)
    classifier_checks.check_given(config, given)
    if config.checkpoint.step:
        raise ValueError(
            f"checkpoint.step is {config.checkpoint.step}: it is for probing and "
            "sampling; training goes on from the newest checkpoint: leave it out"
        )
    train = config.train
    if train.decay == "cosine" and train.warmup_steps >= train.num_steps:
        logging.warning(
            "train.warmup_steps %d would be all of num_steps %d: a tenth of it is used",
            train.warmup_steps,
            train.num_steps,
        )


def check_probing(config: ml_collections.ConfigDict, given: Sequence[str] = ()) -> None:
    """`check_command` for probe.py, whose examples must suffice."""
    check_command(config, given)
    check_examples(config)


def check_examples(config: ml_collections.ConfigDict) -> None:
    """ValueError if a probe would leave out some timestep of some class."""
    classes, probe = config.data.num_classes, config.probe
    timesteps, most = (
        config.noise.num_timesteps,
        max(config.noise.num_timesteps // 10, 1),
    )
    if probe.stride > most:
        raise ValueError(f"probe.stride is {probe.stride}: use at most {most}, T / 10")
    visited = len(gradnorm.visited(timesteps, probe.stride))
    there, least = probe.num_examples, classes * visited
    if config.probe.timesteps == "uniform":
        least *= 4  # independent draws leave out exp(-4), 2 %, of the timesteps
    if there < least:
        raise ValueError(
            f"probe.num_examples {there} cannot visit each of {classes} classes x "
            f"{visited} timesteps: use at least {least}, or a larger probe.stride"
        )


def check_samples(config: ml_collections.ConfigDict) -> None:
    """ValueError if the network is none that is probed or sampled by itself."""
    classifier_checks.check_images(config)
    if config.train.noise != "gaussian":
        raise ValueError(
            f"train.noise is {config.train.noise!r}: what such a network says is the "
            "score, from which no x0 follows, so it can only be the guide of another "
            "one: set guidance.heavy_tail.workdir to its workdir"
        )


def _check_data(config) -> None:
    data = config.data
    if data.name == "two_gaussians" and data.num_classes != 2:
        raise ValueError(
            f"data.num_classes is {data.num_classes}: two_gaussians has 2 classes"
        )
    if "channel_mult" in entries.settings(config, "model.name"):
        unet_checks.check(config)


def _check_training(config) -> None:
    train = config.train
    try:
        build.train_noise(config)
    except ValueError as error:
        raise ValueError(f"train.{error}") from error
    if train.noise != "gaussian" and train.predicts != "eps":
        raise ValueError(
            f"train.noise {train.noise!r} with train.predicts {train.predicts!r}: what "
            "is learnt is the score; set train.predicts=eps"
        )
    unet_checks.check_exit_weight(config)
    classifier_checks.check(config)
    learns_eps = train.predicts == "eps" and not classifier_checks.classifies(config)
    if config.noise.zero_terminal_snr and learns_eps:
        raise ValueError(
            "noise.zero_terminal_snr with train.predicts 'eps': from pure noise eps "
            "says nothing about the image; set train.predicts=v or x0"
        )


def _check_noise(config) -> None:
    betas = config.noise.scaled_linear
    if not 0 < betas.beta_start <= betas.beta_end < 1:
        raise ValueError(
            f"noise.scaled_linear.beta_start {betas.beta_start} and beta_end "
            f"{betas.beta_end}: they must satisfy 0 < beta_start <= beta_end < 1"
        )
    try:
        build.noise_schedule(config)
    except ValueError as error:
        raise ValueError(f"config.noise: {error}") from error


def _check_grids(config) -> None:
    """That the sampling grid, and the one of the training's pictures, exist."""
    sample, most = config.sample, config.noise.num_timesteps
    keys = ["sample.num_steps"] + ["train.sample_steps"] * (
        config.train.sample_every > 0
    )
    for key in keys:
        num_steps = key_checks.get(config, key)
        if sample.spacing in levels.SPACINGS and num_steps > most:
            raise ValueError(
                f"{key} is {num_steps}: use at most {most}, which is "
                "noise.num_timesteps"
            )
        settings = entries.settings(config, "sample.spacing")
        noise_schedule = build.noise_schedule(config)
        try:
            levels.make(
                sample.spacing, noise_schedule, num_steps, sample.offset, **settings
            )
        except ValueError as error:
            word = str(error).split()[0]  # often the setting
            place = f"sample.{sample.spacing}." if word in settings else "sample."
            place = place if word in (*settings, "offset") else f"{key}: "
            raise ValueError(f"{place}{error}") from error
