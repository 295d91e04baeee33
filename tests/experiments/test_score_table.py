import copy
import csv
import html.parser
import io
import math
import re

import numpy as np
import pytest
from sweep_rows import FD, IS, row

from progguide_jax.experiments import document
from progguide_jax.experiments.sweep import report, score_table, statements

SCORES = {FD: "lower", IS: "higher"}
PNG = b"\x89PNG\r\n\x1a\n" + b"\0" * 8 + (600).to_bytes(4, "big")


def sweep():
    """Two schedules, three scales; one cell of gn is not there yet."""
    return [
        row("static", 0.1, (3.2, 0.04), (8.0, 0.1)),
        row("static", 0.2, (3.1, 0.04), (8.5, 0.1)),
        row("static", 0.4, (3.24, 0.04), (8.7, 0.1)),
        row("gn", 0.1, (3.0, 0.2), (8.1, 0.1), {FD: (-0.2, 0.05)}),
        row("gn", 0.2, (2.79, 0.04), (8.6, 0.1), {FD: (-0.31, 0.05), IS: (0.1, 0.02)}),
    ]


PAPER = {
    "static_w0.1": {"fid": 2.966, "is": 9.564},
    "static_w0.2": {"fid": 2.97, "is": 9.69},
    "gn_w0.1": {"fid": 2.862},
}


def table(rows, paper, scores):
    return document.markdown(score_table.blocks(rows, paper, scores))


def table_csv(rows):
    return document.csv(score_table.flat(rows))


def page(rows, paper, scores, pictures):
    made = report.sections(rows, paper, scores, pictures)
    made.append(document.Section("Provenance", [document.Facts({"seed": "<7>"})]))
    text = [document.Text("First.")]
    return document.to_html(document.Report("A <title>", text, made, [], []))


def _tables(text):
    """{score: [[cells of a line]]} of the Markdown, the rule left out."""
    found = {}
    for block in re.split(r"^(?=\*\*\w+\*\* \()", text, flags=re.M)[1:]:
        lines = [
            [cell.strip() for cell in line.strip("|").split(" | ")]
            for line in block.splitlines()
            if line.startswith("|") and ":--" not in line
        ]
        assert len({len(line) for line in lines}) == 1
        found[re.match(r"\*\*(\w+)\*\*", block)[1]] = lines
    return found


def test_table_without_paper():
    """Marks by hand. static: |3.2 − 3.1| = 0.1 against 2 √2 0.04 = 0.113, not told
    apart; 0.14 is. gn: 0.21 against 2 hypot(0.2, 0.04) = 0.41."""
    text = table(sweep(), {}, SCORES)
    assert _tables(text)[FD] == [
        ["ω", "static", "gn"],
        ["0.1", "3.20 ± 0.04 †", "3.00 ± 0.20 †"],
        ["0.2", "**3.10 ± 0.04**", "**2.79 ± 0.04**"],
        ["0.4", "3.24 ± 0.04", "–"],
    ]
    # 0.2 and 0.5 against 0.283: of 8.0, 8.5, 8.7 only the middle is close
    assert [line[1] for line in _tables(text)[IS]][1:] == [
        "8.00 ± 0.10", "8.50 ± 0.10 †", "**8.70 ± 0.10**",
    ]  # fmt: skip
    assert f"**{FD}** (lower is better)" in text
    assert f"**{IS}** (higher is better)" in text
    assert "5,000 images, resnet56 features, reference: the train split" in text
    assert "paper" not in text


def test_other_features_are_never_compared_with_the_paper():
    text = table(sweep(), PAPER, SCORES)
    fd, is_ = (_tables(text)[name] for name in (FD, IS))
    titles = ["paper", "ours", "ours − paper"]
    assert fd[0] == ["ω", *(f"{s}: {t}" for s in ("static", "gn") for t in titles)]
    assert fd[1][1:] == [
        "**2.966**", "3.20 ± 0.04 †", "–", "**2.862**", "3.00 ± 0.20 †", "–",
    ]  # fmt: skip
    assert [line[1] for line in fd[1:]] == ["**2.966**", "2.970", "–"]
    assert [line[1] for line in is_[1:]] == ["9.564", "**9.690**", "–"]
    for lines in (fd, is_):
        assert {cell for line in lines[1:] for cell in (line[3], line[6])} == {"–"}
    assert text.count("orientation") == 1 and "the error is that of ours" not in text


