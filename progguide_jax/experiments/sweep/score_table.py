"""The table of a sweep, as the paper prints it: rows in, blocks of a report out.

rows: as `pairing` says; `scores` in the functions below: name -> "lower" or "higher",
whichever is better.
"""

import math
from collections.abc import Mapping, Sequence

from progguide_jax.experiments import document
from progguide_jax.experiments.sweep import pairing

_SIGMAS = 2  # closer than so many standard errors is not told apart


def blocks(
    rows: Sequence[Mapping], paper: Mapping, scores: Mapping[str, str]
) -> list[document.Table | document.Text]:
    """For each score a table with a line per scale and paper | ours | ours − paper of
    each schedule; then what a reader must know.

    paper: cell name -> {"fid": printed, "is": printed}; cells may be missing. A
    difference is shown where the score is the paper's own, by name; beside the like
    of other features its number stands for orientation. ValueError at a score that a
    row lacks, at cells of one place, and at rows of several extractors, splits or
    numbers of images.
    """
    tables = [_table(rows, paper, *score) for score in scores.items()]
    return [*tables, *map(document.Text, _notes(rows, paper, scores))]


def flat(rows: Sequence[Mapping]) -> list[dict]:
    """Rows as table.csv has them: every score of every cell with its error.

    Keys of a score s: s, s_error (and s_std, ... where given), and s_minus_static and
    s_minus_static_error, of free cells s_minus_first.
    """
    head = "cell schedule scale num_steps t_first t_last num_images features split"
    versus = "first" if rows and pairing.is_free(rows) else "static"
    table = []
    for row in rows:
        values = dict.fromkeys(head.split(), "")
        values |= {name: row[name] for name in values if name in row}
        values |= dict(zip(("t_first", "t_last"), row["interval"] or (), strict=False))
        for kind, suffix in (("scores", ""), ("differences", f"_minus_{versus}")):
            for name, entry in row[kind].items():
                for key, number in entry.items():
                    end = "" if key == "value" else f"_{key}"
                    values[f"{name}{suffix}{end}"] = number
        table.append(values)
    return table


def _table(rows, paper, name: str, better: str) -> document.Table:
    cells = pairing.placed(rows)
    places = list(dict.fromkeys(place for _, place in cells))
    schedules = list(dict.fromkeys(schedule for schedule, _ in cells))
    for (_, place), row in list(cells.items()):
        if place.scale == 0 and place.variant is None:
            # plain conditional sampling, whatever the schedule
            cells = {(schedule, place): row for schedule in schedules} | cells
    printed = {key: _printed(paper, row, name) for key, row in cells.items()}
    with_paper = any(found is not None for found, _ in printed.values())
    columns = []
    for schedule in schedules:
        mine = [cells.get((schedule, place)) for place in places]
        columns.append(_ours(mine, name, better))
        if with_paper:
            beside = [printed.get((schedule, place), (None, False)) for place in places]
            columns.insert(-1, _theirs([found for found, _ in beside], better))
            columns.append([
                _apart(row, name, *found)
                for row, found in zip(mine, beside, strict=True)
            ])  # fmt: skip
    titles = ["paper", "ours", "ours − paper"] if with_paper else [""]
    varies = [len(set(values)) > 1 for values in zip(*places, strict=True)]
    shown = [i for i, several in enumerate(varies) if i == 0 or several]
    lines = []
    for k, place in enumerate(places):
        words = pairing.words(place)
        entries = [column[k] for column in columns]
        lines.append(document.Line([words[i] for i in shown], entries))
    heads = [pairing.HEADS[i] for i in shown]
    groups = [(schedule, titles) for schedule in schedules]
    return document.Table(heads, groups, lines, name, f"({better} is better)")


def _printed(paper, row, name: str) -> tuple[float | None, bool]:
    """(the paper's number for the score or its like, whether it is the same score)."""
    numbers = paper.get(row["cell"], {})
    if name in numbers:
        return numbers[name], True
    like = {f"fd_{row['features']}": "fid", f"is_{row['features']}": "is"}
    return numbers.get(like.get(name)), False


def _theirs(numbers, better: str) -> list[document.Entry]:
    known = [number for number in numbers if number is not None]
    best = _best(known, better) if known else None
    # 9.67 was printed as 9.670 in a column of three decimals
    decimals = max((len(f"{n:g}".partition(".")[2]) for n in known), default=0)
    column = []
    for number in numbers:
        text = document.NONE if number is None else f"{number:.{decimals}f}"
        is_best = number is not None and number == best
        column.append(document.Entry(text, ("best",) if is_best else ()))
    return column


def _best(values, better: str) -> float:
    return min(values) if better == "lower" else max(values)


def _ours(rows, name: str, better: str) -> list[document.Entry]:
    """A column: value ± error, the best and what is not told from it marked."""
    found = {
        k: pairing.estimate(row, name) for k, row in enumerate(rows) if row is not None
    }
    finite = {k: value for k, (value, _) in found.items() if math.isfinite(value)}
    best = _best(finite.values(), better) if finite else None
    first = next((k for k, value in finite.items() if value == best), None)
    column = []
    for k in range(len(rows)):
        marks = ("best",) if k == first and k in finite else ()
        if k in finite and k != first:
            value, error = pairing.difference(rows[k], rows[first], name)
            # an unknown error tells nothing apart
            marks = () if abs(value) > _SIGMAS * error else ("close",)
        text = document.plus_minus(*found[k]) if k in found else document.NONE
        column.append(document.Entry(text, marks))
    return column


def _apart(row, name: str, number: float | None, same: bool) -> document.Entry:
    if row is None or number is None or not same:
        return document.Entry(document.NONE)
    value, error = pairing.estimate(row, name)
    return document.Entry(
        document.plus_minus(value - number, error, signed=True, with_error=False)
    )


def _notes(rows, paper, scores) -> list[str]:
    """What a reader of the table must know, a paragraph each."""
    first = rows[0]
    versus = first["cell"] if pairing.is_free(rows) else "the static cell"
    lines = [
        f"Ours: value ± one standard error over {first['num_images']:,} images, "
        f"{first['features']} features, reference: the {first['split']} split.",
        f"Bold: the best of its column. †: within {_SIGMAS} standard errors of it, by "
        f"the paired difference to {versus} where there is one, otherwise as if "
        "the two were independent, which is cautious for cells of common noise.",
    ]
    if pairing.is_free(rows):
        lines.append(f"Paired differences are to the first cell, {first['cell']}.")
    elif any(row["scale"] == 0 for row in rows):
        lines.append("ω = 0 is plain conditional sampling under every schedule.")
    beside = [_printed(paper, row, name) for row in rows for name in scores]
    if any(number is not None and same for number, same in beside):
        lines.append("ours − paper: the error is that of ours; the paper gives none.")
    if any(number is not None and not same for number, same in beside):
        lines.append(
            "The paper's FID and IS belong to the Inception network: beside scores of "
            f"{first['features']} features they stand for orientation, and there is no "
            f"difference to take ({document.NONE})."
        )
    return lines
