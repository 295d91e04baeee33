import io

import matplotlib
import numpy as np
import pytest
import small_experiment
from PIL import Image

from progguide_jax import plots
from progguide_jax.guidance import schedules

NAMES, SCALES = small_experiment.NAMES, small_experiment.SCALES


@pytest.fixture(scope="module")
def experiment():
    return small_experiment.make()


@pytest.fixture(scope="module")
def figures(experiment):
    """One of each."""
    data, cells = experiment.data, experiment.cells
    cell = cells["gn", 100.0]
    return {
        "gradnorm": plots.gradnorm(small_experiment.curve_arrays(3)),
        "omega": plots.omega_curves(cell["timesteps"], {"gn": cell["omega"]}),
        "data": plots.data_pca(
            data["plane"], data["labels"], data["images"], data["image_labels"],
            data["explained"],
        ),
        "distributions": plots.distributions(cells, data["plane"]),
        "trajectories": plots.trajectories(cells, per_class=3),
        "zoom": plots.zoom(cells, 100.0),
        "class_axis": plots.class_axis(cells, 4.0, per_class=3),
        "closeness": plots.closeness(small_experiment.closeness_arrays()),
        "loss": plots.loss_curve(small_experiment.metric_rows(), floor=0.2),
    }  # fmt: skip


def _lines(ax, label):
    return [line for line in ax.lines if line.get_label() == label]


def test_png_is_an_image_of_the_size_asked_for(figures):
    figure = figures["gradnorm"]
    image = Image.open(io.BytesIO(plots.png(figure, dpi=50)))
    image.load()
    assert image.format == "PNG"
    assert image.size == tuple(np.rint(50 * figure.get_size_inches()))
    assert "Software" not in image.info


def test_pictures_do_not_depend_on_the_style_outside(experiment):
    cell = experiment.cells["gn", 100.0]

    def draw():
        figure = plots.omega_curves(cell["timesteps"], {"gn": cell["omega"]})
        return plots.png(figure, dpi=50)

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


def test_gradnorm_draws_g_and_G_before_and_after_smoothing():
    arrays = small_experiment.curve_arrays(3)
    left, right = plots.gradnorm(arrays).axes
    assert len(left.lines) == 3 + 2 and len(right.lines) == 3 + 3 + 2
    assert left.get_xlim() == right.get_xlim() == (1000, 0)
    (raw,) = _lines(left, "raw, class mean")
    np.testing.assert_allclose(raw.get_ydata(), arrays["g"].mean(0))
    (smooth,) = _lines(left, "smoothed, class mean")
    window = arrays["g"].mean(0)[500 - 12 : 500 + 13]
    np.testing.assert_allclose(smooth.get_ydata()[500], window.mean())
    for line in right.lines:  # a mean of 1: a constant weight is the same for all
        np.testing.assert_allclose(line.get_ydata().mean(), 1, atol=1e-3)
    (G,) = _lines(right, "G(t), gn, ± 2 s.e.")
    tail = arrays["g"].mean(0)[700:].sum()  # by definition a sum over i >= t
    total = arrays["gn"].mean()
    np.testing.assert_allclose(G.get_ydata()[700], tail / total)


def test_gradnorm_band_is_two_standard_errors_of_the_class_mean():
    arrays = small_experiment.curve_arrays(4)
    arrays["standard_error"] = np.full((4, 1000), 0.3)
    left, _ = plots.gradnorm(arrays).axes
    path = left.collections[0].get_paths()[0].vertices
    edge = path[np.isclose(path[:, 0], 300), 1]
    # four independent errors of 0.3: their mean has 0.15
    np.testing.assert_allclose(edge.max() - edge.min(), 4 * 0.15)


def test_omega_curves_have_a_line_for_each_schedule_and_class():
    t = np.array([900, 500, 100])
    curves = {name: np.ones(3) for name in schedules.names() if name != "gn_all"}
    figure = plots.omega_curves(t, curves | {"gn_all": np.ones((10, 3))})
    (ax,) = figure.axes
    assert len(ax.lines) == len(curves) + 10
    looks = {(line.get_color(), str(line._dash_pattern)) for line in ax.lines}
    assert len(looks) == len(schedules.names())


def test_data_pca_shows_every_point_and_some_images_of_each_class(experiment):
    data = experiment.data
    figure = plots.data_pca(
        data["plane"], data["labels"], data["images"], data["image_labels"],
        data["explained"], per_class=3,
    )  # fmt: skip
    scatter, *pictures = figure.axes
    dark, bright = scatter.collections
    np.testing.assert_array_equal(dark.get_offsets(), data["plane"][::2])
    np.testing.assert_array_equal(bright.get_offsets(), data["plane"][1::2])
    assert f"{data['explained'][0]:.1%}" in scatter.get_xlabel()
    shown = [ax.images[0].get_array() for ax in pictures]
    assert len(shown) == 6
    assert max(a.mean() for a in shown[:3]) < 0.5 < min(a.mean() for a in shown[3:])


