"""A report as files: the same table in Markdown and on the page."""

import csv
import html.parser
import io
import math

import pytest

from progguide_jax.experiments import document
from progguide_jax.plots import style

PNG = b"\x89PNG\r\n\x1a\n" + b"\0" * 8 + (600).to_bytes(4, "big")
TABLE = document.Table(
    ("ω", "name"),
    (("a & b", ("x", "y")), ("c", ("",))),
    [
        document.Line(("1", "p"), [document.Entry("1.5", ("best",)),
                                   document.Entry("2", ("off", "far")),
                                   document.Entry("<3>", ("close",))]),
        document.Line(("1", "q"), [document.Entry(t) for t in "456"]),
        document.Line(("2", "p"), [document.Entry(t) for t in "789"]),
    ],
    "score",
    "(lower is better)",
)  # fmt: skip


class _Grid(html.parser.HTMLParser):
    """The cells of a table by (row, column), as a browser places them."""

    def __init__(self, text):
        super().__init__()
        self.at, self.row, self.place, self.marks = {}, -1, None, {}
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        attributes = dict(attributes)
        if tag == "tr":
            self.row += 1
        if tag in ("td", "th"):
            column = 0
            while (self.row, column) in self.at:
                column += 1
            self.place = self.row, column
            self.marks[self.place] = attributes.get("class", "")
            for i in range(int(attributes.get("rowspan", 1))):
                for j in range(int(attributes.get("colspan", 1))):
                    self.at[self.row + i, column + j] = ""
                    self.last = self.row + i, column + j
        if tag == "b":
            self.marks[self.place] += " bold"

    def handle_data(self, data):
        if self.place:
            self.at[self.place] += data

    def handle_endtag(self, tag):
        if tag in ("td", "th"):
            self.place = None


def test_a_table_in_markdown():
    assert document.markdown([TABLE, document.Text("After.")]).splitlines() == [
        "**score** (lower is better)",
        "",
        "| ω | name | a & b: x | a & b: y | c |",
        "| :-- | :-- | --: | --: | --: |",
        "| 1 | p | **1.5** | 2 | <3> † |",
        "| 1 | q | 4 | 5 | 6 |",
        "| 2 | p | 7 | 8 | 9 |",
        "",
        "After.",
    ]
    bare = TABLE._replace(name="", note="Means.")
    assert document.markdown([bare]).startswith("| ω |")
    assert document.markdown([bare]).endswith("\n\nMeans.\n")


def test_the_same_table_on_the_page():
    section = document.Section("S", [TABLE])
    text = document.to_html(document.Report("T", [], [section], [], []))
    grid = _Grid(text[text.index("<table>") : text.index("</table>")])
    rows = [[grid.at[i, j] for j in range(5)] for i in range(5)]
    assert rows == [
        ["ω", "name", "a & b", "", "c"],
        ["", "", "x", "y", ""],
        ["1", "p", "1.5", "2", "<3> †"],
        ["", "q", "4", "5", "6"],
        ["2", "p", "7", "8", "9"],
    ]
    assert max(grid.at) == (4, 4)
    # groups begin at columns 2 and 4; marks shade or are bold
    assert [grid.marks[2, j] for j in range(2, 5)] == ["n bold", "off far", "n"]
    assert text.count("<tbody>") == 2  # lines of one ω stand together
    assert "score (lower is better)</figcaption>" in text


def test_what_is_written_and_where(tmp_path):
    blocks = [
        document.Text("1 < 2"),
        document.Items(["a & b"]),
        document.Picture("fig", PNG, "What <it> shows"),
        document.Facts({"seed": "<7>"}),
    ]
    made = document.Report(
        "A <title>", [document.Text("Hello")], [document.Section("S", blocks)],
        [TABLE], [{"a": 0.1 + 0.2}, {"a": 1, "b, c": "x"}],
    )  # fmt: skip
    page = document.write(made, tmp_path, figures="pictures", tables="inner")
    assert page == str(tmp_path / "report.html")
    found = {str(p.relative_to(tmp_path)) for p in tmp_path.rglob("*") if p.is_file()}
    assert found == {
        "report.html", "pictures/fig.png", "inner/table.md", "inner/table.csv",
    }  # fmt: skip
    assert (tmp_path / "pictures/fig.png").read_bytes() == PNG
    text = (tmp_path / "report.html").read_text()
    for words in (
        "A &lt;title&gt;",
        "1 &lt; 2",
        "a &amp; b",
        "&lt;7&gt;",
        "&lt;it&gt;",
    ):
        assert words in text
    assert f'width="{600 * 100 // style.DPI}"' in text
    rows = list(csv.DictReader(io.StringIO((tmp_path / "inner/table.csv").read_text())))
    assert float(rows[0]["a"]) == 0.1 + 0.2 and rows[0]["b, c"] == ""
    assert rows[1] == {"a": "1", "b, c": "x"}


def test_what_is_no_block_is_an_error():
    section = document.Section("S", ["words"])
    with pytest.raises(TypeError, match="no block"):
        document.to_html(document.Report("T", [], [section], [], []))


@pytest.mark.parametrize(
    ("value", "error", "text"),
    [
        (2.96612, 0.0142, "2.966 ± 0.014"),
        (-0.3121, 0.0512, "−0.31 ± 0.05"),
        (3.1, 0.0354, "3.100 ± 0.035"),
        (3.1, 0.0356, "3.10 ± 0.04"),
        (1.2345, 0.0965, "1.23 ± 0.10"),
        (224.51, 12.3, "225 ± 12"),
        (2234.0, 123.0, "2230 ± 120"),
        (8.0, 4.4, "8 ± 4"),
        (0.0, 0.0, "0 ± 0"),
        (3.1234567, math.nan, "3.123 ± ?"),
        (0.5, 1e-5, "0.500000 ± 0.000010"),
    ],
)
def test_digits_follow_the_error(value, error, text):
    assert document.plus_minus(value, error) == text
