"""Sample a trained model: python sample.py --config=... --workdir=..."""

from progguide_jax.engine import sampling
from progguide_jax.runtime import command_line
from progguide_jax.systems import validation

if __name__ == "__main__":
    command_line.run(
        sampling.generate,
        new_workdir=False,
        check=validation.check_command,
        sections=("sample",),
    )
