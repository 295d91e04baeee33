"""The experiments by name: check a config, run it, write its report."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from progguide_jax.experiments.calibration import report as calibration_report
from progguide_jax.experiments.calibration import run as calibration
from progguide_jax.experiments.cells import Cell
from progguide_jax.experiments.compare import report as compare_report
from progguide_jax.experiments.compare import run as compare
from progguide_jax.experiments.gallery import report as gallery_report
from progguide_jax.experiments.gallery import run as gallery
from progguide_jax.experiments.sweep import report as sweep_report
from progguide_jax.experiments.sweep import run as sweep
from progguide_jax.experiments.two_gaussians import report as two_gaussians_report
from progguide_jax.experiments.two_gaussians import run as two_gaussians


class Experiment(NamedTuple):
    """cells(config): what is sampled; check(config) raises ValueError before any work;
    unread(config): {key or section that the experiment does not read: the key that
    stands instead, or ""}; needs_curve(config): whether the workdir must be probed.
    prepare(config, workdir) looks for files from outside, and run(config, workdir,
    prepared) makes what is missing of the results; report(config, workdir, results)
    writes the page and gives its path. defaults: of the experiment's section of the
    config. apart: whether a cell is what sample.py and eval.metrics make of it."""

    cells: Callable[[Any], list[Cell]]
    check: Callable[[Any], None]
    unread: Callable[[Any], Mapping[str, str]]
    needs_curve: Callable[[Any], bool]
    prepare: Callable[[Any, str], Any]
    run: Callable[[Any, str, Any], Any]
    report: Callable[[Any, str, Any], str]
    defaults: Mapping[str, Any]
    needs_training: bool = True
    apart: bool = False


def _entry(run, report, needs_training=True, apart=False) -> Experiment:
    made = run.cells, run.check, run.unread, run.needs_curve, run.prepare, run.run
    return Experiment(*made, report.report, run.DEFAULTS, needs_training, apart)


EXPERIMENTS = {
    "two_gaussians": _entry(two_gaussians, two_gaussians_report),
    "sweep": _entry(sweep, sweep_report, apart=True),
    "compare": _entry(compare, compare_report, needs_training=False),
    "gallery": _entry(gallery, gallery_report, needs_training=False),
    "calibration": _entry(calibration, calibration_report, needs_training=False),
}
