import numpy as np
import small_experiment

from progguide_jax.plots import plane

NAMES, SCALES = small_experiment.NAMES, small_experiment.SCALES


def _lines(ax, label):
    return [line for line in ax.lines if line.get_label() == label]


def test_data_pca_shows_every_point_and_some_images_of_each_class(experiment):
    data = experiment.data
    figure = plane.data_pca(
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
    figure = plane.distributions(cells, real)
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
    exact = np.ptp([cell["oracle_paths"][..., 0] for cell in cells.values()])
    paths = cells["gn", 0.0]["network_paths"].copy()
    paths[10:, 1, 0], paths[10:, 3, 0] = 1e6, np.nan
    cells["gn", 0.0]["network_paths"] = paths
    above, below = plane.trajectories(cells).axes
    # at most an exact range beside the exact paths on either side, and 4 % of it all
    assert exact < np.ptp(above.get_xlim()) <= 3 * 1.08 * exact * (1 + 1e-6)
    assert above.get_xlim() == below.get_xlim()
    assert not above.texts
    assert [t.get_text() for t in below.texts] == ["2 of 12 leave the frame"]
