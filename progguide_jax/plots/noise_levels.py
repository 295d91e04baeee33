"""Scores of real images against the noise on them."""

from collections.abc import Mapping

import numpy as np
from matplotlib import figure as figures
from matplotlib import ticker

from progguide_jax.plots import score_rows, style

_EXTRACTORS = (  # colour, marker: none of the schedules' colours
    ("#1b1b1b", "o"),
    ("#e377c2", "s"),
    ("#17becf", "^"),
    ("#8c564b", "D"),
    ("#bcbd22", "v"),
    ("#7f7f7f", "P"),
)


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
            label=name, **score_rows.BARS,
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
