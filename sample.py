"""Sample a trained model: python sample.py --config=... --workdir=..."""

from progguide_jax import generation
from progguide_jax.runtime import command_line

if __name__ == "__main__":
    command_line.run(generation.generate, new_workdir=False)
