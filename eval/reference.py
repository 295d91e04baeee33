"""Statistics of the real images of a split: a file in WORKDIR/references.

python -m eval.reference --config=configs/cifar10.py --workdir=runs/cifar10 \\
    --config.eval.split=test

Commands that score make it themselves if need be.
"""

from progguide_jax.runtime import command_line
from progguide_jax.scoring import eval_checks, statistics
from progguide_jax.systems import validation


def check(config, given) -> None:
    """Of the config, and of what is scored against the reference."""
    validation.check_command(config, given)
    eval_checks.check_eval(config)


if __name__ == "__main__":
    command_line.run(statistics.refer, check=check, sections=("eval",))
