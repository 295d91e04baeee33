"""Measures of trajectories: polygons with known angles, and guided two Gaussians
integrated independently (tests/golden/make_two_gaussians.py)."""

import json
import math
import pathlib

import jax
import numpy as np
import pytest
import scipy.stats

from progguide_jax.analytic import gaussians
from progguide_jax.diffusion import process, samplers
from progguide_jax.guidance import schedules
from progguide_jax.metrics import trajectories

GOLDEN = json.loads(
    (pathlib.Path(__file__).parents[1] / "golden" / "two_gaussians.json").read_text()
)


def measure_one(planar=None, y=None, sign=1.0):
    """Measures of a single trajectory, the missing view being a straight line."""
    size = len(planar if planar is not None else y)
    ramp = np.arange(size, dtype=float)
    planar = np.stack([ramp, 0 * ramp], -1) if planar is None else np.asarray(planar)
    y = ramp if y is None else np.asarray(y)
    m = trajectories.measure(planar[:, None], y[:, None], np.array([sign]))
    return trajectories.Measures(*(v.item() for v in m))


def polygon(n, radius=2.0):
    angle = 2 * math.pi * np.arange(n) / n
    return radius * np.stack([np.cos(angle), np.sin(angle)], -1)


def test_straight_line_has_no_detour():
    planar = np.linspace([1.0, 2.0], [4.0, 6.0], 8)
    m = measure_one(planar=planar)
    np.testing.assert_allclose(m.path_length, 5)
    np.testing.assert_allclose(m.tortuosity, 1)
    np.testing.assert_allclose([m.turning_angle, m.roughness], 0, atol=1e-7)
    assert m.overshoot == m.backtrack == m.u_turn == m.sign_flips == 0
    assert m.final == 7


def test_regular_polygon():
    n = 12  # n points, n - 1 sides, n - 2 corners of 2 pi / n each
    m = measure_one(planar=polygon(n))
    side = 2 * 2.0 * math.sin(math.pi / n)
    np.testing.assert_allclose(m.path_length, (n - 1) * side)
    np.testing.assert_allclose(m.tortuosity, n - 1)  # the missing side closes it
    np.testing.assert_allclose(m.turning_angle, 2 * math.pi / n)
    corner = 2 * (1 - math.cos(2 * math.pi / n))  # |d' - d|^2 / |d|^2
    np.testing.assert_allclose(m.roughness, corner * (n - 2) / (n - 1))
    clockwise = measure_one(planar=polygon(n)[::-1])
    np.testing.assert_allclose(clockwise.turning_angle, m.turning_angle)


def test_zigzag_and_random_walk():
    zigzag = np.stack([np.arange(101) % 2, np.zeros(101)], -1)
    m = measure_one(planar=zigzag)
    np.testing.assert_allclose(m.turning_angle, math.pi)
    np.testing.assert_allclose(m.roughness, 4 * 99 / 100)
    walk = np.cumsum(np.random.default_rng(0).standard_normal((20_001, 2)), 0)
    m = measure_one(planar=walk)
    assert m.roughness == pytest.approx(2, abs=0.05)
    assert m.turning_angle == pytest.approx(math.pi / 2, abs=0.03)


@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_u_turn_worked_by_hand(sign):
    # up to 5, back to 3, up to 4: 3 back over 4 - (-1)
    z = np.array([-1.0, 2, 5, 4, 3, 4])
    m = measure_one(y=sign * z, sign=sign)
    assert m.overshoot == 1.0
    assert m.backtrack == pytest.approx(2 / 5)
    assert m.u_turn == 1
    assert m.sign_flips == 2
    assert m.wrong_side == pytest.approx(1 / 6)
    assert m.final == 4.0
    small = measure_one(y=sign * np.array([0.0, 10.9, 9.9]), sign=sign)  # 1 / 9.9
    assert small.u_turn == 1 and small.sign_flips == 1
    smaller = measure_one(y=sign * np.array([0.0, 11.1, 10.1]), sign=sign)  # 1 / 10.1
    assert smaller.u_turn == 0


