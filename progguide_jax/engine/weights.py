"""omega(t) of a config: a formula, a table in a file, or a probed curve."""

import numpy as np
from etils import epath

from progguide_jax.engine import carried, probing
from progguide_jax.formats import npz, regular
from progguide_jax.guidance import references, schedules
from progguide_jax.systems import build, entries, specs


def make(config, workdir: str, origin: dict) -> dict[str, np.ndarray]:
    """{branch: omega} of config.guidance on the grid of config.sample: float32 [S], or
    [K,S] for one curve per class.

    origin: the checkpoint's {"step", "digest"}, which a probed curve must match.
    """
    guidance, grid = config.guidance, specs.grid(config)
    scales = entries.scales(config)
    shapes = {
        schedule: _shape(config, schedule, workdir, origin)
        for schedule in {entries.schedule_of(config, name) for name in scales}
    }
    mode = None if guidance.normalize == "default" else guidance.normalize
    # CFG++ takes weights from -1 to 0
    limits = entries.rule_scales(config)
    sign = -1 if limits[1] <= 0 else 1
    result = {}
    for name, scale in scales.items():
        branch = references.REFERENCES[name].branch
        if branch == "cond":  # it is guided, nothing is guided against it
            continue
        schedule = entries.schedule_of(config, name)
        omega = sign * schedules.make(
            schedule,
            sign * scale,
            grid,
            config.noise.num_timesteps,
            normalize=mode,
            noise_schedule=build.noise_schedule(config),
            **shapes[schedule],
        )
        _check(config, schedule, omega)
        _check_rule(guidance.rule, limits, schedule, omega)
        result[branch] = omega
    try:
        specs.rule(config).check_signs([values.T for values in result.values()])
    except ValueError as error:
        raise ValueError(f"guidance.rule {guidance.rule!r}: {error}") from error
    return result


def _shape(config, schedule: str, workdir: str, origin: dict) -> dict:
    """The shape parameters of a schedule, by keyword."""
    settings = entries.settings(config, "guidance.schedule", schedule)
    match schedule:
        case "table":
            return {"values": _read_table(settings["file"]), "axis": settings["axis"]}
        case "gn" | "gn_all":
            if other := carried.asked(config):
                return {"g": carried.load_curve(config, other)}
            path = settings["curve"] or probing.curve_path(workdir)
            return {"g": probing.load_curve(config, path, origin)}
    return settings


def _check_rule(rule: str, limits, schedule: str, omega: np.ndarray) -> None:
    """Rules that take weights of one sign get no others; how far the rest go is the
    user's."""
    lowest, highest = limits
    if highest <= 0 and omega.min() < lowest:
        raise ValueError(
            f"omega of the {schedule} schedule falls to {omega.min():.3g} "
            f"and the rule {rule!r} takes {lowest:g} at the lowest: use a "
            f"guidance.scale closer to 0"
        )
    if omega.max() > highest or lowest >= 0 > omega.min():
        raise ValueError(
            f"omega of the {schedule} schedule is {omega.min():.3g} ... "
            f"{omega.max():.3g} and the rule {rule!r} takes {lowest:g} ... "
            f"{highest:g}: set another guidance.schedule"
        )


def _check(config, schedule: str, omega: np.ndarray) -> None:
    if omega.ndim == 2 and len(omega) != config.data.num_classes:
        raise ValueError(
            f"the weights of {schedule!r} have {len(omega)} rows and "
            f"the data {config.data.num_classes} classes: give one row a class, or one "
            "for all"
        )


def _read_table(path: str) -> np.ndarray:
    if not path:
        raise ValueError(
            "the table schedule needs weights over t: set --config.guidance.table.file "
            "to a .npy or text file"
        )
    if not regular.is_file(path):
        raise FileNotFoundError(f"no table of weights at {path}")
    try:
        with epath.Path(path).open("rb") as file:
            return npz.read_npy(file) if path.endswith(".npy") else np.loadtxt(file)
    except ValueError as error:
        raise ValueError(f"{path} holds no table of numbers ({error})") from error
