"""Trajectories of two classes: in the PCA plane of the data, and on the class axis."""

from collections.abc import Mapping

import numpy as np
from matplotlib import figure as figures

from progguide_jax.plots import style

_EXACT = dict(color="black", lw=0.6, ls=(0, (3, 2)), label="exact score, same noise")


@style.styled
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
    for label, (name, colour) in enumerate(style.CLASSES):
        points = plane[labels == label]
        ax.scatter(*points.T, s=3, lw=0, alpha=0.35, color=colour, label=name)
    ax.set_xlabel(f"first component ({explained[0]:.1%} of the variance)")
    ax.set_ylabel(f"second component ({explained[1]:.2%})")
    style.legend_above(ax)
    style.solid_dots(ax.get_legend())
    bound = np.quantile(np.abs(images), 0.999)
    for row, (name, colour) in enumerate(style.CLASSES):
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


@style.styled
def distributions(cells: Cells, real: np.ndarray) -> figures.Figure:
    """Final points of the network over the exact ones (paper, Fig. 2 and 3, first row).

    cells: (schedule, scale) -> labels [n], network_plane and oracle_plane [n,2]; real
    [k,2], the data in the same plane. One row per schedule, one column per scale.
    """
    fig, axes = _cell_grid(cells)
    limits = [_limits(cells, "plane", i, real[:, i]) for i in (0, 1)]
    for key, ax in axes.items():
        cell = cells[key]
        classes = [(cell["labels"] == i, *look) for i, look in enumerate(style.CLASSES)]
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
    style.legend_of_figure(fig, axes)
    return fig


@style.styled
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
    style.legend_of_figure(fig, axes)
    return fig


@style.styled
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
    style.legend_of_figure(fig, {None: panels[0]})
    return fig


def _zoom_panel(ax, cells: Cells, who: str) -> None:
    for (schedule, _), cell in cells.items():
        paths = cell[f"{who}_paths"]
        drawn = _first_of_each(cell, paths.shape[1], 1)
        colour, _, marker = style.schedule_look(schedule)
        end = dict(color=colour, ms=6, mec="white", mew=0.6, zorder=3)
        for i, _, _ in drawn:
            ax.plot(*paths[:, i].T, color=colour, lw=1)
            ax.plot(*paths[-1, i], marker, label=schedule, **end)
    for i, name, colour in drawn:  # the start is the same for all schedules
        ax.plot(*paths[0, i], "*", color="black", ms=8, zorder=4, label="start")
        side = "right" if name == "bright" else "left"
        place = dict(ha=side, va="top", transform=ax.transAxes)
        ax.text(0.98 if name == "bright" else 0.02, 0.98, name, color=colour, **place)


@style.styled
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
    fig.supxlabel(style.NOISE_AT_LEFT, fontsize=9)
    fig.supylabel("class axis y: the sum of the pixels / √d", fontsize=9)
    style.legend_of_figure(fig, axes)
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
        ax.set_ylabel(name, color=style.schedule_look(name)[0], fontweight="bold")
    return fig, {
        (name, scale): grid[i, j]
        for i, name in enumerate(names)
        for j, scale in enumerate(scales)
    }


def _first_of_each(cell: Mapping[str, np.ndarray], among: int, per_class: int):
    """[(i, class name, colour)] of the first images of each class among the first."""
    return [
        (i, name, colour)
        for label, (name, colour) in enumerate(style.CLASSES)
        for i in np.flatnonzero(cell["labels"][:among] == label)[:per_class]
    ]


def _limits(cells: Cells, kind: str, component: int | None = None, real=()):
    """(low, high) that hold every exact value, and the network's as far as they stray
    by the exact range: one diverged path would squash all others."""

    def every(who):
        arrays = [cell[f"{who}_{kind}"] for cell in cells.values()]
        if component is not None:
            arrays = [a[..., component] for a in arrays]
        return np.concatenate([np.ravel(a) for a in arrays])

    exact, network = np.append(every("oracle"), real), every("network")
    network = network[np.isfinite(network)]
    low, high = exact.min(), exact.max()
    reach = high - low
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
