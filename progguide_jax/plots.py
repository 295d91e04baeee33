"""Figures: arrays in, a matplotlib Figure out; `png` turns one into bytes.

The colours are the paper's: static blue, linear orange, cosine green, gn red, gn_all
purple; class 0 (dark) blue, class 1 (bright) red. Line styles say the same again for
readers who cannot tell the colours apart. The t axis runs as sampling does, noise (T)
on the left and data (0) on the right.
"""

import functools
import io
from collections.abc import Callable, Mapping, Sequence

import matplotlib.style
import numpy as np
from matplotlib import figure as figures
from matplotlib import ticker

from progguide_jax.guidance import gradnorm as gradnorm_lib
from progguide_jax.guidance import schedules

DPI = 150

_STYLE = {
    "font.family": "DejaVu Sans",
    "font.size": 9,
    "axes.titlesize": 9,
    "axes.labelsize": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.linewidth": 0.7,
    "axes.axisbelow": True,
    "xtick.labelsize": 8,
    "ytick.labelsize": 8,
    "xtick.major.width": 0.7,
    "ytick.major.width": 0.7,
    "legend.fontsize": 8,
    "legend.frameon": False,
    "lines.linewidth": 1.4,
    "lines.solid_capstyle": "round",
    "figure.constrained_layout.use": True,
}

_SCHEDULES = {  # colour, dashes, marker
    "static": ("#1f77b4", "-", "o"),
    "linear": ("#ff7f0e", (0, (6, 1.5)), "s"),
    "cosine": ("#2ca02c", (0, (4, 1.2, 1, 1.2)), "^"),
    "gn": ("#d62728", (0, (2, 1)), "D"),
    "gn_all": ("#9467bd", (0, (1, 1)), "v"),
}
_OTHERS = ("#8c564b", "#e377c2", "#7f7f7f", "#bcbd22", "#17becf")
_CLASSES = (("dark", "#2166ac"), ("bright", "#b2182b"))  # label 0 and 1
_EXACT = dict(color="black", lw=0.6, ls=(0, (3, 2)), label="exact score, same noise")
_NOISE_AT_LEFT = "timestep t   (noise at the left: sampling runs T → 0)"


def _styled(draw: Callable) -> Callable:
    """draw under this file's style, whatever style is set outside."""

    @functools.wraps(draw)
    def wrapped(*args, **kwargs):
        with matplotlib.style.context(["default", _STYLE]):
            return draw(*args, **kwargs)

    return wrapped


def png(figure: figures.Figure, dpi: int = DPI) -> bytes:
    """The figure as PNG; equal figures give equal bytes."""
    buffer = io.BytesIO()
    with matplotlib.style.context(["default", _STYLE]):
        figure.savefig(buffer, format="png", dpi=dpi, metadata={"Software": None})
    return buffer.getvalue()


@_styled
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
        _t_axis(ax, len(t))
        ax.set_ylim(bottom=0)
    return fig


def _gradnorm_panel(ax, t, g, smooth, error) -> None:
    mean = g.mean(0)
    error = 2 * np.sqrt(np.square(error).sum(0)) / len(g)
    purple, red = _SCHEDULES["gn_all"][0], _SCHEDULES["gn"][0]
    ax.fill_between(
        t, mean - error, mean + error, color="0.85", lw=0, label="raw, ± 2 s.e."
    )
    ax.plot(t, mean, color="0.55", lw=0.5, label="raw, class mean")
    for i, row in enumerate(smooth):
        label = "smoothed, each class" if i == 0 else None
        ax.plot(t, row, color=purple, lw=0.7, alpha=0.8, label=label)
    ax.plot(t, smooth.mean(0), color=red, lw=1.8, label="smoothed, class mean")
    ax.set(title="gradient norm of the condition", ylabel="g(t)")
    _legend_above(ax)


def _cumulative_panel(ax, t, arrays, smooth) -> None:
    for curve in (schedules.static, schedules.linear, schedules.cosine):
        name, curve = curve.__name__, curve(t / len(t))
        colour, dashes, _ = _schedule_look(name)
        ax.plot(t, curve / curve.mean(), color=colour, ls=dashes, lw=1.2, label=name)
    purple, red = _SCHEDULES["gn_all"][0], _SCHEDULES["gn"][0]
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
    _legend_above(ax)


def _schedule_look(name: str) -> tuple:
    """(colour, dashes, marker) of a schedule; the same for the same name."""
    if name in _SCHEDULES:
        return _SCHEDULES[name]
    dashes, rank = divmod(schedules.names().index(name), len(_OTHERS))
    return _OTHERS[rank], ("-", "--", ":")[dashes], "x"


