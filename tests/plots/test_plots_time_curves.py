import numpy as np
import small_experiment

from progguide_jax.guidance import schedules
from progguide_jax.plots import time_curves


def _lines(ax, label):
    return [line for line in ax.lines if line.get_label() == label]


def test_gradnorm_draws_g_and_G_before_and_after_smoothing():
    arrays = small_experiment.curve_arrays(3)
    left, right = time_curves.gradnorm(arrays).axes
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
    left, _ = time_curves.gradnorm(arrays).axes
    path = left.collections[0].get_paths()[0].vertices
    edge = path[np.isclose(path[:, 0], 300), 1]
    # four independent errors of 0.3: their mean has 0.15
    np.testing.assert_allclose(edge.max() - edge.min(), 4 * 0.15)


def test_omega_curves_have_a_line_for_each_schedule_and_class():
    t = np.array([900, 500, 100])
    omega = {name: np.ones(3) for name in schedules.names() if name != "gn_all"}
    figure = time_curves.omega_curves(t, omega | {"gn_all": np.ones((10, 3))})
    (ax,) = figure.axes
    assert len(ax.lines) == len(omega) + 10
    looks = {(line.get_color(), str(line._dash_pattern)) for line in ax.lines}
    assert len(looks) == len(schedules.names())


def test_closeness_and_loss_draw_what_they_are_given():
    arrays = small_experiment.closeness_arrays()
    left, right = time_curves.closeness(arrays).axes
    assert (len(left.lines), len(right.lines)) == (4, 2)
    assert left.get_yscale() == right.get_yscale() == "log"
    (excess,) = _lines(left, "excess, without")
    np.testing.assert_array_equal(excess.get_ydata(), arrays["excess_uncond"])
    rows = small_experiment.metric_rows(50)
    rows[10]["loss"] = None  # a loss that was not finite
    loss, norm = time_curves.loss_curve([{"step": 0, "note": 1}, *rows], floor=0.3).axes
    assert (len(loss.lines), len(norm.lines)) == (3, 2)
    x, y = _lines(loss, "loss")[0].get_data()
    np.testing.assert_array_equal(x, [row["step"] for row in rows])
    assert np.isnan(y[10]) and y[11] == rows[11]["loss"]
    assert np.isfinite(_lines(loss, "moving average")[0].get_ydata()[20:]).all()
    assert _lines(loss, "exact score")[0].get_ydata()[0] == 0.3
