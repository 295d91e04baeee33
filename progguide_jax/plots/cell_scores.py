"""Scores of a sweep along one axis: steps, intervals, the cells by name.

rows: as `score_rows` says. Every error bar is one standard error.
"""

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib import figure as figures

from progguide_jax.plots import score_rows, style

_FIRST = style.SCHEDULES["static"][0]


@style.styled
def steps(rows: Sequence[Mapping], score: str, better: str) -> figures.Figure:
    """Score against the number of sampling steps, a line per schedule (paper, Table 1).

    One panel where each schedule has one scale, else one for each scale.
    """
    score_rows.refuse(rows, ("interval",), "steps")
    groups = score_rows.by_schedule(rows)
    own = all(len({row["scale"] for row in mine}) == 1 for mine in groups.values())
    scales = sorted({row["scale"] for row in rows})
    panels = [None] if own else scales
    fig = figures.Figure(figsize=(max(5.4, 0.6 + 3.0 * len(panels)), 3.6))
    axes = fig.subplots(1, len(panels), sharey=True, squeeze=False)[0]
    for ax, scale in zip(axes, panels, strict=True):
        chosen = [row for row in rows if scale in (None, row["scale"])]
        groups = score_rows.by_schedule(chosen)
        if own and len(scales) > 1:
            labels = {name: f"{name}, ω = {g[0]['scale']:g}" for name, g in
                      groups.items()}  # fmt: skip
        else:
            labels = {name: name for name in groups}
            ax.set_title(f"ω = {scales[0] if own else scale:g}")
        score_rows.side_by_side(
            ax,
            groups,
            "num_steps",
            lambda mine: score_rows.scores(mine, score),
            labels,
            True,
        )
        ax.set_xlabel("sampling steps")
    axes[0].set_ylabel(score_rows.axis(score, better))
    if own:
        style.legend_above(axes[0], columns=min(len(groups), 5 if scales[1:] else 6))
    else:
        style.legend_of_figure(fig, dict(enumerate(axes)))
    return fig


@style.styled
def intervals(
    rows: Sequence[Mapping],
    score: str,
    baseline: Mapping,
    better: str,
    num_timesteps: int = 1000,
) -> figures.Figure:
    """Score with ω = 0 on one interval of t at a time (paper, Fig. 7b), noise at left.

    rows with an interval (first t, last t), the others are left out; baseline: the row
    of the same guidance without one. Right, where the rows have it: the paired
    difference, whose error is smaller than those of the two scores.
    """
    rows = [row for row in rows if row["interval"] is not None]
    if not rows:
        raise ValueError("intervals: no row has an interval: run such cells first")
    paired = all(score in row["differences"] for row in rows)
    fig = figures.Figure(figsize=(9.6 if paired else 6.4, 3.6))
    left, *right = fig.subplots(1, 1 + paired, squeeze=False)[0]
    ends = np.array([row["interval"] for row in rows]) + np.array([[0, 1]])
    _interval_points(left, ends, *score_rows.scores(rows, score))
    (value,), (error,) = score_rows.scores([baseline], score)
    colour = style.SCHEDULES["static"][0]
    words = f"no interval, ω = {baseline['scale']:g}"
    left.axhspan(value - error, value + error, color=colour, alpha=0.25, lw=0)
    left.axhline(value, color=colour, lw=1, label=words)
    left.set_ylabel(score_rows.axis(score, better))
    for ax in right:
        _interval_points(ax, ends, *score_rows.differences(rows, score))
        ax.axhline(0, color=colour, lw=1, label=words)
        ax.set_ylabel(f"{score} minus that of no interval")
    for ax in (left, *right):
        style.t_axis(ax, num_timesteps)
        style.legend_above(ax)
    return fig


def _interval_points(ax, ends, value, error) -> None:
    middle, half = ends.mean(1), np.ptp(ends, axis=1) / 2
    ax.errorbar(
        middle, value, yerr=error, xerr=half, fmt="o", color="#1b1b1b",
        label="ω = 0 on the interval", **score_rows.BARS,
    )  # fmt: skip


@style.styled
def cells(rows: Sequence[Mapping], score: str, better: str) -> figures.Figure:
    """Score of every cell, one below the other, and beside it the paired difference to
    the first cell, which is the blue line."""
    score_rows.refuse(rows, (), "cells")
    paired = all(score in row["differences"] for row in rows[1:]) and len(rows) > 1
    fig = figures.Figure(figsize=(9.6 if paired else 6.4, 1.0 + 0.32 * len(rows)))
    left, *right = fig.subplots(1, 1 + paired, sharey=True, squeeze=False)[0]
    place = np.arange(len(rows))
    value, error = score_rows.scores(rows, score)
    look = dict(fmt="o", color="#1b1b1b", **score_rows.BARS)
    left.errorbar(value, place, xerr=error, **look)
    left.axvline(value[0], color=_FIRST, lw=1)
    left.set_xlabel(score_rows.axis(score, better))
    left.set_yticks(place, [row["cell"] for row in rows])
    left.set_ylim(len(rows) - 0.5, -0.5)
    for ax in right:
        value, error = score_rows.differences(rows[1:], score)
        ax.errorbar(value, place[1:], xerr=error, **look)
        ax.axvline(0, color=_FIRST, lw=1)
        ax.set_xlabel(f"{score} minus that of {rows[0]['cell']}")
    return fig