def test_measures_do_not_see_where_and_how_the_plane_lies():
    rng = np.random.default_rng(1)
    planar, y = np.cumsum(rng.standard_normal((30, 5, 2)), 0), rng.random((30, 5))
    sign = np.array([1, -1, 1, -1, 1])
    turn = np.array([[0.6, -0.8], [0.8, 0.6]])
    one = trajectories.measure(planar, y, sign)
    moved = trajectories.measure(planar @ turn + [3, -9], -y, -sign)
    for a, b in zip(one, moved, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-9)
    for i in range(5):  # and one trajectory does not see another
        alone = measure_one(planar=planar[:, i], y=y[:, i], sign=sign[i])
        np.testing.assert_allclose(alone, [v[i] for v in one], rtol=1e-12)


def test_paths_without_displacement():
    square = np.array([[0.0, 0], [1, 0], [1, 1], [0, 0]])
    m = measure_one(planar=square, y=[0.0, 1, 0, 0])
    assert m.tortuosity == m.backtrack == math.inf and m.u_turn == 1
    still = measure_one(planar=np.zeros((4, 2)), y=np.zeros(4))
    assert math.isnan(still.tortuosity) and math.isnan(still.roughness)
    assert still.path_length == still.u_turn == still.sign_flips == 0


@pytest.mark.parametrize(
    "shapes",
    [((4, 2), (4,), (1,)), ((2, 3, 2), (2, 3), (3,)), ((5, 3, 3), (5, 3), (3,))]
    + [((5, 3, 2), (4, 3), (3,)), ((5, 3, 2), (5, 3), (2,))],
)
def test_wrong_shapes_are_refused(shapes):
    with pytest.raises(ValueError, match="expected"):
        trajectories.measure(*(np.ones(s) for s in shapes))


def test_labels_are_not_signs():
    with pytest.raises(ValueError, match="sign"):
        trajectories.measure(np.ones((4, 2, 2)), np.ones((4, 2)), np.array([0, 1]))


def test_summary_of_two_trajectories():
    planar = np.zeros((3, 2, 2))
    planar[:, 0, 0], planar[:, 1, 1] = [0, 1, 2], [0, 1, 4]
    y = np.array([[0.0, 0.0], [3.0, -1.0], [2.0, -4.0]])
    s = trajectories.summary(trajectories.measure(planar, y, np.array([1, -1])))
    assert s["path_length"] == 3.0 and s["tortuosity"] == 1.0
    assert s["u_turn_rate"] == 0.5 and s["overshoot"] == 0.5 and s["sign_flips"] == 0.5
    assert (s["final_mean"], s["final_std"]) == (3.0, 1.0)
    assert all(isinstance(v, float) for v in s.values())


@pytest.mark.parametrize("name", ["static", "linear", "cosine"])
def test_guided_two_gaussians_equal_the_golden_measures(name):
    cells = [c for c in GOLDEN["cells"] if c["schedule"] == name]
    h, n = GOLDEN["half_separation"], GOLDEN["quantiles"]
    model = gaussians.TwoGaussians(h / math.sqrt(2), GOLDEN["std"], (2,))
    ns, ts = process.ddpm_linear(), samplers.timesteps(1000, 200)
    y_T = np.tile(scipy.stats.norm.ppf((np.arange(n) + 0.5) / n), len(cells))
    label = np.arange(len(y_T)) % 2  # half of them mirrored: measures are signed
    sign = 2 * label - 1
    x_T = np.repeat((sign * y_T)[:, None] / math.sqrt(2), 2, 1).astype(np.float32)
    omega = [schedules.make(name, c["scale"], ts, 1000) for c in cells]
    _, path = samplers.sample(
        model.eps(ns),
        x_T,
        cond=label,
        null_cond=gaussians.NULL,
        noise_schedule=ns,
        timesteps=ts,
        omega=np.repeat(omega, n, 0).T,
        trajectory=True,
    )
    path = jax.device_get(path)
    y = np.asarray(model.class_axis(path))
    for i, cell in enumerate(cells):
        rows = slice(i * n, (i + 1) * n)
        m = trajectories.measure(path[:, rows], y[:, rows], sign[rows])
        actual, expected = trajectories.summary(m), cell["ddim200"]
        for key in expected:
            assert actual[key] == pytest.approx(expected[key], abs=2e-3), key
