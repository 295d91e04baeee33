"""An experiment from nothing to its report: train, probe, run, report."""

from collections.abc import Sequence

from progguide_jax import experiments, registry
from progguide_jax.engine import probing, training
from progguide_jax.experiments import settings
from progguide_jax.runtime import config as config_lib
from progguide_jax.runtime import sharding
from progguide_jax.systems import entries, unet_checks, validation


def reproduce(config, workdir: str) -> None:
    """Make what is missing of config.experiment in workdir, write the report."""
    experiment = check(config)
    if experiment.needs_training:
        config_lib.set_damaged_aside(workdir)
        config_lib.check_resume(workdir, config)  # before hours of anything
    prepared = experiment.prepare(config, workdir)
    if experiment.needs_training:
        mesh = sharding.mesh()
        for section in ("train", "probe"):
            size = config[section].batch_size
            sharding.check_batch(size, mesh, f"{section}.batch_size")
        shared = settings.shared(config, experiment.cells(config))
        training.train(shared, workdir)
        if experiment.needs_curve(config):
            probing.probe(shared, workdir)
    results = experiment.run(config, workdir, prepared)
    print(f"report: {experiment.report(config, workdir, results)}")


def check(config, given: Sequence[str] = ()) -> experiments.Experiment:
    """The experiment of config.experiment.name; ValueError if it cannot be run, or does
    not read one of `given`, the keys that were typed."""
    name, known = config.experiment.name, experiments.EXPERIMENTS
    if not name:
        raise ValueError(
            "experiment.name is empty: pass a config of an experiment, such as "
            "configs/paper/fig2.py"
        )
    registry.check("experiment.name", name, known)
    settings.check_unused(config, {k: dict(e.defaults) for k, e in known.items()})
    entries.reset(config, given)
    unet_checks.follow(config, given)
    known[name].check(config)
    settings.check_given(config, given, known[name].unread(config))
    if known[name].needs_curve(config):
        validation.check_examples(config)
    return known[name]
