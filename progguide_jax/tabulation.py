"""Tables of a sweep: rows in, the paper's table, Pareto set, statements, CSV, page out.

A row is a dict: cell (its name), schedule, scale, num_steps, interval ((first t, last
t) or None), num_images, features, split, scores {name: {"value", "error", ...}} and
differences {name: {"value", "error"}} to the static cell of the same scale and
num_steps, paired image by image ({} where there is none). Errors are one standard
error. `scores` in the functions below: name -> "lower" or "higher", whichever is
better.
"""

import csv as csv_lib
import html as html_lib
import io
import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from progguide_jax.metrics import pareto as pareto_lib
from progguide_jax.runtime import page

_NONE = "–"
_BASELINE = "static"
_SIGMAS = 2  # closer than so many standard errors is not told apart


def table(rows: Sequence[Mapping], paper: Mapping, scores: Mapping[str, str]) -> str:
    """Markdown: for each score a line per scale and paper | ours | ours − paper of
    each schedule.

    paper: cell name -> {"fid": printed, "is": printed}; cells may be missing. A
    difference is shown where the score is the paper's own, by name; beside the like
    of other features its number stands for orientation. ValueError at a score that a
    row lacks, at cells of one place, and at rows of several extractors, splits or
    numbers of images.
    """
    parts = []
    for name, better in scores.items():
        heads, groups, lines = _grid(rows, paper, name, better)
        titles = [f"{g}: {t}" if t else g for g, inner in groups for t in inner]
        head = [*heads, *titles]
        rule = [":--" if i < len(heads) else "--:" for i in range(len(head))]
        body = [[*line.place, *map(_markdown, line.cells)] for line in lines]
        text = "\n".join(f"| {' | '.join(cells)} |" for cells in (head, rule, *body))
        parts.append(f"**{name}** ({better} is better)\n\n{text}")
    return "\n\n".join([*parts, *notes(rows, paper, scores)]) + "\n"


def _markdown(cell: tuple[str, str]) -> str:
    text, mark = cell
    return f"**{text}**" if mark == "best" else f"{text} †" if mark == "close" else text


class _Line(NamedTuple):
    """place: what the line is about; cells: (text, "" or "best" or "close")."""

    place: list[str]
    cells: list[tuple[str, str]]


def _grid(rows, paper, name: str, better: str):
    """(heads of place, [(schedule, titles of its columns)], lines) of one score."""
    cells = _placed(rows)
    places = list(dict.fromkeys(place for _, place in cells))
    schedules = list(dict.fromkeys(schedule for schedule, _ in cells))
    for (_, place), row in list(cells.items()):
        if place[0] == 0:  # plain conditional sampling, whatever the schedule
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
    shown = [i for i in range(3) if i == 0 or len({place[i] for place in places}) > 1]
    lines = [
        _Line([_place_words(place)[i] for i in shown], [c[k] for c in columns])
        for k, place in enumerate(places)
    ]
    heads = [("ω", "steps", "ω = 0 on")[i] for i in shown]
    return heads, [(schedule, titles) for schedule in schedules], lines


def _placed(rows) -> dict:
    """{(schedule, (scale, num_steps, interval)): row}, after checks of all rows."""
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
        key = row["schedule"], _place(row)
        if key in cells:
            raise ValueError(
                f"cells {cells[key]['cell']} and {row['cell']} have the same schedule, "
                "scale, num_steps and interval: leave one out"
            )
        cells[key] = row
    return cells


def _place(row) -> tuple:
    interval = row["interval"]
    return row["scale"], row["num_steps"], None if interval is None else tuple(interval)


def _place_words(place) -> tuple[str, str, str]:
    scale, num_steps, interval = place
    where = _NONE if interval is None else f"{interval[0]} ≤ t ≤ {interval[1]}"
    return f"{scale:g}", str(num_steps), where


def _estimate(row, name: str, kind: str = "scores") -> tuple[float, float]:
    """(value, error); nan where JSON has null, its form of what is not finite."""
    if name not in row["scores"]:
        raise ValueError(
            f"cell {row['cell']} has no score {name}: it has "
            f"{', '.join(row['scores']) or 'none'}"
        )
    entry = row[kind][name]
    return tuple(math.nan if entry[k] is None else entry[k] for k in ("value", "error"))


