"""What guidance did, step by step."""

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib import figure as figures

from progguide_jax.plots import style

_COLOURS = ("#1f77b4", "#d62728", "#2ca02c", "#9467bd")


@style.styled
def trace(arrays: Mapping[str, np.ndarray], branches: Sequence[str]) -> figures.Figure:
    """omega asked for and applied, the size and the angle of the difference, and the
    network evaluations, against t; bands are one standard deviation over the images.

    arrays: t, evaluations [N] and, for each reference branch, BRANCH_omega,
    BRANCH_applied, BRANCH_delta, BRANCH_cosine with _std [N], as in trace.npz.
    """
    t = np.asarray(arrays["t"], np.float64)
    fig = figures.Figure(figsize=(9.6, 5.6))
    axes = fig.subplots(2, 2, sharex=True)
    panels = {
        "applied": "weight ω",
        "delta": "‖p_c − p_ref‖",
        "cosine": "cos(p_c, p_ref)",
    }
    for ax, (what, words) in zip(axes.flat, panels.items(), strict=False):
        for branch, colour in zip(branches, _COLOURS, strict=False):
            value = np.asarray(arrays[f"{branch}_{what}"], np.float64)
            spread = np.asarray(arrays[f"{branch}_{what}_std"], np.float64)
            label = f"{branch}: applied" if what == "applied" else branch
            ax.plot(t, value, color=colour, label=label, marker=".", ms=3)
            band = dict(color=colour, alpha=0.2, lw=0)
            ax.fill_between(t, value - spread, value + spread, **band)
            if what == "applied":
                asked = arrays[f"{branch}_omega"]
                ax.plot(t, asked, "k", ls=(0, (2, 2)), lw=1, label=f"{branch}: asked")
        ax.set_ylabel(words)
    axes[1, 1].step(t, arrays["evaluations"], where="mid", color="0.3")
    axes[1, 1].set(ylabel="network evaluations", ylim=(0, None))
    for ax in axes[1]:
        style.t_axis(ax, int(np.ceil(t.max())) + 1)
    style.legend_above(axes[0, 0])
    if len(branches) > 1:
        style.legend_above(axes[0, 1])
    return fig