def test_distributions_lay_the_exact_spread_over_the_points(experiment):
    cells, real = experiment.cells, experiment.data["plane"]
    figure = plots.distributions(cells, real)
    assert len(figure.axes) == len(NAMES) * len(SCALES)
    titles = [ax.get_title() for ax in figure.axes]
    assert titles == ["ω = 0", "ω = 100", "", ""]
    assert [ax.get_ylabel() for ax in figure.axes[::2]] == list(NAMES)
    cell, ax = cells["gn", 100.0], figure.axes[3]
    grey, dark, bright = ax.collections
    np.testing.assert_array_equal(grey.get_offsets(), real)
    np.testing.assert_array_equal(dark.get_offsets(), cell["network_plane"][::2])
    np.testing.assert_array_equal(bright.get_offsets(), cell["network_plane"][1::2])
    assert len(ax.lines) == 4
    points = cell["oracle_plane"][::2].astype(float)
    for line, sigmas in zip(ax.lines[:2], (1, 2), strict=True):
        away = line.get_xydata() - points.mean(0)
        distance = np.sum(away * np.linalg.solve(np.cov(points.T), away.T).T, -1)
        np.testing.assert_allclose(distance, sigmas**2, rtol=1e-6)  # Mahalanobis


def test_trajectories_draw_the_paths_of_both(experiment, figures):
    cell, ax = experiment.cells["static", 100.0], figures["trajectories"].axes[1]
    assert len(ax.lines) == 4 * 3 * 2  # path, exact, start, end
    for label, first in (("network, dark", 0), ("network, bright", 1)):
        drawn = [line.get_xydata() for line in _lines(ax, label)]
        expected = cell["network_paths"][:, first:6:2]
        np.testing.assert_array_equal(np.stack(drawn, 1), expected)
    exact = [line.get_xydata() for line in _lines(ax, "exact score, same noise")]
    order = [0, 2, 4, 1, 3, 5]
    np.testing.assert_array_equal(np.stack(exact, 1), cell["oracle_paths"][:, order])


def test_zoom_shows_one_path_a_class_for_each_schedule(experiment, figures):
    network, exact = figures["zoom"].axes
    assert network.get_title() == "network, ω = 100"
    for ax, who in ((network, "network"), (exact, "oracle")):
        assert len(ax.lines) == 2 * (2 * len(NAMES)) + 2
        ends = [line.get_xydata()[0] for line in _lines(ax, "gn")]
        expected = experiment.cells["gn", 100.0][f"{who}_paths"][-1, :2]
        np.testing.assert_array_equal(ends, expected)
    assert {text.get_text() for text in network.texts} >= {"dark", "bright"}


def test_class_axis_runs_from_noise_to_data(experiment, figures):
    cell, ax = experiment.cells["gn", 100.0], figures["class_axis"].axes[3]
    assert len(ax.lines) == 3 * 2 * 2 + 2
    assert ax.get_xlim() == (cell["timesteps"][0], 0)
    t, y = _lines(ax, "network, bright")[0].get_data()
    np.testing.assert_array_equal(t, [*cell["timesteps"], 0])
    np.testing.assert_array_equal(y, cell["network_axis"][:, 1])


def test_a_diverged_path_is_counted_and_does_not_squash_the_others(experiment):
    cells = {key: dict(experiment.cells[key]) for key in (("static", 0.0), ("gn", 0.0))}
    usual = plots.trajectories(cells).axes[0].get_xlim()
    paths = cells["gn", 0.0]["network_paths"].copy()
    paths[10:, 1, 0], paths[10:, 3, 0] = 1e6, np.nan
    cells["gn", 0.0]["network_paths"] = paths
    above, below = plots.trajectories(cells).axes
    assert np.ptp(above.get_xlim()) < 2 * np.ptp(usual)
    assert above.get_xlim() == below.get_xlim()
    assert not above.texts
    assert [t.get_text() for t in below.texts] == ["2 of 12 leave the frame"]


def test_closeness_and_loss_draw_what_they_are_given():
    arrays = small_experiment.closeness_arrays()
    left, right = plots.closeness(arrays).axes
    assert (len(left.lines), len(right.lines)) == (4, 2)
    assert left.get_yscale() == right.get_yscale() == "log"
    (excess,) = _lines(left, "excess, without")
    np.testing.assert_array_equal(excess.get_ydata(), arrays["excess_uncond"])
    rows = small_experiment.metric_rows(50)
    rows[10]["loss"] = None  # a loss that was not finite
    loss, norm = plots.loss_curve([{"step": 0, "note": 1}, *rows], floor=0.3).axes
    assert (len(loss.lines), len(norm.lines)) == (3, 2)
    x, y = _lines(loss, "loss")[0].get_data()
    np.testing.assert_array_equal(x, [row["step"] for row in rows])
    assert np.isnan(y[10]) and y[11] == rows[11]["loss"]
    assert np.isfinite(_lines(loss, "moving average")[0].get_ydata()[20:]).all()
    assert _lines(loss, "exact score")[0].get_ydata()[0] == 0.3
