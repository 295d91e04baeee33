"""Reproduce one artefact of the paper: all its cells, then the report.

python -m eval.reproduce --config=configs/paper/fig2.py --workdir=runs/fig2

Trains first if the workdir has not been, and probes if a schedule needs it. What is
finished is found again: the same command goes on where it stopped, and in the end only
redraws. --commands prints a line for each cell instead, to run them on machines of
their own that share the workdir.
"""

from progguide_jax.experiments import command_lines, reproduce
from progguide_jax.runtime import command_line

if __name__ == "__main__":
    command_line.run(
        reproduce.reproduce,
        check=reproduce.check,
        switches={command_lines.SWITCH: command_lines.show},
    )
