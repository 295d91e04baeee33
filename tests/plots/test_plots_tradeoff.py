import math

import numpy as np
import pytest
from sweep_rows import FD, IS, row

from progguide_jax.plots import cell_scores, noise_levels, style, tradeoff


def sweep():
    """Scales out of order; no other cell beats static_w0.1, gn_w0.2 and gn_w0.4."""
    return [
        row("static", 0.4, (3.5, 0.05), (8.7, 0.1)),
        row("static", 0.1, (2.7, 0.04), (8.0, 0.2)),
        row("gn", 0.4, (3.2, 0.03), (8.8, 0.3), {FD: (-0.3, 0.02)}),
        row("gn", 0.2, (2.8, 0.06), (8.6, 0.4), {FD: (-0.31, 0.01)}),
    ]


def _bars(ax):
    """{label: (points [n,2], x error [n] or None, y error [n])} of the error bars."""
    found = {}
    for container in ax.containers:
        line, _, bars = container.lines
        halves = [
            # no segment where the point is not finite
            [np.ptp(s, axis=0).sum() / 2 for s in bar.get_segments() if len(s)]
            for bar in bars
        ]
        x = halves[0] if container.has_xerr else None
        found[container.get_label()] = (line.get_xydata(), x, halves[-1])
    return found


def test_tradeoff_draws_each_schedule_over_its_scales():
    (ax,) = tradeoff.tradeoff(sweep(), IS, FD).axes
    bars = _bars(ax)
    assert list(bars) == ["static", "gn"]
    points, x_error, y_error = bars["gn"]
    np.testing.assert_allclose(points, [[8.6, 2.8], [8.8, 3.2]])  # 0.2, then 0.4
    np.testing.assert_allclose(x_error, [0.4, 0.3])
    np.testing.assert_allclose(y_error, [0.06, 0.03])
    np.testing.assert_allclose(bars["static"][0], [[8.0, 2.7], [8.7, 3.5]])
    assert ax.get_xlabel() == f"{IS} (higher is better)"
    assert ax.get_ylabel() == f"{FD} (lower is better)"
    assert [text.get_text() for text in ax.texts] == ["ω = 0.1", "ω = 0.4"]
    np.testing.assert_allclose([text.xy for text in ax.texts], bars["static"][0])
    for container in ax.containers:
        colour, _, marker = style.SCHEDULES[container.get_label()]
        line = container.lines[0]
        assert (line.get_color(), line.get_marker()) == (colour, marker)


def _ringed(ax):
    (line,) = [line for line in ax.lines if line.get_label() == "Pareto-optimal"]
    assert line.get_markerfacecolor() == "none"
    return {tuple(point) for point in line.get_xydata()}


def test_tradeoff_rings_the_pareto_set():
    (ax,) = tradeoff.tradeoff(sweep(), IS, FD).axes
    assert _ringed(ax) == {(8.0, 2.7), (8.6, 2.8), (8.8, 3.2)}
    (ax,) = tradeoff.tradeoff(sweep(), IS, FD, better=("lower", "higher")).axes
    # lowest is_ and highest fd: gn_w0.4 is beaten by static_w0.4 in both
    assert _ringed(ax) == {(8.0, 2.7), (8.6, 2.8), (8.7, 3.5)}
    assert ax.get_ylabel() == f"{FD} (higher is better)"


def test_lines_of_every_schedule_begin_at_scale_0():
    rows = [row("static", 0, (4.0, 0.1), (7.0, 0.1)), *sweep()]
    (ax,) = tradeoff.tradeoff(rows, IS, FD).axes
    bars = _bars(ax)
    np.testing.assert_allclose(bars["static"][0][0], [7, 4])
    assert len(bars["gn"][0]) == 2  # drawn once, as static's
    starts = [line for line in ax.lines if np.array_equal(
        line.get_xydata(), [[7, 4], [8.6, 2.8]])]  # fmt: skip
    (start,) = starts
    assert start.get_color() == style.SCHEDULES["gn"][0]
    legend = [text.get_text() for text in ax.get_legend().get_texts()]
    assert sorted(legend) == ["Pareto-optimal", "gn", "static"]


@pytest.mark.parametrize("nothing", [math.nan, None])
def test_tradeoff_leaves_out_what_is_not_finite(nothing):
    rows = sweep()
    rows[3]["scores"][FD]["value"] = nothing
    (ax,) = tradeoff.tradeoff(rows, IS, FD).axes
    assert _ringed(ax) == {(8.0, 2.7), (8.8, 3.2)}
    points, _, error = _bars(ax)["gn"]
    np.testing.assert_array_equal(points, [[8.6, np.nan], [8.8, 3.2]])
    np.testing.assert_allclose(error, [0.03])
    style.png(ax.figure, dpi=20)


