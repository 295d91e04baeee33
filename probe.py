"""Probe how much the condition matters: python probe.py --config=... --workdir=..."""

from progguide_jax import probing
from progguide_jax.runtime import command_line

if __name__ == "__main__":
    command_line.run(probing.probe, new_workdir=False)