def test_same_score_is_compared():
    rows = sweep()
    for r in rows:
        r["features"] = "inception"
        r["scores"] = {"fid": r["scores"][FD], "kid": r["scores"][IS]}
        r["differences"] = {}
    text = table(rows, PAPER, {"fid": "lower", "kid": "higher"})
    fid, kid = _tables(text)["fid"], _tables(text)["kid"]
    # 3.2 − 2.966 = 0.234, 3.1 − 2.97 = 0.13, 3.0 − 2.862 = 0.138 with an error of 0.2
    assert [line[3] for line in fid[1:]] == ["+0.23", "+0.13", "–"]
    assert [line[6] for line in fid[1:]] == ["+0.14", "–", "–"]
    assert kid[0] == ["ω", "static", "gn"]  # the paper has no KID
    assert "orientation" not in text and "the error is that of ours" in text
    other = {"fd_resnet20": "lower"}
    for r in rows:  # no FID, and not of the row's own features either
        r["scores"]["fd_resnet20"] = r["scores"]["fid"]
    assert "paper" not in table(rows, PAPER, other)


def test_paired_difference_decides_where_there_is_one():
    """Interval cells beside their unperturbed static cell, in one column: 3.16 is 0.06
    off, 1.1 σ of independent errors of 0.04 but 6 σ of the pair's 0.01; 3.2 is 0.1 off,
    1.8 σ and with a paired error of 0.06 1.7 σ."""
    rows = [
        row("static", 0.2, (3.1, 0.04), (8, 0.1)),
        row("static", 0.2, (3.16, 0.04), (8, 0.1), {FD: (0.06, 0.01)},
            interval=[0, 49], cell="a"),
        row("static", 0.2, (3.2, 0.04), (8, 0.1), {FD: (0.1, 0.06)},
            interval=(50, 99), cell="b"),
        row("static", 0.4, (3.16, 0.04), (8, 0.1), {FD: (1, 0.01)},
            interval=[0, 49], cell="c"),
    ]  # fmt: skip
    lines = _tables(table(rows, {}, {FD: "lower"}))[FD]
    assert lines == [
        ["ω", "ω = 0 on", "static"],
        ["0.2", "–", "**3.10 ± 0.04**"],
        ["0.2", "0 ≤ t ≤ 49", "3.16 ± 0.04"],
        ["0.2", "50 ≤ t ≤ 99", "3.20 ± 0.04 †"],
        ["0.4", "0 ≤ t ≤ 49", "3.16 ± 0.04 †"],  # paired to a cell of ω = 0.4
    ]
    # the same with another cell the best: seen from the static cell
    rows[1]["scores"][FD]["value"] = 3.04
    rows[1]["differences"][FD]["value"] = -0.06
    lines = _tables(table(rows, {}, {FD: "lower"}))[FD]
    assert [line[2] for line in lines[1:]] == [
        "3.10 ± 0.04", "**3.04 ± 0.04**", "3.20 ± 0.04", "3.16 ± 0.04",
    ]  # fmt: skip


def test_steps_have_a_column_where_they_differ():
    rows = [
        row("static", 0.6, (3.4, 0.04), (8, 0.1), num_steps=50),
        row("static", 0.6, (3.2, 0.04), (8, 0.1), num_steps=100),
        row("gn", 0.8, (2.9, 0.04), (8, 0.1), num_steps=50),
    ]
    lines = _tables(table(rows, {}, {FD: "lower"}))[FD]
    assert [line[:2] for line in lines] == [
        ["ω", "steps"], ["0.6", "50"], ["0.6", "100"], ["0.8", "50"],
    ]  # fmt: skip
    assert lines[3][2:] == ["–", "**2.90 ± 0.04**"]


def test_scale_0_is_the_same_cell_for_every_schedule():
    rows = [row("static", 0, (2.8, 0.01), (7.9, 0.1)), *sweep()]
    text = table(rows, {"static_w0": {"fid": 4.0}}, {FD: "lower"})
    lines = _tables(text)[FD]
    assert lines[1] == [
        "0", "**4**", "**2.800 ± 0.010**", "–", "**4**", "2.800 ± 0.010 †", "–",
    ]  # fmt: skip
    assert "ω = 0 is plain conditional sampling under every schedule." in text
    assert "plain conditional" not in table(sweep(), {}, {FD: "lower"})
    assert table_csv(rows).count("\nstatic_w0,") == 1


def test_one_cell():
    rows = sweep()[:1]
    assert _tables(table(rows, {}, {FD: "lower"}))[FD][1:] == [
        ["0.1", "**3.20 ± 0.04**"]
    ]
    assert statements.pareto(rows, FD, IS) == {"static_w0.1": 1.0}
    assert statements.orderings(rows, FD) == []
    assert len(table_csv(rows).splitlines()) == 2


