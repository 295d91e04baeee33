"""Scores of a sweep over schedules and scales: trade-off, differences to static.

rows: as `score_rows` says. Every error bar is one standard error.
"""

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib import figure as figures
from matplotlib import patheffects

from progguide_jax.metrics import pareto
from progguide_jax.plots import score_rows, style


@style.styled
def tradeoff(
    rows: Sequence[Mapping],
    x: str,
    y: str,
    better: tuple[str, str] = ("higher", "lower"),
) -> figures.Figure:
    """Score y against score x, a line per schedule over the scales (paper, Fig. 5).

    better: which values of x and of y are good, "lower" or "higher". Rings mark the
    cells that no other cell beats in both; the scales stand along the first schedule.
    A cell of scale 0, plain conditional sampling, is where every line begins.
    """
    score_rows.refuse(rows, ("num_steps", "interval"), "tradeoff")
    fig = figures.Figure(figsize=(7.2, 4.8))
    ax = fig.subplots()
    groups = score_rows.by_schedule(rows)
    plain = [row for row in rows if row["scale"] == 0][:1]
    points = {}
    for name, mine in groups.items():
        mine = sorted(mine, key=lambda row: row["scale"])
        (px, ex), (py, ey) = score_rows.scores(mine, x), score_rows.scores(mine, y)
        colour, dashes, marker = style.schedule_look(name)
        ax.errorbar(
            px, py, yerr=ey, xerr=ex, color=colour, ls=dashes, marker=marker,
            label=name, **score_rows.BARS,
        )  # fmt: skip
        scales, line = [row["scale"] for row in mine], np.stack([px, py], axis=1)
        if plain and 0 not in scales:
            start = score_rows.scores(plain, x)[0][0], score_rows.scores(plain, y)[0][0]
            scales, line = [0, *scales], np.concatenate([[start], line])
            ax.plot(*line[:2].T, color=colour, ls=dashes)
        points[name] = scales, line
    every = np.concatenate([where for _, where in points.values()])
    every = every[np.isfinite(every).all(1)]
    if len(every):
        best = every[pareto.front(every, better)].T
        ring = dict(ms=11, mfc="none", mec="black", mew=0.8, label="Pareto-optimal")
        ax.plot(*best, "o", **ring)
    ax.margins(0.08)
    _label_scales(ax, points)
    ax.set(xlabel=score_rows.axis(x, better[0]), ylabel=score_rows.axis(y, better[1]))
    style.legend_above(ax, columns=6)
    return fig


def _label_scales(ax, points: Mapping) -> None:
    """The scales along the first schedule, each in the corner of the cross of its
    error bars that lies farthest from all lines."""
    # 72 points an inch, and the axes fill nearly all of the figure
    low, high = np.sort(np.stack([ax.get_xlim(), ax.get_ylim()]), axis=1).T
    unit = (high - low) / (72 * ax.figure.get_size_inches())
    share = np.linspace(0, 1, 20)[:, None, None]
    drawn = []
    for _, line in points.values():
        following = np.append(line[1:], line[-1:], axis=0)
        drawn.append(((1 - share) * line + share * following).reshape(-1, 2))
    drawn = np.concatenate(drawn)
    drawn = drawn[np.isfinite(drawn).all(1)] / unit
    scales, mine = next(iter(points.values()))
    corners = np.array([(-1, 1), (1, 1), (-1, -1), (1, -1)])
    for i, (scale, point) in enumerate(zip(scales, mine, strict=True)):
        if not np.isfinite(point).all():
            continue
        words = f"ω = {scale:g}" if i in (0, len(scales) - 1) else f"{scale:g}"
        middles = point / unit + corners * (4.5 + 2.2 * len(words), 8.5)
        gaps = np.linalg.norm(middles[:, None] - drawn[None], axis=-1).min(1)
        away = corners[np.argmax(gaps)]
        ax.annotate(
            words, point, 4.5 * away, textcoords="offset points", fontsize=7.5,
            color="0.25", ha="left" if away[0] > 0 else "right",
            va="bottom" if away[1] > 0 else "top",
            path_effects=[patheffects.withStroke(linewidth=2, foreground="white")],
        )  # fmt: skip


@style.styled
def differences(rows: Sequence[Mapping], score: str, better: str) -> figures.Figure:
    """Score minus that of static at the same scale, with the paired error.

    The schedules stand side by side at each scale; rows of static are the zero line.
    """
    score_rows.refuse(rows, ("num_steps", "interval"), "differences")
    fig = figures.Figure(figsize=(7.2, 3.6))
    ax = fig.subplots()
    ax.axhline(0, color=style.SCHEDULES["static"][0], lw=1, label="static")
    groups = score_rows.by_schedule(rows)
    groups.pop("static", None)
    score_rows.side_by_side(
        ax, groups, "scale", lambda mine: score_rows.differences(mine, score)
    )
    ax.set(
        xlabel="guidance scale ω",
        ylabel=f"{score} minus static's\n({better} is better)",
    )
    style.legend_above(ax, columns=6)
    return fig
