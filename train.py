"""Train a class-conditional model: python train.py --config=... --workdir=..."""

from progguide_jax.engine import rehearsal, training
from progguide_jax.runtime import command_line
from progguide_jax.systems import validation

if __name__ == "__main__":
    command_line.run(
        training.train,
        check=validation.check_training,
        sections=("train",),
        switches={"dry_run": rehearsal.rehearse},
    )
