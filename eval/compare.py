"""Schedules side by side: the same noises, a picture, and scores where there are any.

python -m eval.compare --workdir=runs/cifar10 --config.experiment.schedules=static,gn

Cells are experiment.schedules x experiment.scales (default: guidance.scale), or
experiment.cells; a report and a PNG go to WORKDIR/compare. Scores need the weights of
eval.features, or features that need none; eval.metrics=() leaves them out.
"""

from configs import base
from progguide_jax.experiments import reproduce
from progguide_jax.experiments.compare import run
from progguide_jax.runtime import command_line


def check(config, given) -> None:
    """Any config becomes that of a comparison first."""
    run.begin(config, given, base.get_config())
    reproduce.check(config, given)


if __name__ == "__main__":
    command_line.run(reproduce.reproduce, new_workdir=False, check=check)
