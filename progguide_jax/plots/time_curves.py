"""Curves over t or the training step."""

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib import figure as figures
from matplotlib import ticker

from progguide_jax.guidance import gradnorm as gradnorm_lib
from progguide_jax.guidance import schedules
from progguide_jax.plots import style


@style.styled
def gradnorm(arrays: Mapping[str, np.ndarray]) -> figures.Figure:
    """g(t) and G(t) before and after smoothing (paper, Fig. 4).

    arrays: t [T]; g, standard_error, G [K,T]; gn, gn_standard_error [T], as in
    curve.npz. G is divided by its mean over t, so that a constant weight is 1.
    """
    t, g = arrays["t"], np.asarray(arrays["g"], np.float64)
    smooth = gradnorm_lib.smoothed(g)
    fig = figures.Figure(figsize=(9.6, 3.6))
    left, right = fig.subplots(1, 2)
    _gradnorm_panel(left, t, g, smooth, arrays["standard_error"])
    _cumulative_panel(right, t, arrays, smooth)
    for ax in (left, right):
        style.t_axis(ax, len(t))
        ax.set_ylim(bottom=0)
    return fig


def _gradnorm_panel(ax, t, g, smooth, error) -> None:
    mean = g.mean(0)
    error = 2 * np.sqrt(np.square(error).sum(0)) / len(g)
    purple, red = style.SCHEDULES["gn_all"][0], style.SCHEDULES["gn"][0]
    ax.fill_between(
        t, mean - error, mean + error, color="0.85", lw=0, label="raw, ± 2 s.e."
    )
    ax.plot(t, mean, color="0.55", lw=0.5, label="raw, class mean")
    for i, row in enumerate(smooth):
        label = "smoothed, each class" if i == 0 else None
        ax.plot(t, row, color=purple, lw=0.7, alpha=0.8, label=label)
    ax.plot(t, smooth.mean(0), color=red, lw=1.8, label="smoothed, class mean")
    ax.set(title="gradient norm of the condition", ylabel="g(t)")
    style.legend_above(ax)


def _cumulative_panel(ax, t, arrays, smooth) -> None:
    for curve in (schedules.static, schedules.linear, schedules.cosine):
        name, curve = curve.__name__, curve(t / len(t))
        colour, dashes, _ = style.schedule_look(name)
        ax.plot(t, curve / curve.mean(), color=colour, ls=dashes, lw=1.2, label=name)
    purple, red = style.SCHEDULES["gn_all"][0], style.SCHEDULES["gn"][0]
    for i, row in enumerate(np.asarray(arrays["G"])):
        label = "G(t, c), gn_all" if i == 0 else None
        ax.plot(t, row / row.mean(), color=purple, lw=0.7, alpha=0.8, label=label)
    gn, error = arrays["gn"], 2 * arrays["gn_standard_error"]
    level = gn.mean()
    ax.fill_between(
        t, (gn - error) / level, (gn + error) / level, color=red, alpha=0.2, lw=0
    )
    ax.plot(t, gn / level, color=red, lw=1.8, label="G(t), gn, ± 2 s.e.")
    after = gradnorm_lib.cumulative(smooth.mean(0))
    ax.plot(
        t, after / after.mean(), color="black", ls=(0, (1, 3)), lw=1.2,
        label="G(t) of the smoothed g",
    )  # fmt: skip
    ax.set(title="cumulative, standardised", ylabel="G(t) / mean of G")
    style.legend_above(ax)


@style.styled
def omega_curves(
    timesteps: np.ndarray, curves: Mapping[str, np.ndarray]
) -> figures.Figure:
    """omega(t) of each schedule; curves: name -> [S], or [K,S] for one per class."""
    fig = figures.Figure(figsize=(5.4, 3.6))
    ax = fig.subplots()
    for name, omega in curves.items():
        colour, dashes, _ = style.schedule_look(name)
        for i, row in enumerate(np.atleast_2d(omega)):
            label = name if i == 0 else None
            ax.plot(timesteps, row, color=colour, ls=dashes, label=label)
    style.t_axis(ax, int(timesteps[0]))
    ax.set_ylabel("guidance weight ω(t)")
    ax.set_ylim(bottom=min(0, ax.get_ylim()[0]))
    style.legend_above(ax, columns=5)
    return fig


@style.styled
def closeness(arrays: Mapping[str, np.ndarray]) -> figures.Figure:
    """How far the network is from the exact answer, for each t.

    arrays [k]: t; bayes_cond, bayes_uncond, excess_cond, excess_uncond (mean squared
    error per pixel); delta_error, delta_signal (root mean square, class axis).
    """
    fig = figures.Figure(figsize=(9.6, 3.6))
    left, right = fig.subplots(1, 2)
    t = arrays["t"]
    for kind, colour, words in (
        ("cond", "#1f77b4", "with label"),
        ("uncond", "#ff7f0e", "without"),
    ):
        left.plot(
            t, arrays[f"bayes_{kind}"], color=colour, ls=(0, (4, 1.5)), lw=1,
            label=f"Bayes floor, {words}",
        )  # fmt: skip
        left.plot(
            t, arrays[f"excess_{kind}"], ".-", color=colour, ms=4,
            label=f"excess, {words}",
        )  # fmt: skip
    left.set(title="squared error of ε̂", ylabel="mean squared error per pixel")
    right.plot(
        t, arrays["delta_signal"], color="black", ls=(0, (4, 1.5)), lw=1,
        label="signal: exact difference",
    )  # fmt: skip
    right.plot(
        t,
        arrays["delta_error"],
        ".-",
        color="#d62728",
        ms=4,
        label="error of the network",
    )
    right.set(
        title=r"class axis of $\varepsilon_c - \varepsilon_u$, which ω multiplies",
        ylabel="root mean square",
    )
    for ax in (left, right):
        ax.set_yscale("log")
        style.t_axis(ax, int(t.max()))
        style.legend_above(ax)
    # the signal underflows near t = 0, where the classes are far apart
    shown = 1e-4 * arrays["delta_signal"].max()
    right.set_ylim(bottom=max(right.get_ylim()[0], shown))
    return fig


@style.styled
def loss_curve(rows: Sequence[Mapping], floor: float | None = None) -> figures.Figure:
    """Training loss and gradient norm against the step.

    rows: the lines of metrics.jsonl that hold step, loss and grad_norm; floor: the loss
    of the exact score.
    """
    fig = figures.Figure(figsize=(9.6, 3.0))
    panels = fig.subplots(1, 2)
    rows = [row for row in rows if "loss" in row]
    step = np.array([row["step"] for row in rows])
    for ax, key, label in zip(
        panels, ("loss", "grad_norm"), ("loss", "gradient norm"), strict=True
    ):
        values = np.array([row[key] for row in rows], np.float64)
        ax.plot(step, values, color="0.7", lw=0.7, label=label)
        smooth = gradnorm_lib.smoothed(values, max(1, len(values) // 20))
        ax.plot(step, smooth, color="#1f77b4", label="moving average")
        ax.set_yscale("log")
        ax.yaxis.set_major_locator(ticker.LogLocator(subs=(1, 2, 5)))
        ax.yaxis.set_major_formatter("{x:g}")
        ax.yaxis.set_minor_formatter(ticker.NullFormatter())
        ax.set(xlabel="training step", ylabel=label)
    if floor is not None:
        panels[0].axhline(
            floor, color="black", ls=(0, (4, 1.5)), lw=1, label="exact score"
        )
    for ax in panels:
        style.legend_above(ax, columns=3)
    return fig
