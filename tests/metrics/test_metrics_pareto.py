"""The Pareto set of points on paper; classes one by one."""

import numpy as np
import pytest

from progguide_jax.metrics import pareto, per_class

# FID, IS:      best FID  beaten   equal   equal   best IS  same FID, less IS than 0
POINTS = [[2.0, 8.0], [3, 7.5], [3, 9], [3, 9], [6, 9.5], [2, 7]]


def test_front_by_hand():
    expected = [True, False, True, True, True, False]
    np.testing.assert_array_equal(pareto.front(POINTS), expected)


def test_directions():
    points = np.array(POINTS)
    front = pareto.front(points)
    flipped = pareto.front(points * np.array([[-1, 1]]), ("higher", "higher"))
    np.testing.assert_array_equal(flipped, front)
    swapped = pareto.front(points[:, ::-1], ("higher", "lower"))
    np.testing.assert_array_equal(swapped, front)
    np.testing.assert_array_equal(
        pareto.front(points, ("lower", "lower")), [False] * 5 + [True]
    )


def test_order_does_not_matter():
    points = np.random.default_rng(0).integers(0, 12, (60, 2))
    order = np.random.default_rng(1).permutation(60)
    front = pareto.front(points)
    np.testing.assert_array_equal(pareto.front(points[order]), front[order])
    assert 0 < front.sum() < 60
    # along the front a lower FID costs IS
    kept = np.unique(points[front], axis=0)
    assert np.all(np.diff(kept[:, 1]) > 0)


def test_one_point_stays():
    assert pareto.front([[1.0, 2.0]]).tolist() == [True]


def test_what_is_refused():
    with pytest.raises(ValueError, match="point 1 is not a number"):
        pareto.front([[1, 2], [np.nan, 3]])
    with pytest.raises(ValueError, match=r"\[N,2\]"):
        pareto.front([[1, 2, 3]])
    with pytest.raises(ValueError, match='"lower" or "higher"'):
        pareto.front([[1, 2]], ("lower", "up"))


def test_each_class_gets_its_own_rows():
    samples, reference = np.array([1, 0, 1, 0]), np.array([0, 1, 1])
    got = per_class.for_each_class(
        lambda i, j: (i.tolist(), j.tolist()), samples, reference, num_classes=2
    )
    assert got == {0: ([1, 3], [0]), 1: ([0, 2], [1, 2])}


def test_a_missing_class_is_named():
    some, all_three = np.array([0, 2, 2]), np.array([0, 1, 2])
    with pytest.raises(ValueError, match="class 1 has 0 images in the samples.* 1 of"):
        per_class.for_each_class(len, some, num_classes=3)
    with pytest.raises(ValueError, match="class 1 has 0 images in the reference"):
        per_class.for_each_class(max, all_three, some, num_classes=3)
    with pytest.raises(ValueError, match="class 0 has 1 images .*needs 2 of each of 3"):
        per_class.for_each_class(len, all_three, num_classes=3, minimum=2)
    with pytest.raises(ValueError, match="label 2 in row 1"):
        per_class.for_each_class(len, some, num_classes=2)