@pytest.mark.parametrize("nothing", [math.nan, None])  # JSON may write null
def test_a_score_that_is_not_finite_is_shown_and_never_best(nothing):
    rows = sweep()
    rows[1]["scores"][FD]["value"] = nothing
    lines = _tables(table(rows, {}, {FD: "lower"}))[FD]
    assert [line[1] for line in lines[1:]] == [
        "**3.20 ± 0.04**", "nan ± 0.04", "3.24 ± 0.04 †",
    ]  # fmt: skip
    assert "static_w0.2" not in statements.pareto(rows, FD, IS)
    rows[1]["scores"][FD] = {"value": 3.0, "error": nothing}  # best, its error unknown
    lines = _tables(table(rows, {}, {FD: "lower"}))[FD]
    assert [line[1] for line in lines[1:]] == [
        "3.20 ± 0.04 †", "**3 ± ?**", "3.24 ± 0.04 †",
    ]  # fmt: skip
    assert all(map(math.isnan, statements.pareto(rows, FD, IS).values()))
    rows = sweep()
    rows[4]["differences"][FD]["value"] = nothing
    assert statements.orderings(rows, FD)[1] == "at ω = 0.2: gn − static = nan ± 0.05"


@pytest.mark.parametrize(
    "call",
    [
        lambda rows: table(rows, {}, SCORES),
        lambda rows: statements.pareto(rows, FD, IS),
        lambda rows: statements.orderings(rows, IS),
    ],
)
def test_a_missing_score_is_named(call):
    rows = sweep()
    del rows[3]["scores"][IS]
    with pytest.raises(ValueError) as error:
        call(rows)
    assert str(error.value) == f"cell gn_w0.1 has no score {IS}: it has {FD}"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"split": "test"}, "static_w0.1 and gn_w0.1 differ in split (train, test)"),
        ({"features": "dinov2"}, "differ in features (resnet56, dinov2)"),
        ({"num_images": 100}, "differ in num_images (5000, 100)"),
        ({"schedule": "static"}, "static_w0.1 and gn_w0.1 have the same schedule"),
    ],
)
def test_rows_that_do_not_compare_are_refused(change, message):
    rows = sweep()
    rows[3] |= change
    with pytest.raises(ValueError, match=re.escape(message)) as error:
        table(rows, {}, SCORES)
    assert "\n" not in str(error.value)
    with pytest.raises(ValueError, match="no cells"):
        table([], {}, SCORES)


def test_csv_holds_every_number_exactly():
    rows = sweep()
    rows[0]["scores"][FD]["value"] = 0.1 + 0.2
    rows[1] |= {"interval": [50, 99], "cell": 'odd, "name"'}
    lines = list(csv.DictReader(io.StringIO(table_csv(rows))))
    assert len(lines) == len(rows)
    for line, r in zip(lines, rows, strict=True):
        assert line["cell"] == r["cell"] and float(line["scale"]) == r["scale"]
        for name in SCORES:
            entry = r["scores"][name]
            assert float(line[name]) == entry["value"]
            assert float(line[f"{name}_error"]) == entry["error"]
            for key in ("value", "error"):
                column = f"{name}_minus_static{'' if key == 'value' else '_error'}"
                got, entry = line[column], r["differences"].get(name)
                assert got == "" if entry is None else float(got) == entry[key]
        assert float(line[f"{IS}_std"]) == 0.3
    assert (lines[1]["t_first"], lines[1]["t_last"]) == ("50", "99")
    assert lines[0]["t_first"] == ""


def test_pareto_set_and_how_sure():
    """A cell 1 σ (of the difference) better in one score and far worse in the other
    than its only rival: it stays where the rival does not overtake, Φ(1) = 0.841."""
    rows = [
        row("static", 0.1, (3.0, 0.3), (8.0, 1e-6)),
        row("static", 0.2, (2.5, 0.4), (7.9, 1e-6)),  # 0.5 = hypot(0.3, 0.4) lower
        row("static", 0.4, (9.0, 1e-6), (7.0, 1e-6)),  # beaten for certain
        row("static", 0.8, (9.0, 1e-6), (9.0, 1e-6)),  # highest for certain
    ]
    found = statements.pareto(rows, FD, IS, draws=4000)
    assert list(found) == ["static_w0.1", "static_w0.2", "static_w0.8"]
    assert found["static_w0.1"] == found["static_w0.8"] == 1
    np.testing.assert_allclose(found["static_w0.2"], 0.8413, atol=0.02)
    assert statements.pareto(rows, FD, IS, draws=4000) == found  # seeded
    assert statements.pareto(rows, FD, IS, draws=4000, seed=1) != found
    # the other way round: high fd and low is
    assert list(statements.pareto(rows, IS, FD)) == ["static_w0.4"]


