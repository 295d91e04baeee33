"""Scores of a sweep: trade-off, differences to static, intervals, steps, calibration.

rows: dicts with cell, schedule, scale, num_steps, interval, and scores and differences
{name: {"value", "error"}}. Every error bar is one standard error.
"""

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib import figure as figures
from matplotlib import patheffects, ticker

from progguide_jax.metrics import pareto
from progguide_jax.plots import style

_BARS = dict(elinewidth=0.8, capsize=0, ms=6, mec="white", mew=0.4)
_BASELINE = "static"
_EXTRACTORS = (  # colour, marker: none of the schedules' colours
    ("#1b1b1b", "o"),
    ("#e377c2", "s"),
    ("#17becf", "^"),
    ("#8c564b", "D"),
    ("#bcbd22", "v"),
    ("#7f7f7f", "P"),
)


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
    _refuse(rows, ("num_steps", "interval"), "tradeoff")
    fig = figures.Figure(figsize=(7.2, 4.8))
    ax = fig.subplots()
    groups = _by_schedule(rows)
    plain = [row for row in rows if row["scale"] == 0][:1]
    points = {}
    for name, mine in groups.items():
        mine = sorted(mine, key=lambda row: row["scale"])
        (px, ex), (py, ey) = _scores(mine, x), _scores(mine, y)
        colour, dashes, marker = style.schedule_look(name)
        ax.errorbar(
            px, py, yerr=ey, xerr=ex, color=colour, ls=dashes, marker=marker,
            label=name, **_BARS,
        )  # fmt: skip
        scales, line = [row["scale"] for row in mine], np.stack([px, py], axis=1)
        if plain and 0 not in scales:
            start = _scores(plain, x)[0][0], _scores(plain, y)[0][0]
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
    ax.set(xlabel=_axis(x, better[0]), ylabel=_axis(y, better[1]))
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
    _refuse(rows, ("num_steps", "interval"), "differences")
    fig = figures.Figure(figsize=(7.2, 3.6))
    ax = fig.subplots()
    ax.axhline(0, color=style.SCHEDULES[_BASELINE][0], lw=1, label=_BASELINE)
    groups = _by_schedule(rows)
    groups.pop(_BASELINE, None)
    _side_by_side(ax, groups, "scale", lambda mine: _differences(mine, score))
    ax.set(
        xlabel="guidance scale ω",
        ylabel=f"{score} minus static's\n({better} is better)",
    )
    style.legend_above(ax, columns=6)
    return fig


@style.styled
def steps(rows: Sequence[Mapping], score: str, better: str) -> figures.Figure:
    """Score against the number of sampling steps, a line per schedule (paper, Table 1).

    One panel where each schedule has one scale, else one for each scale.
    """
    _refuse(rows, ("interval",), "steps")
    groups = _by_schedule(rows)
    own = all(len({row["scale"] for row in mine}) == 1 for mine in groups.values())
    scales = sorted({row["scale"] for row in rows})
    panels = [None] if own else scales
    fig = figures.Figure(figsize=(max(5.4, 0.6 + 3.0 * len(panels)), 3.6))
    axes = fig.subplots(1, len(panels), sharey=True, squeeze=False)[0]
    for ax, scale in zip(axes, panels, strict=True):
        chosen = [row for row in rows if scale in (None, row["scale"])]
        groups = _by_schedule(chosen)
        if own and len(scales) > 1:
            labels = {name: f"{name}, ω = {g[0]['scale']:g}" for name, g in
                      groups.items()}  # fmt: skip
        else:
            labels = {name: name for name in groups}
            ax.set_title(f"ω = {scales[0] if own else scale:g}")
        _side_by_side(
            ax, groups, "num_steps", lambda mine: _scores(mine, score), labels, True
        )
        ax.set_xlabel("sampling steps")
    axes[0].set_ylabel(_axis(score, better))
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
    _interval_points(left, ends, *_scores(rows, score))
    (value,), (error,) = _scores([baseline], score)
    colour = style.SCHEDULES[_BASELINE][0]
    words = f"no interval, ω = {baseline['scale']:g}"
    left.axhspan(value - error, value + error, color=colour, alpha=0.25, lw=0)
    left.axhline(value, color=colour, lw=1, label=words)
    left.set_ylabel(_axis(score, better))
    for ax in right:
        _interval_points(ax, ends, *_differences(rows, score))
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
        label="ω = 0 on the interval", **_BARS,
    )  # fmt: skip


@style.styled
def calibration(
    curves: Mapping[str, Mapping[str, np.ndarray]], better: str = "lower"
) -> figures.Figure:
    """Scores of real images under Gaussian noise, against its standard deviation.

    curves: score name -> noise [n] in grey levels of 0 ... 255, value [n], error [n].
    The noise axis is linear up to its smallest positive value and logarithmic beyond,
    so that 0 (clean images) has a place; the scores are on a logarithm if positive.
    """
    fig = figures.Figure(figsize=(6.4, 4.0))
    ax = fig.subplots()
    lows = []
    looks = [_EXTRACTORS[i % len(_EXTRACTORS)] for i in range(len(curves))]
    for (name, curve), (colour, marker) in zip(curves.items(), looks, strict=True):
        noise, value, error = (
            np.asarray(curve[key], np.float64) for key in ("noise", "value", "error")
        )
        order = np.argsort(noise)
        ax.errorbar(
            noise[order], value[order], yerr=error[order], color=colour, marker=marker,
            label=name, **_BARS,
        )  # fmt: skip
        lows.append(np.nanmin(value - np.nan_to_num(error)))
    levels = np.unique(np.concatenate([curve["noise"] for curve in curves.values()]))
    positive = levels[levels > 0]
    if len(positive):
        ax.set_xscale("symlog", linthresh=positive[0], linscale=0.6)
        ax.xaxis.set_major_locator(ticker.FixedLocator(levels))
        ax.xaxis.set_major_formatter("{x:g}")
        ax.xaxis.set_minor_locator(ticker.NullLocator())
    if min(lows) > 0:
        ax.set_yscale("log")
    ax.set(
        xlabel="standard deviation of the noise in grey levels (0 = clean images)",
        ylabel=f"score ({better} is better)",
    )
    style.legend_above(ax, columns=min(len(curves), 4))
    return fig


def _side_by_side(ax, groups, over: str, read, labels=None, line=False) -> None:
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
            label=labels[name] if labels else name, **_BARS,
        )  # fmt: skip
    ax.set_xticks(range(len(places)), [f"{v:g}" for v in places])
    ax.set_xlim(-0.6, len(places) - 0.4)


def _by_schedule(rows) -> dict[str, list]:
    groups: dict[str, list] = {}
    for row in rows:
        groups.setdefault(row["schedule"], []).append(row)
    return groups


def _scores(rows, name: str):
    """(value [N], error [N]) of a score that every row has."""
    for row in rows:
        if name not in row["scores"]:
            raise ValueError(
                f"cell {row['cell']} has no score {name}: it has "
                f"{', '.join(row['scores']) or 'none'}"
            )
    return _columns(row["scores"][name] for row in rows)


def _differences(rows, name: str):
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


def _refuse(rows, keys: tuple[str, ...], figure: str) -> None:
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


def _axis(score: str, better: str) -> str:
    return f"{score} ({better} is better)"