def test_scale_labels_stand_off_the_lines():
    """Many cells near each other: no label covers a line or another label."""
    rows = [
        row(name, w, (3 + (w - 0.2) ** 2 * 20 - 0.05 * k, 0.02), (9 + w, 0.01))
        for k, name in enumerate(style.SCHEDULES)
        for w in (0.1, 0.15, 0.2, 0.25, 0.3, 0.35)
    ]
    figure = tradeoff.tradeoff(rows, IS, FD)
    (ax,) = figure.axes
    figure.draw_without_rendering()
    boxes = [text.get_window_extent() for text in ax.texts]
    assert len(boxes) == 6
    for i, box in enumerate(boxes):
        assert not any(box.overlaps(other) for other in boxes[:i])
        for container in ax.containers:
            line = container.lines[0]
            path = line.get_transform().transform_path(line.get_path())
            assert not path.intersects_bbox(box, filled=False)


def test_differences_are_the_paired_ones():
    (ax,) = tradeoff.differences(sweep(), FD, "lower").axes
    bars = _bars(ax)
    assert list(bars) == ["gn"]
    points, _, error = bars["gn"]
    np.testing.assert_allclose(points[:, 1], [-0.31, -0.3])
    np.testing.assert_allclose(error, [0.01, 0.02])
    ticks = [tick.get_text() for tick in ax.get_xticklabels()]
    assert [ticks[round(x)] for x in points[:, 0]] == ["0.2", "0.4"]
    (zero,) = [line for line in ax.lines if line.get_label() == "static"]
    np.testing.assert_array_equal(zero.get_ydata(), [0, 0])
    with pytest.raises(ValueError, match="gn_w0.2 has no difference of is_resnet56"):
        tradeoff.differences(sweep(), IS, "higher")


def test_schedules_stand_side_by_side():
    rows = [
        row(name, scale, (3, 0.1), differences={FD: (0.1, 0.1)})
        for name in ("linear", "cosine", "gn")
        for scale in (0.1, 0.2)
    ]
    (ax,) = tradeoff.differences(rows, FD, "lower").axes
    places = np.array([points[:, 0] for points, _, _ in _bars(ax).values()])
    assert np.all(np.diff(places, axis=0) > 0.1)
    np.testing.assert_allclose(places.mean(0), [0, 1], atol=1e-12)
    assert np.abs(places - [[0, 1]]).max() < 0.3


def _interval_rows():
    base = row("static", 0.15, (2.9, 0.05))
    zeroed = [
        row("neg_perturb", 0.15, (3.0 + k, 0.1 * k), differences={FD: (k, 0.01)},
            interval=[50 * k, 50 * k + 49]) for k in (1, 2, 19)
    ]  # fmt: skip
    return base, zeroed


def test_intervals_lie_on_their_part_of_t():
    base, zeroed = _interval_rows()
    left, right = cell_scores.intervals([base, *zeroed], FD, base, "lower").axes
    for ax, first in ((left, 3.0), (right, 0.0)):
        assert ax.get_xlim() == (1000, 0)
        (found,) = _bars(ax).values()
        points, half, error = found
        np.testing.assert_allclose(points[:, 0], [75, 125, 975])
        np.testing.assert_allclose(half, 25)
        np.testing.assert_allclose(points[:, 1], first + np.array([1, 2, 19]))
        np.testing.assert_allclose(error, 0.01 if ax is right else [0.1, 0.2, 1.9])
    (band,) = left.patches
    box = band.get_extents().transformed(left.transData.inverted())
    np.testing.assert_allclose([box.y0, box.y1], [2.85, 2.95])
    lines = [ax.lines[-1].get_ydata() for ax in (left, right)]
    np.testing.assert_allclose(lines, [[2.9, 2.9], [0, 0]])
    assert "ω = 0.15" in left.get_legend().get_texts()[0].get_text()


def test_intervals_without_pairs_and_without_intervals():
    base, zeroed = _interval_rows()
    zeroed[0]["differences"] = {}
    assert len(cell_scores.intervals(zeroed, FD, base, "lower", 500).axes) == 1
    with pytest.raises(ValueError, match="no row has an interval"):
        cell_scores.intervals([base], FD, base, "lower")


def test_cells_stand_below_each_other_with_their_difference_to_the_first():
    rows = sweep()
    for k, r in enumerate(rows):
        r["differences"] = {FD: {"value": 0.1 * k, "error": 0.01}} if k else {}
    left, right = cell_scores.cells(rows, FD, "lower").axes
    names = [tick.get_text() for tick in left.get_yticklabels()]
    assert names == [r["cell"] for r in rows]
    assert left.get_ylim()[0] > left.get_ylim()[1]  # the first on top
    for ax, expected, first in (
        (left, [[3.5, 0], [2.7, 1], [3.2, 2], [2.8, 3]], 3.5),
        (right, [[0.1, 1], [0.2, 2], [0.3, 3]], 0),
    ):
        (container,) = ax.containers
        np.testing.assert_allclose(container.lines[0].get_xydata(), expected)
        assert ax.lines[-1].get_xdata() == [first, first]
    assert left.get_xlabel() == f"{FD} (lower is better)"
    rows[2]["differences"] = {}
    assert len(cell_scores.cells(rows, FD, "lower").axes) == 1