def test_pareto_uses_the_pairing():
    """0.5 apart: 1 σ of independent errors (above), 5 σ of the paired difference."""
    rows = [
        row("static", 0.1, (3.0, 0.3), (8.0, 1e-6)),
        row("gn", 0.1, (2.5, 0.4), (7.9, 1e-6), {FD: (-0.5, 0.1)}),
    ]
    assert statements.pareto(rows, FD, IS)["gn_w0.1"] == 1
    rows[1]["differences"][FD]["error"] = 0.5
    share = statements.pareto(rows, FD, IS, draws=4000)["gn_w0.1"]
    np.testing.assert_allclose(share, 0.8413, atol=0.02)


def test_orderings_state_every_difference():
    assert statements.orderings(sweep(), FD) == [
        "at ω = 0.1: gn − static = −0.20 ± 0.05 (4.0 σ)",
        "at ω = 0.2: gn − static = −0.31 ± 0.05 (6.2 σ)",
    ]
    assert statements.orderings(sweep(), IS) == [
        "at ω = 0.2: gn − static = 0.100 ± 0.020 (5.0 σ)"
    ]
    rows = sweep()
    rows[3]["differences"][FD] = {"value": 0.0, "error": 0.0}  # ω = 0: the same images
    rows[4] |= {"num_steps": 50, "interval": [0, 49]}
    assert statements.orderings(rows, FD) == [
        "at ω = 0.1, 200 steps: gn − static = 0 ± 0",
        "at ω = 0.2, 50 steps, ω = 0 on 0 ≤ t ≤ 49: gn − static = −0.31 ± 0.05 (6.2 σ)",
    ]


class _Page(html.parser.HTMLParser):
    """Headings, tables as lists of rows of cells, all text; checks the nesting."""

    def __init__(self, text):
        super().__init__()
        self.open, self.headings, self.tables, self.text = [], [], [], ""
        self.images = []
        self.feed(text)
        self.close()
        assert not self.open

    def handle_starttag(self, tag, attributes):
        if tag == "img":
            self.images.append(dict(attributes))
        if tag not in ("meta", "img"):
            self.open.append(tag)
        if tag == "h2":
            self.headings.append("")
        if tag == "table":
            self.tables.append([])
        if tag == "tr":
            self.tables[-1].append([])
        if tag in ("td", "th"):
            self.tables[-1][-1].append("")

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text += data
        if "td" in self.open or "th" in self.open:
            self.tables[-1][-1][-1] += data
        if self.open and self.open[-1] == "h2":
            self.headings[-1] += data


@pytest.mark.parametrize("paper", [{}, PAPER])
def test_page_holds_the_same_table(paper):
    rows = sweep()
    picture = document.Picture("tradeoff", PNG, "What <it> shows.")
    text = page(rows, paper, SCORES, {"Trade-off & more": picture})
    found = _Page(text)
    assert found.headings == [
        "Scores", "Trade-off & more", "Differences to static", "Pareto set",
        "Provenance",
    ]  # fmt: skip
    markdown = _tables(table(rows, paper, SCORES))
    for shown, name in zip(found.tables, SCORES, strict=True):
        cells = [[c.replace("**", "") for c in line] for line in markdown[name][1:]]
        assert shown[2 if paper else 1 :] == cells
        assert shown[0] == ["ω", "static", "gn"]
    assert text.count("<b>") == sum(
        c.startswith("**") for t in markdown.values() for line in t for c in line
    )
    assert "(6.2 σ)" in found.text and "<p>First.</p>" in text
    for cell, share in statements.pareto(rows, FD, IS).items():
        assert f"{cell}: {share:.0%}" in found.text
    assert "A <title>" in found.text and "<7>" in found.text
    assert found.images[0]["width"] == "400" and "What <it> shows." in found.text
    assert not re.search(r"https?:|url\(|@import|<script|<link", text)


def test_page_of_a_single_score_has_no_pareto_set():
    rows = sweep()[:3]
    text = page(rows, {}, {FD: "lower"}, {})
    assert _Page(text).headings == ["Scores", "Provenance"]


def test_rows_are_left_as_they_are():
    rows = sweep()
    before = copy.deepcopy(rows)
    page(rows, PAPER, SCORES, {})
    table_csv(rows)
    assert rows == before
