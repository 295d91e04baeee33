"""Reproduce one artefact of the paper: all its cells, then the report.

python -m eval.reproduce --config=configs/paper/fig2.py --workdir=runs/fig2

Trains and probes first if the workdir has not been. What is finished is found again:
the same command goes on where it stopped, and in the end only redraws.
"""

from progguide_jax import (
    calibrating,
    comparison,
    evaluation,
    probing,
    publishing,
    reporting,
    sweeping,
    training,
)
from progguide_jax.runtime import command_line, sharding


def reproduce(config, workdir: str) -> None:
    """Train, probe, make every cell of config.experiment, draw the report."""
    match config.experiment.name:
        case "two_gaussians":
            comparison.check(config)
        case "sweep":
            sweeping.check(config)
            judge = evaluation.load_judge(config, workdir)  # before hours of training
        case "calibration":  # real images only: nothing to train
            print(f"table: {calibrating.calibrate(config, workdir)}")
            return
        case name:
            raise ValueError(
                f"config.experiment.name is {name!r}: pass a file of configs/paper/, "
                "such as configs/paper/fig2.py"
            )
    mesh = sharding.mesh()
    for section in ("train", "probe"):
        size = config[section].batch_size
        sharding.check_batch(size, mesh, f"{section}.batch_size")
    training.train(config, workdir)
    probing.probe(config, workdir)
    if config.experiment.name == "two_gaussians":
        comparison.compare(config, workdir)
        path = reporting.report(config, workdir)
    else:
        rows = sweeping.sweep(config, workdir, judge)
        path = publishing.publish(config, workdir, rows)
    print(f"report: {path}")


if __name__ == "__main__":
    command_line.run(reproduce)
