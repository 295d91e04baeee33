"""Train a class-conditional model: python train.py --config=... --workdir=..."""

from progguide_jax import training
from progguide_jax.runtime import command_line

if __name__ == "__main__":
    command_line.run(training.train)