def _t_axis(ax, num_timesteps: int) -> None:
    ax.set_xlim(num_timesteps, 0)
    ax.set_xlabel(_NOISE_AT_LEFT)


def _legend_above(ax, columns: int = 2) -> None:
    """A legend between the title and the axes, where it covers no data."""
    title = ax.get_title()
    ax.set_title("")
    ax.legend(
        loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=columns, title=title,
        title_fontsize=9.5, borderaxespad=0.2, columnspacing=1.5, handlelength=2.4,
    )  # fmt: skip


@_styled
def omega_curves(
    timesteps: np.ndarray, curves: Mapping[str, np.ndarray]
) -> figures.Figure:
    """omega(t) of each schedule; curves: name -> [S], or [K,S] for one per class."""
    fig = figures.Figure(figsize=(5.4, 3.6))
    ax = fig.subplots()
    for name, omega in curves.items():
        colour, dashes, _ = _schedule_look(name)
        for i, row in enumerate(np.atleast_2d(omega)):
            label = name if i == 0 else None
            ax.plot(timesteps, row, color=colour, ls=dashes, label=label)
    _t_axis(ax, int(timesteps[0]))
    ax.set_ylabel("guidance weight ω(t)")
    ax.set_ylim(bottom=min(0, ax.get_ylim()[0]))
    _legend_above(ax, columns=5)
    return fig


@_styled
def data_pca(
    plane: np.ndarray,
    labels: np.ndarray,
    images: np.ndarray,
    image_labels: np.ndarray,
    explained: np.ndarray,
    per_class: int = 4,
) -> figures.Figure:
    """Real data in the PCA plane and a few images of each class (paper, Fig. 2 left).

    plane [n,2], labels [n]; images [m,H,W,C], image_labels [m]; explained [2], the
    share of the variance of each component. One grey (or colour) scale for all images.
    """
    fig = figures.Figure(figsize=(9.6, 3.2))
    grid = fig.add_gridspec(
        2, 1 + per_class, width_ratios=[3.4] + [1] * per_class, wspace=0.08
    )
    ax = fig.add_subplot(grid[:, 0])
    for label, (name, colour) in enumerate(_CLASSES):
        points = plane[labels == label]
        ax.scatter(*points.T, s=3, lw=0, alpha=0.35, color=colour, label=name)
    ax.set_xlabel(f"first component ({explained[0]:.1%} of the variance)")
    ax.set_ylabel(f"second component ({explained[1]:.2%})")
    _legend_above(ax)
    _solid_dots(ax.get_legend())
    bound = np.quantile(np.abs(images), 0.999)
    for row, (name, colour) in enumerate(_CLASSES):
        chosen = images[image_labels == row][:per_class]
        for i, image in enumerate(chosen):
            ax = fig.add_subplot(grid[row, 1 + i])
            shown = np.clip((image / bound + 1) / 2, 0, 1)
            ax.imshow(
                shown if image.shape[-1] == 3 else shown[..., 0],
                cmap="gray", vmin=0, vmax=1,
            )  # fmt: skip
            ax.set(xticks=[], yticks=[])
            for spine in ax.spines.values():
                spine.set(visible=True, color=colour)
            if i == 0:
                ax.set_ylabel(name, color=colour)
    return fig


Cells = Mapping[tuple[str, float], Mapping[str, np.ndarray]]


@_styled
def distributions(cells: Cells, real: np.ndarray) -> figures.Figure:
    """Final points of the network over the exact ones (paper, Fig. 2 and 3, first row).

    cells: (schedule, scale) -> labels [n], network_plane and oracle_plane [n,2]; real
    [k,2], the data in the same plane. One row per schedule, one column per scale.
    """
    fig, axes = _cell_grid(cells)
    limits = [_limits(cells, "plane", i, real[:, i]) for i in (0, 1)]
    for key, ax in axes.items():
        cell = cells[key]
        classes = [(cell["labels"] == i, *look) for i, look in enumerate(_CLASSES)]
        ax.scatter(*real.T, s=2, lw=0, color="0.85", label="real data")
        for mine, name, colour in classes:
            points = cell["network_plane"][mine].T
            size = np.clip(1000 / points.shape[1], 3, 12)
            words = f"network, {name}"
            ax.scatter(*points, s=size, lw=0, alpha=0.6, color=colour, label=words)
        for mine, _, _ in classes:
            for sigmas in (1, 2):
                ellipse = _ellipse(cell["oracle_plane"][mine], sigmas)
                ax.plot(*ellipse.T, color="black", lw=0.6, label="exact, 1 and 2 σ")
        ax.set(xlim=limits[0], ylim=limits[1])
        _note_outside(ax, cell["network_plane"])
    _label_plane(fig)
    _legend_of_figure(fig, axes)
    return fig


