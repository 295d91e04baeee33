"""A probed curve of another workdir, taken to the noise levels of this one."""

import logging
from typing import Any

import numpy as np
from etils import epath

from progguide_jax.diffusion import process
from progguide_jax.engine import probing
from progguide_jax.guidance import curves, gradnorm
from progguide_jax.runtime import config as config_lib
from progguide_jax.runtime import digests, files
from progguide_jax.systems import build, entries


def asked(config) -> str:
    """The curve.npz that config carries over; "" if it carries none."""
    for name in entries.used(config, "guidance.schedule"):
        settings = entries.settings(config, "guidance.schedule", name)
        if settings.get("carry"):
            return settings["curve"]
    return ""


def load_curve(config, path: str) -> np.ndarray:
    """g [K,T] over the timesteps of config, such that its G has at each noise level the
    value that the G of the curve.npz has there, linear in log(sigma / alpha)."""
    made_by, g = probing.curve_made_by(path), files.load_npz(path)["g"]
    source, target = _noise_schedule(path, made_by), build.noise_schedule(config)
    G = curves.carry(gradnorm.cumulative(g), source, target)
    logging.info(
        "%s is carried by its noise levels: from %d timesteps of %s to %d of %s",
        path, source.num_timesteps, source.name, target.num_timesteps, target.name,
    )  # fmt: skip
    return np.maximum(-np.diff(G, axis=-1, append=0.0), 0)


def about(path: str) -> dict[str, Any]:
    """What a carried curve was made by, as JSON."""
    made_by = probing.curve_made_by(path)
    return {
        "digest": digests.digest({"g": files.load_npz(path)["g"]}),
        "checkpoint": made_by["checkpoint"],
        "noise_schedule": made_by["noise_schedule"],
    }


def _noise_schedule(path: str, made_by: dict) -> process.NoiseSchedule:
    """That of the workdir that the curve lies in; ValueError if it is another one."""
    config = epath.Path(path).parent.parent / "config.json"
    if not config.exists():
        raise ValueError(
            f"guidance.gn.carry needs the noise schedule of {path}: leave it in its "
            f"workdir, there is no {config}"
        )
    source = config_lib.load(config)
    if probing.schedule_digest(source) != made_by["noise_schedule"]:
        raise ValueError(
            f"{path} was probed with another noise schedule than that of {config}: "
            "run probe.py there again"
        )
    return build.noise_schedule(source)
