"""Reproduce one artefact of the paper: all its cells, then the report.

python -m eval.reproduce --config=configs/paper/fig2.py --workdir=runs/fig2

Trains and probes first if the workdir has not been. What is finished is found again:
the same command goes on where it stopped, and in the end only redraws.
"""

from progguide_jax import evaluation, probing, reporting, training
from progguide_jax.runtime import command_line, sharding


def reproduce(config, workdir: str) -> None:
    """Train, probe, evaluate every cell of config.experiment, draw the report."""
    if config.experiment.name != "two_gaussians":
        raise ValueError(
            f"config.experiment.name is {config.experiment.name!r}: pass a file of "
            "configs/paper/, such as configs/paper/fig2.py"
        )
    evaluation.check(config)
    mesh = sharding.mesh()
    for section in ("train", "probe"):
        size = config[section].batch_size
        sharding.check_batch(size, mesh, f"{section}.batch_size")
    training.train(config, workdir)
    probing.probe(config, workdir)
    evaluation.evaluate(config, workdir)
    print(f"report: {reporting.report(config, workdir)}")


if __name__ == "__main__":
    command_line.run(reproduce)