@_styled
def trajectories(cells: Cells, per_class: int = 6) -> figures.Figure:
    """Whole paths from noise to data in the PCA plane (paper, Fig. 2 and 3).

    cells: (schedule, scale) -> labels [n], network_paths and oracle_paths [S+1,m,2] of
    the first m images; the first `per_class` of each class are drawn.
    """
    fig, axes = _cell_grid(cells)
    limits = [_limits(cells, "paths", i) for i in (0, 1)]
    for key, ax in axes.items():
        network, exact = cells[key]["network_paths"], cells[key]["oracle_paths"]
        drawn = _first_of_each(cells[key], network.shape[1], per_class)
        for i, name, colour in drawn:
            ax.plot(*network[:, i].T, color=colour, lw=0.8, label=f"network, {name}")
        for i, _, colour in drawn:
            ax.plot(*exact[:, i].T, **_EXACT)
            ax.plot(*network[0, i], ".", color="0.5", ms=3, label="start, t = T")
            end = network[-1, i]
            ax.plot(*end, "o", color=colour, ms=3, mec="white", mew=0.4, zorder=3)
        ax.set(xlim=limits[0], ylim=limits[1])
        _note_outside(ax, network[:, [i for i, _, _ in drawn]])
    _label_plane(fig)
    _legend_of_figure(fig, axes)
    return fig


@_styled
def zoom(cells: Cells, scale: float) -> figures.Figure:
    """One path per class under every schedule at one scale (paper, Fig. 3 left).

    cells as for `trajectories`; network on the left, exact score on the right.
    """
    chosen = {key: cell for key, cell in cells.items() if key[1] == scale}
    fig = figures.Figure(figsize=(9.6, 4.0))
    panels = fig.subplots(1, 2, sharex=True, sharey=True)
    limits = [_limits(chosen, "paths", i) for i in (0, 1)]
    for ax, who in zip(panels, ("network", "oracle"), strict=True):
        _zoom_panel(ax, chosen, who)
        ax.set_title(f"{'exact score' if who == 'oracle' else who}, ω = {scale:g}")
        ax.set(xlim=limits[0], ylim=limits[1])
    _label_plane(fig)
    _legend_of_figure(fig, {None: panels[0]})
    return fig


def _zoom_panel(ax, cells: Cells, who: str) -> None:
    for (schedule, _), cell in cells.items():
        paths = cell[f"{who}_paths"]
        drawn = _first_of_each(cell, paths.shape[1], 1)
        colour, _, marker = _schedule_look(schedule)
        end = dict(color=colour, ms=6, mec="white", mew=0.6, zorder=3)
        for i, _, _ in drawn:
            ax.plot(*paths[:, i].T, color=colour, lw=1)
            ax.plot(*paths[-1, i], marker, label=schedule, **end)
    for i, name, colour in drawn:  # the start is the same for all schedules
        ax.plot(*paths[0, i], "*", color="black", ms=8, zorder=4, label="start")
        side = "right" if name == "bright" else "left"
        place = dict(ha=side, va="top", transform=ax.transAxes)
        ax.text(0.98 if name == "bright" else 0.02, 0.98, name, color=colour, **place)


@_styled
def class_axis(
    cells: Cells, centre: float | None = None, per_class: int = 6
) -> figures.Figure:
    """y(t), the class axis along the run, network against exact score.

    cells: (schedule, scale) -> timesteps [S], labels [n], network_axis and oracle_axis
    [S+1,n]; the first `per_class` images of each class. centre: the classes' means lie
    at -centre and +centre, drawn as grey lines.
    """
    fig, axes = _cell_grid(cells)
    limits = _limits(cells, "axis")
    for key, ax in axes.items():
        cell = cells[key]
        t = np.append(cell["timesteps"], 0)
        drawn = _first_of_each(cell, len(cell["labels"]), per_class)
        for i, name, colour in drawn:
            y = cell["network_axis"][:, i]
            ax.plot(t, y, color=colour, lw=0.8, label=f"network, {name}")
        for i, _, _ in drawn:
            ax.plot(t, cell["oracle_axis"][:, i], **_EXACT)
        for y in [] if centre is None else (-centre, centre):
            ax.axhline(y, color="0.8", lw=2, zorder=0, label="mean of the real class")
        ax.set(xlim=(t[0], 0), ylim=limits)
        y = cell["network_axis"][:, [i for i, _, _ in drawn]]
        _note_outside(ax, np.stack([np.broadcast_to(t[:, None], y.shape), y], -1))
    fig.supxlabel(_NOISE_AT_LEFT, fontsize=9)
    fig.supylabel("class axis y: the sum of the pixels / √d", fontsize=9)
    _legend_of_figure(fig, axes)
    return fig