def _step_rows(scales_of):
    return [
        row(name, scale, (scale + 10 / steps + k, 0.1), num_steps=steps)
        for k, (name, scales) in enumerate(scales_of.items())
        for scale in scales
        for steps in (200, 50, 100)
    ]


def test_steps_of_one_scale_a_schedule_share_a_panel():
    rows = _step_rows({"static": [0.6], "gn": [0.8]})
    (ax,) = cell_scores.steps(rows, FD, "lower").axes
    bars = _bars(ax)
    assert list(bars) == ["static, ω = 0.6", "gn, ω = 0.8"]
    points, _, error = bars["gn, ω = 0.8"]
    np.testing.assert_allclose(points[:, 1], [2.0, 1.9, 1.85])
    np.testing.assert_allclose(error, 0.1)
    assert [tick.get_text() for tick in ax.get_xticklabels()] == ["50", "100", "200"]
    np.testing.assert_array_equal(np.round(points[:, 0]), [0, 1, 2])
    (ax,) = cell_scores.steps(
        _step_rows({"gn": [0.6], "static": [0.6]}), FD, "lower"
    ).axes
    assert list(_bars(ax)) == ["gn", "static"]


def test_steps_of_several_scales_have_a_panel_each():
    axes = cell_scores.steps(
        _step_rows({"static": [0.6, 0.2], "gn": [0.2]}), FD, "lower"
    ).axes
    assert [ax.get_title() for ax in axes] == ["ω = 0.2", "ω = 0.6"]
    assert [list(_bars(ax)) for ax in axes] == [["static", "gn"], ["static"]]
    points = _bars(axes[0])["gn"][0]
    np.testing.assert_allclose(points[:, 1], [1.4, 1.3, 1.25])


def test_calibration_has_a_place_for_no_noise():
    curves = {
        "fid": dict(noise=[4, 0, 1], value=[9.0, 3.0, 4.0], error=[0.3, 0.1, 0.2]),
        FD: dict(noise=[0, 8], value=[0.5, 7.0], error=[0.1, 0.1]),
    }
    figure = noise_levels.calibration(curves)
    (ax,) = figure.axes
    points, _, error = _bars(ax)["fid"]
    np.testing.assert_allclose(points, [[0, 3], [1, 4], [4, 9]])
    np.testing.assert_allclose(error, [0.1, 0.2, 0.3])
    assert ax.get_yscale() == "log"
    figure.draw_without_rendering()
    places = ax.transData.transform([[x, 1.0] for x in (0, 1, 2, 4, 8)])[:, 0]
    assert np.isfinite(places).all()
    np.testing.assert_allclose(np.diff(places)[1:], places[2] - places[1])  # log2
    assert places[1] - places[0] > 20
    curves["fid"]["value"][1] = 0.05  # its bar goes below 0
    assert noise_levels.calibration(curves).axes[0].get_yscale() == "linear"


def test_rows_that_do_not_belong_together_are_refused():
    base, zeroed = _interval_rows()
    for call in (
        lambda rows: tradeoff.tradeoff(rows, IS, FD),
        lambda rows: tradeoff.differences(rows, FD, "lower"),
    ):
        with pytest.raises(ValueError, match="differ in interval"):
            call([base, *zeroed])
        with pytest.raises(ValueError, match="differ in num_steps .50, 60"):
            call([base | {"num_steps": 50}, base | {"num_steps": 60}])
        with pytest.raises(ValueError, match="no cells"):
            call([])
    del zeroed[1]["scores"][FD]
    with pytest.raises(ValueError, match="neg_perturb_w0.15 has no score fd_resnet56"):
        cell_scores.intervals(zeroed, FD, base, "lower")


@pytest.mark.parametrize(
    "draw",
    [
        lambda: tradeoff.tradeoff(sweep(), IS, FD),
        lambda: tradeoff.differences(sweep(), FD, "lower"),
        lambda: cell_scores.intervals(_interval_rows()[1], FD, sweep()[0], "lower"),
        lambda: cell_scores.steps(
            _step_rows({"static": [0.2], "gn": [0.4]}), FD, "lower"
        ),
        lambda: cell_scores.steps(_step_rows({"gn": [0.2, 0.4]}), FD, "lower"),
        lambda: noise_levels.calibration({FD: dict(noise=[0], value=[1], error=[0.1])}),
    ],
)
def test_legends_cover_no_axes_and_axes_are_named(draw):
    figure = draw()
    figure.draw_without_rendering()
    legends = [*figure.legends, *(ax.get_legend() for ax in figure.axes)]
    legends = [legend for legend in legends if legend]
    assert legends
    for legend in legends:
        box = legend.get_window_extent()
        # the frame's own line is not data
        frames = [ax.get_window_extent() for ax in figure.axes]
        assert not any(box.padded(-1).overlaps(frame) for frame in frames)
        assert box.x0 >= 0 and box.x1 <= figure.bbox.width
    assert figure.axes[0].get_ylabel()
    assert all(ax.get_xlabel() for ax in figure.axes)
