"""Reading the rows of a sweep for its figures.

rows: dicts with cell, schedule, scale, num_steps, interval, and scores and differences
{name: {"value", "error"}}.
"""

import numpy as np

from progguide_jax.plots import style

BARS = dict(elinewidth=0.8, capsize=0, ms=6, mec="white", mew=0.4)


def side_by_side(ax, groups, over: str, read, labels=None, line=False) -> None:
    """Points of every group at the categories row[over], moved apart sideways."""
    places = {v: i for i, v in enumerate(
        sorted({row[over] for mine in groups.values() for row in mine}))}  # fmt: skip
    # lines keep their shape only if hardly moved
    step = (0.2 if line else 0.5) / max(len(groups), 1)
    for i, (name, mine) in enumerate(groups.items()):
        mine = sorted(mine, key=lambda row: row[over])
        value, error = read(mine)
        place = np.array([places[row[over]] for row in mine], np.float64)
        colour, dashes, marker = style.schedule_look(name)
        ax.errorbar(
            place + (i - (len(groups) - 1) / 2) * step, value, yerr=error,
            color=colour, ls=dashes if line else "none", marker=marker,
            label=labels[name] if labels else name, **BARS,
        )  # fmt: skip
    ax.set_xticks(range(len(places)), [f"{v:g}" for v in places])
    ax.set_xlim(-0.6, len(places) - 0.4)


def by_schedule(rows) -> dict[str, list]:
    groups: dict[str, list] = {}
    for row in rows:
        groups.setdefault(row["schedule"], []).append(row)
    return groups


def scores(rows, name: str):
    """(value [N], error [N]) of a score that every row has."""
    for row in rows:
        if name not in row["scores"]:
            raise ValueError(
                f"cell {row['cell']} has no score {name}: it has "
                f"{', '.join(row['scores']) or 'none'}"
            )
    return _columns(row["scores"][name] for row in rows)


def differences(rows, name: str):
    """(value [N], error [N]) of the paired differences that every row has."""
    for row in rows:
        if name not in row["differences"]:
            raise ValueError(
                f"cell {row['cell']} has no difference of {name} to static: score "
                "the static cell of its scale too"
            )
    return _columns(row["differences"][name] for row in rows)


def _columns(entries):
    # JSON writes a number that is not finite as null: float64 makes it nan
    pairs = [(entry["value"], entry["error"]) for entry in entries]
    return np.array(pairs, np.float64).reshape(-1, 2).T


def refuse(rows, keys: tuple[str, ...], figure: str) -> None:
    """ValueError if there is no row, or if `keys` are not the same for all rows."""
    if not rows:
        raise ValueError(f"{figure}: there are no cells to draw")
    for key in keys:
        found = {str(row[key]) for row in rows}
        if len(found) > 1:
            raise ValueError(
                f"{figure}: the cells differ in {key} ({', '.join(sorted(found))}): "
                "draw those of one"
            )


def axis(score: str, better: str) -> str:
    return f"{score} ({better} is better)"
