"""Many small panels on one scale: curves of schedules, trajectories of methods."""

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib import figure as figures

from progguide_jax.plots import style

_COLUMNS = 6


def _panels(count: int, height: float) -> tuple[figures.Figure, list]:
    rows = -(-count // _COLUMNS)
    fig = figures.Figure(figsize=(11.4, 0.5 + height * rows))
    axes = fig.subplots(rows, _COLUMNS, sharex=True, squeeze=False).ravel()
    for ax in axes[count:]:
        ax.set_visible(False)
    for ax in axes[max(count - _COLUMNS, 0) : count]:  # nothing is below them
        ax.tick_params(labelbottom=True)
    return fig, list(axes[:count])


@style.styled
def curves(
    timesteps: np.ndarray, omega: Mapping[str, np.ndarray], num_timesteps: int
) -> figures.Figure:
    """omega(t) of each schedule, a panel each; omega: name -> [S] or [K,S]."""
    fig, axes = _panels(len(omega), 1.35)
    for ax, (name, values) in zip(axes, omega.items(), strict=True):
        rows = np.atleast_2d(values)
        for row in rows:
            ax.step(timesteps, row, where="mid", lw=1.3, color="#1f77b4")
        ax.axhline(0, color="0.6", lw=0.6)
        if rows.min() >= 0:
            ax.set_ylim(0, 1.08 * rows.max())
        ax.set_title(name)
        ax.set_xlim(num_timesteps, 0)
        ax.tick_params(labelsize=7)
    fig.supxlabel(style.NOISE_AT_LEFT, fontsize=9)
    fig.supylabel("weight ω", fontsize=9)
    return fig


@style.styled
def paths(
    times: np.ndarray,
    axis: Mapping[str, np.ndarray],
    centre: float,
    shown: Sequence[int],
    num_timesteps: int,
) -> figures.Figure:
    """Trajectories on the class axis, a panel a method, over those of the first one
    (grey). times [S+1]; axis: name -> [S+1,B]; shown: which of B, dark and bright by
    turns; the classes' means are at +-centre."""
    fig, axes = _panels(len(axis), 1.6)
    first = next(iter(axis.values()))
    height = 1.05 * max(
        np.abs(a[:, shown]).max() for a in (first, 2.2 * centre + 0 * first)
    )
    for ax, (name, values) in zip(axes, axis.items(), strict=True):
        for i in shown:
            ax.plot(times, first[:, i], color="0.75", lw=0.7)
        for i in shown:
            colour = style.CLASSES[i % 2][1]
            ax.plot(times, values[:, i], color=colour, lw=0.8, alpha=0.9)
        for end in (-centre, centre):
            ax.axhline(end, color="black", lw=0.5, ls=(0, (3, 2)))
        ax.set_title(name)
        ax.set_xlim(num_timesteps, 0)
        ax.set_ylim(-height, height)
        ax.tick_params(labelsize=7)
    fig.supxlabel(style.NOISE_AT_LEFT, fontsize=9)
    fig.supylabel("class axis of x_t", fontsize=9)
    return fig