def _printed(paper, row, name: str) -> tuple[float | None, bool]:
    """(the paper's number for the score or its like, whether it is the same score)."""
    numbers = paper.get(row["cell"], {})
    if name in numbers:
        return numbers[name], True
    like = {f"fd_{row['features']}": "fid", f"is_{row['features']}": "is"}
    return numbers.get(like.get(name)), False


def _theirs(numbers, better: str) -> list[tuple[str, str]]:
    known = [number for number in numbers if number is not None]
    best = _best(known, better) if known else None
    # 9.67 was printed as 9.670 in a column of three decimals
    decimals = max((len(f"{n:g}".partition(".")[2]) for n in known), default=0)
    texts = [_NONE if n is None else f"{n:.{decimals}f}" for n in numbers]
    marks = ["best" if number in known and number == best else "" for number in numbers]
    return list(zip(texts, marks, strict=True))


def _best(values, better: str) -> float:
    return min(values) if better == "lower" else max(values)


def _ours(rows, name: str, better: str) -> list[tuple[str, str]]:
    """A column: value ± error, the best and what is not told from it marked."""
    found = {k: _estimate(row, name) for k, row in enumerate(rows) if row is not None}
    finite = {k: value for k, (value, _) in found.items() if math.isfinite(value)}
    best = _best(finite.values(), better) if finite else None
    first = next((k for k, value in finite.items() if value == best), None)
    column = []
    for k in range(len(rows)):
        mark = "best" if k == first else ""
        if k in finite and k != first:
            value, error = _difference(rows[k], rows[first], name)
            # an unknown error tells nothing apart
            mark = "" if abs(value) > _SIGMAS * error else "close"
        column.append((plus_minus(*found[k]) if k in found else _NONE, mark))
    return column


def _difference(a, b, name: str) -> tuple[float, float]:
    """(a − b, its error): paired if one is the other's static cell, else as if the two
    were independent."""
    for row, other, sign in ((a, b, 1), (b, a, -1)):
        if _is_baseline(other, row) and name in row["differences"]:
            value, error = _estimate(row, name, "differences")
            return sign * value, error
    (value, error), (other, other_error) = _estimate(a, name), _estimate(b, name)
    return value - other, math.hypot(error, other_error)


def _is_baseline(other, row) -> bool:
    same = _place(other)[:2] == _place(row)[:2]
    return same and other["schedule"] == _BASELINE and other["interval"] is None


def _apart(row, name: str, number: float | None, same: bool) -> tuple[str, str]:
    if row is None or number is None or not same:
        return _NONE, ""
    value, error = _estimate(row, name)
    return plus_minus(value - number, error, signed=True, with_error=False), ""


def plus_minus(
    value: float, error: float, signed: bool = False, with_error: bool = True
) -> str:
    """The digits that the error leaves, as "2.966 ± 0.014" or "−0.31 ± 0.05".

    Two digits of an error that begins below 3.55, else one (Particle Data Group).
    """
    sign = "+" if signed else ""
    if not (math.isfinite(value) and math.isfinite(error) and error > 0):
        error_text = "?" if math.isnan(error) else f"{error:.2g}"
        text = f"{value:{sign}.4g}"
    else:
        exponent = math.floor(math.log10(error))
        digits = 2 if error < 3.55 * 10.0**exponent else 1
        places = digits - 1 - exponent
        shown = max(places, 0)
        text = f"{round(value, places):{sign}.{shown}f}"
        error_text = f"{round(error, places):.{shown}f}"
    text = f"{text} ± {error_text}" if with_error else text
    return text.replace("-", "−")


