"""The page of all methods, docs/zoo.md, from the registries and their docstrings.

python -m progguide_jax.guidance.zoo > docs/zoo.md
"""

import inspect
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from progguide_jax import registry
from progguide_jax.diffusion import solvers, tilted
from progguide_jax.guidance import projections, references, rules, schedules


class Chapter(NamedTuple):
    """A registry on the page: its columns are fields of `registry.FIELDS`; extra has a
    column more, {entry: words}."""

    title: str
    words: str
    entries: Mapping[str, Callable]
    columns: tuple[str, ...]
    extra: tuple[str, Mapping[str, str]] | None = None


_INTRODUCTION = """\
<!-- made by: python -m progguide_jax.guidance.zoo -->

# The zoo

{count} entries, {cited} of them from papers: each is one function and one line in a
registry. Any schedule goes with any reference, rule, projection and solver:

    python sample.py --workdir=runs/cifar10 --config.guidance.schedule=linear \\
        --config.guidance.references=null --config.guidance.rule=apg \\
        --config.guidance.apg.momentum=-0.5 --config.sample.solver=heun

The settings in brackets are keys of the config section of the entry's name, and
parameters of the function of that name (`rules.apg(momentum=-0.5)`). p_c and p_u are
the predictions with and without the condition, Δ is p_c − p_u, ω its weight in
p_c + ω Δ: 0 is the conditional model, −1 the unconditional one, and most papers write
w = 1 + ω. x0 and eps are the two faces of a prediction of x_t = alpha x0 + sigma eps.
"""

# {method: why it is no entry}
NOT_BUILT = {
    "SGG (Yuan et al. 2026, arXiv:2603.20584)": "the authors' code guides against the "
    "unconditional network until some step and against one with layers left out from "
    "there on. Those are two references, each with a schedule: `guidance.references="
    "null,s2`, `guidance.schedule=interval`, `guidance.s2.schedule=neg_perturb` and "
    "the same t_min for both, so that one is 0 where the other is not. Their training, "
    "in which the guided prediction is the target, is not here.",
    "Z-sampling (Bai et al. 2024, arXiv:2412.10891)": "goes a step back without "
    "guidance and forward again with it: `fsg` with interval 0 and every step in "
    "`starts` does so forward first, between x_t and the next level.",
    "MG (arXiv:2502.12154) and GFT (arXiv:2501.15420)": "learn the guided prediction: "
    "they are training targets, and sample without guidance.",
    "Learn to Guide (arXiv:2510.00815), annealing guidance (Yehezkel et al. 2025)": "a "
    "small network that gives the weight. What it gives on a grid is a table: "
    '`schedules.make("table", ...)`; its training is not here.',
}


def _of_one() -> str:
    """The rules that take one reference only."""
    entries = rules.RULES.items()
    *first, last = [f"`{k}`" for k, e in entries if e.make().references == "one"]
    return f"{', '.join(first)} and {last}"


