"""What a run was asked for (ml_collections): checked, compared, written down."""

import difflib
import hashlib
import importlib.metadata
import json
import logging
import math
import os
import pathlib
import platform
import subprocess
import sys
import time
from collections.abc import Sequence
from typing import Any

import jax
import ml_collections
from etils import epath

from progguide_jax.diffusion import process, samplers
from progguide_jax.guidance import curves, schedules
from progguide_jax.runtime import files

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
    "experiment.name": ("", "two_gaussians"),
}

_AT_LEAST_ONE = """data.image_size data.channels data.num_classes data.num_examples
    noise.num_timesteps model.base_channels model.num_res_blocks model.label_dim
    model.width model.depth train.num_steps train.batch_size train.log_every
    train.checkpoint_every train.keep train.sample_steps probe.num_examples
    probe.batch_size probe.checkpoint_every sample.num_images sample.batch_size
    sample.num_steps experiment.num_images experiment.num_paths""".split()

# (key, range in words, test); a NaN fails every test
_RANGES = [
    *((key, "at least 1", lambda x: x >= 1) for key in _AT_LEAST_ONE),
    *(
        (key, "in 0 ... 2^32 - 1", lambda x: 0 <= x < 2**32)
        for key in ("seed", "probe.seed", "sample.seed")
    ),
    *(
        (key, "at least 0", lambda x: x >= 0)
        for key in "train.warmup_steps train.sample_every sample.offset".split()
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

# What may change between the start of a training run and its continuation.
_TRAINING_SECTIONS = ("seed", "data", "noise", "model", "train")
_HARMLESS = """train.num_steps train.log_every train.checkpoint_every train.keep
    train.sample_every train.sample_steps data.dir""".split()

_PACKAGES = """jax jaxlib flax optax orbax-checkpoint numpy ml_collections clu
    tensorflow-datasets tensorflow-cpu tensorflow""".split()


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
        _check_experiment(config.experiment)
        _check_folder(config.sample.name)
    except AttributeError as error:  # a config file that does not start from base.py
        raise ValueError(
            f"the config lacks a key of configs/base.py: {error}"
        ) from None


def to_json(config: ml_collections.ConfigDict) -> str:
    """Every key, sorted; tuples become lists."""
    return json.dumps(config.to_dict(), indent=2, sort_keys=True) + "\n"


def from_json(text: str) -> ml_collections.ConfigDict:
    """The config that to_json wrote; ValueError if text is something else."""

    def tuples(value: Any) -> Any:
        if isinstance(value, dict):
            return {k: tuples(v) for k, v in value.items()}
        return tuple(map(tuples, value)) if isinstance(value, list) else value

    value = tuples(json.loads(text))
    if not isinstance(value, dict):
        raise ValueError("not a config: the JSON is no object")
    return ml_collections.ConfigDict(value)


def digest(config: ml_collections.ConfigDict) -> str:
    """16 hex digits, the same before and after a JSON round trip."""
    return hashlib.sha256(to_json(config).encode()).hexdigest()[:16]


def difference(a: ml_collections.ConfigDict, b: ml_collections.ConfigDict) -> list[str]:
    """["train.batch_size: 64 -> 128", ...]: what turns a into b."""
    flat_a, flat_b = _flat(json.loads(to_json(a))), _flat(json.loads(to_json(b)))
    return [
        f"{key}: {flat_a.get(key, 'absent')} -> {flat_b.get(key, 'absent')}"
        for key in sorted(flat_a | flat_b)
        if key not in flat_a or key not in flat_b or flat_a[key] != flat_b[key]
    ]


def write_provenance(workdir: str, config: ml_collections.ConfigDict) -> None:
    """workdir/config.json and workdir/env.json (argv, versions, devices); host 0 only.

    Initialises the devices.
    """
    if jax.process_index() != 0:
        return
    folder = epath.Path(workdir)
    files.write(folder / "config.json", to_json(config).encode())
    files.save_json(folder / "env.json", _environment())


def versions() -> dict[str, str]:
    """The version of each package that a result can depend on."""
    found = {}
    for package in _PACKAGES:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def to_dict(config: ml_collections.ConfigDict) -> dict[str, Any]:
    """Every key as JSON reads it back: tuples are lists."""
    return json.loads(to_json(config))


def check_resume(workdir: str, config: ml_collections.ConfigDict) -> None:
    """Raise ValueError if workdir was trained with a config that differs where it
    matters; with config.allow_config_change, log the differences and go on."""
    path = epath.Path(workdir) / "config.json"
    if not path.exists():
        return
    try:
        before = from_json(path.read_text())
    except ValueError as error:
        raise ValueError(
            f"{path} is damaged: delete it if this config is the one of the run"
        ) from error
    # where the learning rate decays, the length of the run is part of it
    decays = config.train.decay != "constant"
    ignored = [k for k in _HARMLESS if not (decays and k == "train.num_steps")]
    changes = []
    for line in difference(before, config):
        key = line.split(":")[0]
        if key.split(".")[0] in _TRAINING_SECTIONS and key not in ignored:
            changes.append(line)
    if changes and config.allow_config_change:
        logging.warning("the config of %s changes: %s", workdir, "; ".join(changes))
    elif changes:
        raise ValueError(
            f"{workdir} was trained with another config ({'; '.join(changes)}): use "
            "that config, another --workdir, or --config.allow_config_change"
        )


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
    try:
        samplers.timesteps(
            noise.num_timesteps, sample.num_steps, sample.spacing, sample.offset
        )
    except ValueError as error:
        raise ValueError(f"config.sample: {error}") from error


def _check_scale(key: str, scale: float, schedule: str) -> None:
    lowest = -1.0 if schedule == "static" else 0.0  # -1 is the unconditional model
    if not isinstance(scale, int | float) or not lowest <= scale < math.inf:
        raise ValueError(
            f"{key} {scale!r} makes no sense for {schedule!r}: use a finite number, at "
            f"least {lowest:g} (0 = plain conditional sampling)"
        )


def _check_experiment(experiment: ml_collections.ConfigDict) -> None:
    for schedule in experiment.schedules:
        _check_choice("experiment.schedules", schedule, schedules.names())
        for scale in experiment.scales:
            _check_scale("experiment.scales", scale, schedule)
    if experiment.num_paths > experiment.num_images:
        raise ValueError(
            f"experiment.num_paths {experiment.num_paths} is more than num_images "
            f"{experiment.num_images}: use fewer"
        )


def _check_guidance(guidance: ml_collections.ConfigDict, last: int) -> None:
    _check_scale("guidance.scale", guidance.scale, guidance.schedule)
    if guidance.schedule == "interval":
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


def _check_folder(name: str) -> None:
    if name != os.path.basename(name) or name in (".", ".."):
        raise ValueError(
            f"sample.name {name!r} is not the name of a folder: leave out the slashes"
        )


def _flat(tree: Any, prefix: str = "") -> dict[str, Any]:
    if not isinstance(tree, dict):
        return {prefix[:-1]: tree}
    return {k: v for n, t in tree.items() for k, v in _flat(t, f"{prefix}{n}.").items()}


def _environment() -> dict[str, Any]:
    return {
        "time": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        "argv": sys.argv,
        "git": _git_commit(),
        "python": platform.python_version(),
        "platform": platform.platform(),
        "versions": versions(),
        "devices": [d.device_kind for d in jax.devices()],
        "processes": jax.process_count(),
    }


def _git_commit() -> str | None:
    """The commit of this package, "-dirty" if changed; None if it is not a checkout."""

    def git(*arguments: str) -> str:
        folder = str(pathlib.Path(__file__).parent)
        return subprocess.run(
            ["git", "-C", folder, *arguments],
            capture_output=True,
            check=True,
            text=True,
            timeout=10,
        ).stdout.strip()

    try:
        # a package installed inside somebody's repository is not part of it
        git("ls-files", "--error-unmatch", pathlib.Path(__file__).name)
        return git("describe", "--always", "--dirty", "--abbrev=40", "--exclude=*")
    except (OSError, subprocess.SubprocessError):
        return None