def notes(
    rows: Sequence[Mapping], paper: Mapping, scores: Mapping[str, str]
) -> list[str]:
    """What a reader of the table must know, a paragraph each."""
    first = rows[0]
    lines = [
        f"Ours: value ± one standard error over {first['num_images']:,} images, "
        f"{first['features']} features, reference: the {first['split']} split.",
        f"Bold: the best of its column. †: within {_SIGMAS} standard errors of it, by "
        "the paired difference to the static cell where there is one, otherwise as if "
        "the two were independent, which is cautious for cells of common noise.",
    ]
    if any(row["scale"] == 0 for row in rows):
        lines.append("ω = 0 is plain conditional sampling under every schedule.")
    beside = [_printed(paper, row, name) for row in rows for name in scores]
    if any(number is not None and same for number, same in beside):
        lines.append("ours − paper: the error is that of ours; the paper gives none.")
    if any(number is not None and not same for number, same in beside):
        lines.append(
            "The paper's FID and IS belong to the Inception network: beside scores of "
            f"{first['features']} features they stand for orientation, and there is no "
            f"difference to take ({_NONE})."
        )
    return lines


def csv(rows: Sequence[Mapping]) -> str:
    """Every score of every cell with its error, unrounded; empty where a cell has none.

    Columns of a score s: s, s_error (and s_std, ... where given), s_minus_static and
    s_minus_static_error.
    """
    head = "cell schedule scale num_steps t_first t_last num_images features split"
    table = []
    for row in rows:
        values = {name: row[name] for name in head.split() if name in row}
        values |= dict(zip(("t_first", "t_last"), row["interval"] or (), strict=False))
        for kind, suffix in (("scores", ""), ("differences", "_minus_static")):
            for name, entry in row[kind].items():
                for key, number in entry.items():
                    end = "" if key == "value" else f"_{key}"
                    values[f"{name}{suffix}{end}"] = number
        table.append(values)
    names = dict.fromkeys(head.split())
    for values in table:
        names |= dict.fromkeys(values)
    buffer = io.StringIO()
    writer = csv_lib.DictWriter(buffer, list(names), lineterminator="\n")
    writer.writeheader()
    writer.writerows(table)
    return buffer.getvalue()


def pareto(
    rows: Sequence[Mapping], lower: str, higher: str, draws: int = 1000, seed: int = 0
) -> dict[str, float]:
    """{cell: probability} of the cells that no other beats in both scores.

    lower, higher: the score to be low and the score to be high. The probability that
    the cell stays in the set when all scores move by their errors (normal; `draws`
    times): cells with a paired difference move with their static cell and apart from it
    by the paired error; the two scores of a cell move independently. nan if an error
    is unknown. Cells with a score that is not finite are left out.
    """
    _placed(rows)
    names = lower, higher
    rows = [
        row for row in rows if all(math.isfinite(_estimate(row, n)[0]) for n in names)
    ]
    if not rows:
        raise ValueError(f"no cell has finite {lower} and {higher}")
    points = np.array([[_estimate(row, n)[0] for n in names] for row in rows])
    better = ("lower", "higher")
    kept = pareto_lib.front(points, better)
    bits = np.random.Generator(np.random.Philox(seed))
    moves = np.stack([_moves(rows, n, draws, bits) for n in names], axis=-1)
    stays = np.full(len(rows), np.nan)
    if np.isfinite(moves).all():
        stays = np.mean([pareto_lib.front(points + m, better) for m in moves], axis=0)
    return {
        row["cell"]: float(share)
        for row, share, mine in zip(rows, stays, kept, strict=True)
        if mine
    }


def _moves(rows, name: str, draws: int, bits) -> np.ndarray:
    """[draws,N]: errors drawn, those of paired cells around their static cell's."""
    normal = bits.standard_normal((draws, len(rows)))
    moves = np.empty_like(normal)
    for i, row in enumerate(rows):
        moves[:, i] = normal[:, i] * _estimate(row, name)[1]
    for i, row in enumerate(rows):
        static = [k for k, other in enumerate(rows) if _is_baseline(other, row)]
        if static and name in row["differences"]:
            error = _estimate(row, name, "differences")[1]
            moves[:, i] = moves[:, static[0]] + normal[:, i] * error
    return moves


