"""What all figures share: style, colours, legends, and the way to bytes.

The colours are the paper's: static blue, linear orange, cosine green, gn red, gn_all
purple; class 0 (dark) blue, class 1 (bright) red. Line styles say the same again for
readers who cannot tell the colours apart. The t axis runs as sampling does, noise (T)
on the left and data (0) on the right.
"""

import functools
import io
from collections.abc import Callable, Mapping

import matplotlib.style
from matplotlib import figure as figures

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

SCHEDULES = {  # colour, dashes, marker
    "static": ("#1f77b4", "-", "o"),
    "linear": ("#ff7f0e", (0, (6, 1.5)), "s"),
    "cosine": ("#2ca02c", (0, (4, 1.2, 1, 1.2)), "^"),
    "gn": ("#d62728", (0, (2, 1)), "D"),
    "gn_all": ("#9467bd", (0, (1, 1)), "v"),
}
_OTHERS = ("#8c564b", "#e377c2", "#7f7f7f", "#bcbd22", "#17becf")
CLASSES = (("dark", "#2166ac"), ("bright", "#b2182b"))  # label 0 and 1
NOISE_AT_LEFT = "timestep t   (noise at the left: sampling runs T → 0)"


def styled(draw: Callable) -> Callable:
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


def schedule_look(name: str) -> tuple:
    """(colour, dashes, marker) of a schedule; the same for the same name."""
    if name in SCHEDULES:
        return SCHEDULES[name]
    dashes, rank = divmod(schedules.names().index(name), len(_OTHERS))
    looks = ("-", "--", ":", *((0, (6, 1, *(1, 1) * n)) for n in range(1, dashes)))
    return _OTHERS[rank], looks[dashes], "x"


def t_axis(ax, num_timesteps: int) -> None:
    ax.set_xlim(num_timesteps, 0)
    ax.set_xlabel(NOISE_AT_LEFT)


def legend_above(ax, columns: int = 2) -> None:
    """A legend between the title and the axes, where it covers no data."""
    title = ax.get_title()
    ax.set_title("")
    ax.legend(
        loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=columns, title=title,
        title_fontsize=9.5, borderaxespad=0.2, columnspacing=1.5, handlelength=2.4,
    )  # fmt: skip


def legend_of_figure(fig: figures.Figure, axes: Mapping) -> None:
    """One legend above all axes: every label once."""
    handles = {}
    for ax in axes.values():
        for handle, label in zip(*ax.get_legend_handles_labels(), strict=True):
            handles.setdefault(label, handle)
    legend = fig.legend(
        handles.values(), handles, loc="outside upper center", ncols=len(handles)
    )
    solid_dots(legend)


def solid_dots(legend) -> None:
    """Dots in a legend large and opaque, however small and faint those drawn are."""
    for handle in legend.legend_handles:
        if hasattr(handle, "set_sizes"):
            handle.set(alpha=1, sizes=[16])
