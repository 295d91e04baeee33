"""The experiments by name: check a config, run it, write its report."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from progguide_jax.experiments.calibration import report as calibration_report
from progguide_jax.experiments.calibration import run as calibration
from progguide_jax.experiments.sweep import report as sweep_report
from progguide_jax.experiments.sweep import run as sweep
from progguide_jax.experiments.two_gaussians import report as two_gaussians_report
from progguide_jax.experiments.two_gaussians import run as two_gaussians


class Experiment(NamedTuple):
    """check(config) raises ValueError before any work; prepare(config, workdir) looks
    for files from outside, and run(config, workdir, prepared) makes what is missing of
    the results; report(config, workdir, results) writes the page and gives its path.
    defaults: of the experiment's section of the config."""

    check: Callable[[Any], None]
    prepare: Callable[[Any, str], Any]
    run: Callable[[Any, str, Any], Any]
    report: Callable[[Any, str, Any], str]
    defaults: Mapping[str, Any]
    needs_training: bool = True


def _entry(run, report, needs_training: bool = True) -> Experiment:
    made = run.check, run.prepare, run.run, report.report, run.DEFAULTS
    return Experiment(*made, needs_training)


EXPERIMENTS = {
    "two_gaussians": _entry(two_gaussians, two_gaussians_report),
    "sweep": _entry(sweep, sweep_report),
    "calibration": _entry(calibration, calibration_report, needs_training=False),
}
