"""A report as files: a page that needs nothing outside, tables, figures.

An experiment says what its report holds; here it becomes report.html, table.md,
table.csv and PNGs. Nothing is computed: the same report gives the same files.
"""

import csv as csv_lib
import html
import io
import itertools
import math
import os
import shlex
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from etils import epath

from progguide_jax.plots import style
from progguide_jax.runtime import config as config_lib
from progguide_jax.runtime import files, page

NONE = "–"  # in the place of a number that there is not


class Text(NamedTuple):
    """A paragraph."""

    words: str


class Items(NamedTuple):
    """A list."""

    lines: Sequence[str]


class Picture(NamedTuple):
    """A figure: NAME.png, and in the page."""

    name: str
    png: bytes
    caption: str


class Facts(NamedTuple):
    """Names and what they stand for."""

    facts: Mapping[str, object]


class Entry(NamedTuple):
    """A cell of a table. marks: "best" is bold, "close" has a dagger; "off" and "far"
    are shaded on the page."""

    text: str
    marks: tuple[str, ...] = ()


class Line(NamedTuple):
    """place: what the line is about, one text for each of the table's heads."""

    place: Sequence[str]
    entries: Sequence[Entry]


class Table(NamedTuple):
    """heads: of the columns that say what a line is about; groups: (title, titles of
    its columns), one "" for a column alone; name and note: what stands beside it."""

    heads: Sequence[str]
    groups: Sequence[tuple[str, Sequence[str]]]
    lines: Sequence[Line]
    name: str = ""
    note: str = ""


Block = Text | Items | Picture | Facts | Table


class Section(NamedTuple):
    heading: str
    blocks: Sequence[Block]


class Report(NamedTuple):
    """The page is title, introduction and sections; tables makes table.md and rows,
    which may differ in their keys, table.csv."""

    title: str
    introduction: Sequence[Block]
    sections: Sequence[Section]
    tables: Sequence[Text | Table]
    rows: Sequence[Mapping[str, Any]]


def write(
    report: Report, folder: epath.PathLike, figures: str = "figures", tables: str = ""
) -> str:
    """Write report.html, TABLES/table.md, TABLES/table.csv and FIGURES/*.png below
    `folder`; the path of the first."""
    folder = epath.Path(folder)
    for section in report.sections:
        for block in section.blocks:
            if isinstance(block, Picture):
                files.write(folder / figures / f"{block.name}.png", block.png)
    files.clear_leftovers(folder)
    files.write(folder / tables / "table.csv", csv(report.rows).encode())
    files.write(folder / tables / "table.md", markdown(report.tables).encode())
    files.write(folder / "report.html", to_html(report).encode())
    return os.fspath(folder / "report.html")


def to_html(report: Report) -> str:
    """The whole page."""
    parts = [f"<h1>{html.escape(report.title)}</h1>{_blocks(report.introduction)}"]
    for section in report.sections:
        parts.append(page.section(section.heading, _blocks(section.blocks)))
    return page.page(report.title, "\n".join(parts))


def markdown(blocks: Iterable[Text | Table]) -> str:
    """Paragraphs and tables."""
    parts = [b.words if isinstance(b, Text) else _markdown_table(b) for b in blocks]
    return "\n\n".join(parts) + "\n"


def csv(rows: Sequence[Mapping[str, Any]]) -> str:
    """A column for every key of any row, unrounded; empty where a row lacks it."""
    names = dict.fromkeys(itertools.chain.from_iterable(rows))
    buffer = io.StringIO()
    writer = csv_lib.DictWriter(buffer, list(names), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return buffer.getvalue()


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


def provenance(
    config,
    argv: Sequence[str],
    versions: Mapping[str, str],
    facts: Mapping[str, object],
) -> Facts:
    """What made the report: its command and config, `facts`, the versions."""
    about = {
        "command": f"python -m eval.reproduce {shlex.join(argv[1:])}",
        "config": f"digest {config_lib.digest(config)}",
    }
    words = ", ".join(f"{name} {version}" for name, version in versions.items())
    return Facts(about | dict(facts) | {"versions": words})


def _blocks(blocks: Iterable[Block]) -> str:
    return "".join(map(_block, blocks))


def _block(block: Block) -> str:
    match block:
        case Text(words):
            return page.p(words)
        case Items(lines):
            return page.items(lines)
        case Picture(_, png, caption):
            return page.figure(png, caption, style.DPI)
        case Facts(facts):
            return page.definitions(facts)
        case Table():
            return _html_table(block)
    raise TypeError(f"{block!r} is no block of a report")


def _markdown_table(table: Table) -> str:
    titles = [f"{g}: {t}" if t else g for g, inner in table.groups for t in inner]
    head = [*table.heads, *titles]
    rule = [":--" if i < len(table.heads) else "--:" for i in range(len(head))]
    body = [[*line.place, *map(_marked, line.entries)] for line in table.lines]
    text = "\n".join(f"| {' | '.join(cells)} |" for cells in (head, rule, *body))
    if table.name:
        return f"**{table.name}** {table.note}\n\n{text}"
    return f"{text}\n\n{table.note}" if table.note else text


def _marked(entry: Entry) -> str:
    text = f"**{entry.text}**" if "best" in entry.marks else entry.text
    return f"{text} †" if "close" in entry.marks else text


def _html_table(table: Table) -> str:
    """Lines that begin with the same place stand together under one head."""
    inner = [titles for _, titles in table.groups]
    two = any(len(titles) > 1 for titles in inner)
    first = [i == 0 for titles in inner for i in range(len(titles))]  # of its group
    head = "".join(_th(words, rowspan=1 + two) for words in table.heads)
    for title, titles in table.groups:
        head += _th(title, colspan=len(titles))
    head = f"<tr>{head}</tr>"
    if two:
        titles = [title for titles in inner for title in titles]
        under = map(_th, titles, ["n" if start else "" for start in first])
        head += f"<tr>{''.join(under)}</tr>"
    runs = itertools.groupby(table.lines, lambda line: line.place[0])
    together = [list(lines) for _, lines in runs]
    if len(together) == len(table.lines):  # no two: one body, no rule between lines
        rows = "".join(_html_lines([line], first) for line in table.lines)
        bodies = f"<tbody>{rows}</tbody>"
    else:
        bodies = "".join(
            f"<tbody>{_html_lines(lines, first)}</tbody>" for lines in together
        )
    return page.table(head, bodies, f"{table.name} {table.note}".strip())


def _html_lines(lines: Sequence[Line], first: Sequence[bool]) -> str:
    text = ""
    for i, (place, entries) in enumerate(lines):
        text += "<tr>" if i else f"<tr>{_th(place[0], rowspan=len(lines))}"
        text += "".join(map(_th, place[1:]))
        for entry, start in zip(entries, first, strict=True):
            text += _td(entry, start)
        text += "</tr>"
    return text


def _th(words: str, group: str = "", rowspan: int = 1, colspan: int = 1) -> str:
    attributes = f' class="{group}"' if group else ""
    attributes += f' rowspan="{rowspan}"' if rowspan > 1 else ""
    attributes += f' colspan="{colspan}"' if colspan > 1 else ""
    return f"<th{attributes}>{html.escape(words)}</th>"


def _td(entry: Entry, start: bool) -> str:
    shades = [mark for mark in entry.marks if mark in ("off", "far")]
    names = " ".join([*(["n"] if start else []), *shades])
    text = html.escape(entry.text)
    text = f"<b>{text}</b>" if "best" in entry.marks else text
    text += " †" if "close" in entry.marks else ""
    return f'<td class="{names}">{text}</td>' if names else f"<td>{text}</td>"
