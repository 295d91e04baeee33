"""What a row of a sweep is, where it stands in a table, and what it is compared with.

A row is a dict: cell (its name), schedule, scale, num_steps, interval ((first t, last
t) or None), variant (what else a cell of experiment.cells sets; None for the cells of
schedules x scales), baseline (the name of the cell that differences are to, or None),
num_images, features, split, scores {name: {"value", "error", ...}} and differences
{name: {"value", "error"}}, paired image by image ({} where there is no baseline).
Errors are one standard error.
"""

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from progguide_jax.experiments import document


class Place(NamedTuple):
    """The line of a table that a row belongs to; its column is the schedule."""

    scale: float
    num_steps: int
    interval: tuple[int, int] | None
    variant: str | None


HEADS = Place("ω", "steps", "ω = 0 on", "with")


def place(row: Mapping) -> Place:
    interval = row["interval"]
    window = None if interval is None else tuple(interval)
    return Place(row["scale"], row["num_steps"], window, row["variant"])


def words(where: Place) -> Place:
    """The place as text."""
    window = where.interval
    window = document.NONE if window is None else f"{window[0]} ≤ t ≤ {window[1]}"
    variant = where.variant or document.NONE
    return Place(f"{where.scale:g}", str(where.num_steps), window, variant)


def placed(rows: Sequence[Mapping]) -> dict[tuple[str, Place], Mapping]:
    """{(schedule, place): row}, after checks that the rows stand beside each other.

    ValueError if there are none, if two have one place, or if they differ in extractor,
    split or number of images.
    """
    if not rows:
        raise ValueError("there are no cells to tabulate: run the sweep first")
    cells = {}
    for row in rows:
        for key in ("features", "split", "num_images"):
            if row[key] != rows[0][key]:
                raise ValueError(
                    f"cells {rows[0]['cell']} and {row['cell']} differ in {key} "
                    f"({rows[0][key]}, {row[key]}): their scores do not compare"
                )
        key = row["schedule"], place(row)
        if key in cells:
            raise ValueError(
                f"cells {cells[key]['cell']} and {row['cell']} have the same schedule, "
                "scale, num_steps and interval: leave one out"
            )
        cells[key] = row
    return cells


def estimate(row: Mapping, name: str, kind: str = "scores") -> tuple[float, float]:
    """(value, error); nan where JSON has null, its form of what is not finite."""
    if name not in row["scores"]:
        raise ValueError(
            f"cell {row['cell']} has no score {name}: it has "
            f"{', '.join(row['scores']) or 'none'}"
        )
    entry = row[kind][name]
    return tuple(math.nan if entry[k] is None else entry[k] for k in ("value", "error"))


def is_baseline(other: Mapping, row: Mapping) -> bool:
    """Whether the differences of `row` are to `other`."""
    return row["baseline"] is not None and other["cell"] == row["baseline"]


def difference(a: Mapping, b: Mapping, name: str) -> tuple[float, float]:
    """(a − b, its error): paired if one is the other's baseline, else as if the two
    were independent."""
    for row, other, sign in ((a, b, 1), (b, a, -1)):
        if is_baseline(other, row) and name in row["differences"]:
            value, error = estimate(row, name, "differences")
            return sign * value, error
    (value, error), (other, other_error) = estimate(a, name), estimate(b, name)
    return value - other, math.hypot(error, other_error)


def is_free(rows: Sequence[Mapping]) -> bool:
    """Whether the rows are of experiment.cells rather than of schedules x scales."""
    return rows[0]["variant"] is not None


def against(rows: Sequence[Mapping]) -> str:
    """What differences are to, in words: "static" or, of free cells, the first one."""
    return rows[0]["cell"] if is_free(rows) else "static"
