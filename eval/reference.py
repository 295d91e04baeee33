"""Statistics of the real images of a split: a file in WORKDIR/references.

python -m eval.reference --config=configs/cifar10.py --workdir=runs/cifar10 \\
    --config.eval.split=test

Commands that score make it themselves if need be.
"""

from progguide_jax.runtime import command_line
from progguide_jax.scoring import statistics
from progguide_jax.systems import validation

if __name__ == "__main__":
    command_line.run(
        statistics.refer, check=validation.check_command, sections=("eval",)
    )