def chapters() -> list[Chapter]:
    """What the page shows, in its order."""
    orders = {
        name: "–" if entry.order is None else str(entry.order)
        for name, entry in solvers.SOLVERS.items()
    }
    means = {
        name: {"sampling": "ω", "none": "as it is"}[entry.normalize]
        for name, entry in schedules.SCHEDULES.items()
    }
    return [
        Chapter(
            "Schedules: when",
            "ω(t) is the guidance scale times g(τ), τ = t / T, 1 at noise. A schedule "
            "is scaled so that its mean over the sampling steps is ω, or taken as it "
            "is; `guidance.normalize` changes that. None costs an evaluation and all "
            "act in any space; at scale 0 each is the conditional model.",
            {name: entry.curve for name, entry in schedules.SCHEDULES.items()},
            ("Formula",),
            ("mean", means),
        ),
        Chapter(
            "References: against what",
            "Guidance moves the prediction away from p_ref; several may be used at "
            "once, each with a schedule and a scale of its own "
            "(`guidance.NAME.schedule`, `guidance.NAME.scale`; null has those of "
            "`guidance`).",
            {name: entry.make for name, entry in references.REFERENCES.items()},
            ("Formula", "Space", "Cost", "Neutral"),
        ),
        Chapter(
            "Rules: how",
            "What is made of the predictions. Neutral is the setting at which a rule "
            "is CFG or the conditional model; a test holds each to it. Of several "
            "references `cfg` takes each by its own ω_k; the others see their weighted "
            "mean, p_u = Σ ω_k p_k / Σ ω_k, with ω = Σ ω_k, so that ω Δ is the sum of "
            f"all; {_of_one()} take one only.",
            {name: entry.make for name, entry in rules.RULES.items()},
            ("Formula", "Space", "Cost", "Neutral"),
        ),
        Chapter(
            "Projections: what x0 may be",
            "x0 is moved and eps derived from it again.",
            projections.PROJECTIONS,
            ("Formula", "Neutral"),
        ),
        Chapter(
            "Solvers: the step",
            "The order is that of the error in the step size, with and without "
            "guidance; a test measures it.",
            {name: entry.make for name, entry in solvers.SOLVERS.items()},
            ("Formula", "Cost"),
            ("order", orders),
        ),
        Chapter(
            "Samplers of the tilted density",
            "CFG does not sample p_c^(1 + ω) p_u^(−ω), whose score it follows; these "
            "aim at it: `--config.sample.tilted=NAME`, with the settings in the "
            "section `sample.NAME`, or `tilted.sample(name, branches, x_T, levels, "
            "omega=, key=)` of `progguide_jax.diffusion.tilted`. By a command `fkc` "
            "draws `particles` of each image and keeps one.",
            {name: entry.make for name, entry in tilted.TILTED.items()},
            ("Formula", "Cost", "Neutral"),
        ),
    ]


def page() -> str:
    """docs/zoo.md."""
    found = chapters()
    titles = [card["Title"] for c in found for card in _cards(c).values()]
    cited = sum("arXiv" in title or "the paper" in title for title in titles)
    parts = [
        _INTRODUCTION.format(count=len(titles), cited=cited),
        *map(_table, found),
    ]
    for field, title in (
        ("Convention", "What the papers call ω"),
        ("Deviation", "Where papers, public code and this differ"),
        ("Source", "Where a formula was read, if not in the paper"),
    ):
        lines = [
            f"- **{name}**: {card[field]}."
            for chapter in found
            for name, card in _cards(chapter).items()
            if field in card
        ]
        parts.append("\n".join([f"## {title}\n", *lines, ""]))
    lines = [f"- **{method}**: {why}" for method, why in NOT_BUILT.items()]
    parts.append("\n".join(["## Not built, and why\n", *lines, ""]))
    return "\n".join(parts)


def _cards(chapter: Chapter) -> dict[str, dict[str, str]]:
    return {name: registry.card(make) for name, make in chapter.entries.items()}


def _table(chapter: Chapter) -> str:
    extra, values = chapter.extra or ("", {})
    head = ["method", *chapter.columns, *([extra] if extra else [])]
    rows = [head, ["---"] * len(head)]
    for name, card in _cards(chapter).items():
        first = f"`{name}`{_settings(chapter.entries[name])}<br>{card['Title']}"
        cells = [first, *(card.get(field, "–") for field in chapter.columns)]
        cells += [values[name]] if extra else []
        rows.append([cell.replace("|", "\\|") for cell in cells])
    lines = [f"| {' | '.join(row)} |" for row in rows]
    return "\n".join([f"## {chapter.title}\n", f"{chapter.words}\n", *lines, ""])


def _settings(factory: Callable) -> str:
    parameters = inspect.signature(factory).parameters.values()
    empty, rest = inspect.Parameter.empty, inspect.Parameter.VAR_KEYWORD
    shown = [
        f"{p.name}={_short(p.default)}"
        for p in parameters
        if p.default is not empty and p.kind is not rest
    ]
    return f" ({', '.join(shown)})" if shown else ""


def _short(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else repr(value)


if __name__ == "__main__":
    print(page(), end="")