def orderings(rows: Sequence[Mapping], score: str) -> list[str]:
    """A line for every paired difference, the scales in their order.

    "at ω = 0.2: gn − static = −0.31 ± 0.05 (6.2 σ)".
    """
    cells = _placed(rows)
    places = list(dict.fromkeys(place for _, place in cells))
    shown = [len({place[i] for place in places}) > 1 for i in range(3)]
    lines = []
    for place in places:
        scale, num_steps, interval = _place_words(place)
        where = f"at ω = {scale}"
        where += f", {num_steps} steps" if shown[1] else ""
        where += f", ω = 0 on {interval}" if place[2] is not None else ""
        for (schedule, there), row in cells.items():
            _estimate(row, score)
            if there != place or score not in row["differences"]:
                continue
            value, error = _estimate(row, score, "differences")
            text = f"{where}: {schedule} − {_BASELINE} = {plus_minus(value, error)}"
            sure = math.isfinite(value) and error > 0
            lines.append(f"{text} ({abs(value) / error:.1f} σ)" if sure else text)
    return lines


def html(
    title: str,
    introduction: Sequence[str],
    rows: Sequence[Mapping],
    paper: Mapping,
    scores: Mapping[str, str],
    figures: Mapping[str, tuple[bytes, str]],
    dpi: int,
    facts: Mapping[str, object],
) -> str:
    """The report page of a sweep, whole and with nothing outside.

    introduction: paragraphs; figures: heading -> (PNG drawn at `dpi`, caption); facts:
    what made the rows, by name.
    """
    sections = [f"<h1>{html_lib.escape(title)}</h1>", *map(page.p, introduction)]
    tables = "".join(_html_table(rows, paper, *score) for score in scores.items())
    tables += "".join(page.p(note) for note in notes(rows, paper, scores))
    sections.append(page.section("Scores", tables))
    for heading, (png, caption) in figures.items():
        sections.append(page.section(heading, page.figure(png, caption, dpi)))
    sections += [*_html_orderings(rows, scores), *_html_pareto(rows, scores)]
    sections.append(page.section("Provenance", page.definitions(facts)))
    return page.page(title, "\n".join(sections))


def _html_table(rows, paper, name: str, better: str) -> str:
    heads, groups, lines = _grid(rows, paper, name, better)
    span = len(groups[0][1])
    over = "".join(_th(words, f' rowspan="{1 + (span > 1)}"') for words in heads)
    over += "".join(_th(schedule, f' colspan="{span}"') for schedule, _ in groups)
    head = f"<tr>{over}</tr>"
    if span > 1:
        titles = [title for _, inner in groups for title in inner]
        under = [_th(words, _group(i % span)) for i, words in enumerate(titles)]
        head += f"<tr>{''.join(under)}</tr>"
    body = ""
    for place, cells in lines:
        texts = [_td(cell, _group(i % span)) for i, cell in enumerate(cells)]
        body += f"<tr>{''.join(map(_th, place))}{''.join(texts)}</tr>"
    return page.table(head, f"<tbody>{body}</tbody>", f"{name} ({better} is better)")


def _th(text: str, attributes: str = "") -> str:
    return f"<th{attributes}>{html_lib.escape(text)}</th>"


def _td(cell: tuple[str, str], attributes: str) -> str:
    text, mark = html_lib.escape(cell[0]), cell[1]
    text = f"<b>{text}</b>" if mark == "best" else text
    text += " †" if mark == "close" else ""
    return f'<td{attributes}><span class="pair">{text}</span></td>'


def _group(i: int) -> str:
    return "" if i else ' class="n"'


def _html_orderings(rows, scores) -> list[str]:
    found = {name: orderings(rows, name) for name in scores}
    content = "".join(
        page.p(f"{name} ({scores[name]} is better)") + _items(lines)
        for name, lines in found.items()
        if lines
    )
    return [page.section("Differences to static", content)] if content else []


def _html_pareto(rows, scores) -> list[str]:
    """The set of the first score to be low and the first to be high, if there are."""
    first = {better: name for name, better in reversed(scores.items())}
    if len(first) < 2:
        return []
    words = (
        f"Cells that no other beats in both {first['lower']} (lower is better) and "
        f"{first['higher']} (higher is better), with the probability that they stay so "
        "when every score moves by its error:"
    )
    found = pareto(rows, first["lower"], first["higher"])
    lines = [f"{cell}: {share:.0%}" for cell, share in found.items()]
    return [page.section("Pareto set", page.p(words) + _items(lines))]


def _items(lines) -> str:
    return f"<ul>{''.join(f'<li>{html_lib.escape(line)}</li>' for line in lines)}</ul>"