@_styled
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
        _t_axis(ax, int(t.max()))
        _legend_above(ax)
    # the signal underflows near t = 0, where the classes are far apart
    shown = 1e-4 * arrays["delta_signal"].max()
    right.set_ylim(bottom=max(right.get_ylim()[0], shown))
    return fig


@_styled
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
        _legend_above(ax, columns=3)
    return fig


def _cell_grid(cells: Cells):
    """(figure, {(schedule, scale): axes}); rows are schedules, columns scales."""
    names = list(dict.fromkeys(name for name, _ in cells))
    scales = list(dict.fromkeys(scale for _, scale in cells))
    width = max(7.0, 1.2 + 2.3 * len(scales))  # the legend's at least
    fig = figures.Figure(figsize=(width, 1.1 + 1.55 * len(names)))
    grid = fig.subplots(
        len(names), len(scales), sharex=True, sharey=True, squeeze=False
    )
    for ax, scale in zip(grid[0], scales, strict=True):
        ax.set_title(f"ω = {scale:g}")
    for ax, name in zip(grid[:, 0], names, strict=True):
        ax.set_ylabel(name, color=_schedule_look(name)[0], fontweight="bold")
    return fig, {
        (name, scale): grid[i, j]
        for i, name in enumerate(names)
        for j, scale in enumerate(scales)
    }


def _first_of_each(cell: Mapping[str, np.ndarray], among: int, per_class: int):
    """[(i, class name, colour)] of the first images of each class among the first."""
    return [
        (i, name, colour)
        for label, (name, colour) in enumerate(_CLASSES)
        for i in np.flatnonzero(cell["labels"][:among] == label)[:per_class]
    ]


def _limits(cells: Cells, kind: str, component: int | None = None, real=()):
    """(low, high) that hold every exact value, and the network's as far as they stray
    by half the exact range: one diverged path would squash all others."""

    def every(who):
        arrays = [cell[f"{who}_{kind}"] for cell in cells.values()]
        if component is not None:
            arrays = [a[..., component] for a in arrays]
        return np.concatenate([np.ravel(a) for a in arrays])

    exact, network = np.append(every("oracle"), real), every("network")
    network = network[np.isfinite(network)]
    low, high = exact.min(), exact.max()
    reach = (high - low) / 2
    low = np.clip(network.min(initial=low), low - reach, low)
    high = np.clip(network.max(initial=high), high, high + reach)
    margin = 0.04 * (high - low)
    return low - margin, high + margin


def _note_outside(ax, points: np.ndarray) -> None:
    """Say how many of the B paths or points [...,B,2] leave the frame."""
    low, high = np.sort(np.stack([ax.get_xlim(), ax.get_ylim()]), axis=1).T
    outside = ~np.all((points >= low) & (points <= high), axis=-1)
    count = np.sum(outside.reshape(-1, points.shape[-2]).any(0))
    if count:
        ax.text(
            0.98, 0.03, f"{count} of {points.shape[-2]} leave the frame", fontsize=7,
            color="0.3", ha="right", transform=ax.transAxes,
            bbox=dict(fc="white", ec="none", alpha=0.8, pad=1),
        )  # fmt: skip


def _ellipse(points: np.ndarray, sigmas: float) -> np.ndarray:
    """[k,2]: the curve `sigmas` standard deviations around the mean of points."""
    values, vectors = np.linalg.eigh(np.cov(points.T))
    angle = np.linspace(0, 2 * np.pi, 121)
    circle = np.stack([np.cos(angle), np.sin(angle)], axis=1)
    axes = np.sqrt(np.maximum(values, 0)) * vectors
    return points.mean(0) + sigmas * circle @ axes.T


def _label_plane(fig: figures.Figure) -> None:
    fig.supxlabel("first principal component of the real data", fontsize=9)
    fig.supylabel("second component", fontsize=9)


def _legend_of_figure(fig: figures.Figure, axes: Mapping) -> None:
    """One legend above all axes: every label once."""
    handles = {}
    for ax in axes.values():
        for handle, label in zip(*ax.get_legend_handles_labels(), strict=True):
            handles.setdefault(label, handle)
    legend = fig.legend(
        handles.values(), handles, loc="outside upper center", ncols=len(handles)
    )
    _solid_dots(legend)


def _solid_dots(legend) -> None:
    """Dots in a legend large and opaque, however small and faint those drawn are."""
    for handle in legend.legend_handles:
        if hasattr(handle, "set_sizes"):
            handle.set(alpha=1, sizes=[16])
