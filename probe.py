"""Probe how much the condition matters: python probe.py --config=... --workdir=..."""

from progguide_jax.engine import probing
from progguide_jax.runtime import command_line
from progguide_jax.systems import validation

if __name__ == "__main__":
    command_line.run(
        probing.probe,
        new_workdir=False,
        check=validation.check_probing,
        sections=("probe",),
    )
