import io

import matplotlib
import numpy as np
import pytest
from PIL import Image

from progguide_jax.plots import style, time_curves


def test_png_is_an_image_of_the_size_asked_for(figures):
    figure = figures["gradnorm"]
    image = Image.open(io.BytesIO(style.png(figure, dpi=50)))
    image.load()
    assert image.format == "PNG"
    assert image.size == tuple(np.rint(50 * figure.get_size_inches()))
    assert "Software" not in image.info


def test_pictures_do_not_depend_on_the_style_outside(experiment):
    cell = experiment.cells["gn", 100.0]

    def draw():
        figure = time_curves.omega_curves(cell["timesteps"], {"gn": cell["omega"]})
        return style.png(figure, dpi=50)

    before = draw()
    with matplotlib.rc_context({"font.size": 30, "axes.facecolor": "green"}):
        assert draw() == before
        assert matplotlib.rcParams["font.size"] == 30


@pytest.mark.parametrize(
    "name",
    "gradnorm omega data distributions trajectories zoom class_axis closeness "
    "loss".split(),
)
def test_legends_cover_no_axes_and_axes_are_named(figures, name):
    figure = figures[name]
    figure.draw_without_rendering()
    legends = [*figure.legends, *(ax.get_legend() for ax in figure.axes)]
    legends = [legend for legend in legends if legend]
    assert legends
    frames = [ax.get_window_extent() for ax in figure.axes]
    for legend in legends:
        box = legend.get_window_extent()
        # the frame's own line is not data
        assert not any(box.padded(-1).overlaps(frame) for frame in frames)
        assert box.x0 >= 0 and box.x1 <= figure.bbox.width
    shared = figure.get_supxlabel() and figure.get_supylabel()
    plots_only = [ax for ax in figure.axes if not ax.images]
    assert shared or all(ax.get_xlabel() and ax.get_ylabel() for ax in plots_only)
