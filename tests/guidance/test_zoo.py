"""docs/zoo.md is what the registries say."""

import pathlib
import re

import pytest

from progguide_jax.guidance import references, rules, schedules, zoo

ROOT = pathlib.Path(__file__).parents[2]
PAGE = ROOT / "docs" / "zoo.md"
NEEDED = {
    "Schedules": {"Formula", "Convention"},
    "References": {"Formula", "Cost", "Neutral"},
    "Rules": {"Formula", "Convention", "Space", "Cost", "Neutral"},
    "Projections": {"Formula", "Neutral"},
    "Solvers": {"Formula", "Cost"},
    "Samplers of the tilted density": {"Formula", "Convention", "Cost", "Neutral"},
}


def test_the_page_is_up_to_date():
    assert PAGE.read_text() == zoo.page(), (
        "type: python -m progguide_jax.guidance.zoo > docs/zoo.md"
    )


@pytest.mark.parametrize("chapter", zoo.chapters(), ids=lambda f: f.title.split(":")[0])
def test_every_entry_says_what_it_is(chapter):
    needed = NEEDED[chapter.title.split(":")[0]]
    for name, factory in chapter.entries.items():
        card = zoo.registry.card(factory)
        assert needed <= set(card), name
        assert card["Title"], name


def test_the_rows_are_whole():
    """Every table has as many cells in each row as in its head, whatever a formula
    holds."""
    width = 0
    for line in PAGE.read_text().splitlines():
        if not line.startswith("|"):
            width = 0
            continue
        cells = len(re.split(r"(?<!\\)\|", line)) - 2
        width = width or cells
        assert cells == width, line


@pytest.mark.parametrize(
    ("row", "registry"),
    [("schedules", schedules), ("references", references), ("rules", rules)],
)
def test_readme_counts_them(row, registry):
    """ "static, linear, 20 more": names that there are, and as many more."""
    text = (ROOT / "README.md").read_text()
    (cells,) = re.findall(rf"^\| {row}, [^|]*\| ([^|]*) \|", text, re.MULTILINE)
    *listed, more = cells.split(", ")
    assert set(listed) <= set(registry.names())
    assert more == f"{len(registry.names()) - len(listed)} more"
