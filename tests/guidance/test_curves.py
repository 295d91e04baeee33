import numpy as np
import pytest

from progguide_jax.guidance import curves


def rising(tau):
    return np.asarray(tau)


@pytest.mark.parametrize(
    ("mode", "mean"),
    [
        ("none", 1.0),
        ("sampling", 1.3 / 3),
        ("train", 0.45),  # (0 + .1 + ... + .9) / 10
        ("continuous", 0.5),
        ("dt", (5 * 0.9 + 4 * 0.4 + 4 * 0.0) / 13),
    ],
)
def test_modes_by_hand(mode, mean):
    values = curves.standardise(rising, np.array([9, 4, 0]), 10, mode)
    np.testing.assert_allclose(values, np.array([0.9, 0.4, 0.0]) / mean, rtol=1e-9)


@pytest.mark.parametrize("num_steps", [1, 2, 50])
def test_dt_is_sampling_on_a_uniform_grid(num_steps):
    ts = np.arange(num_steps)[::-1] * (1000 // num_steps) + 1
    dt, sampling = (
        curves.standardise(rising, ts, 1000, mode) for mode in ("dt", "sampling")
    )
    np.testing.assert_allclose(dt, sampling, rtol=1e-12)


def test_continuous_is_the_integral():
    # integral of tau^3 is 1/4, of |1 - 2 tau| is 1/2
    ts = np.array([80, 30])
    for curve, integral in (
        (lambda tau: tau**3, 0.25),
        (lambda tau: np.abs(1 - 2 * tau), 0.5),
    ):
        values = curves.standardise(curve, ts, 100, "continuous")
        np.testing.assert_allclose(values, curve(ts / 100) / integral, rtol=1e-8)


def test_rows_are_standardised_one_by_one():
    rows = np.random.default_rng(0).random((3, 20)) + [[0.1], [1.0], [10.0]]
    ts = np.array([19, 12, 5, 3])
    gathered = rows[:, ts]
    expected = {
        "none": np.ones(3),
        "sampling": gathered.mean(1),
        "train": rows.mean(1),
        "dt": (gathered * [7, 7, 2, 2]).sum(1) / 18,
    }
    for mode, mean in expected.items():
        values = curves.standardise(curves.table(rows, 20), ts, 20, mode)
        np.testing.assert_allclose(values, gathered / mean[:, None], rtol=1e-10)


def test_table_of_T_values_gathers():
    values = np.random.default_rng(1).random((2, 1000))
    ts = np.array([999, 640, 333, 7, 0])
    np.testing.assert_allclose(
        curves.table(values, 1000)(ts / 1000), values[:, ts], rtol=1e-9
    )


def test_table_of_other_lengths_interpolates_in_t():
    curve = curves.table([0.0, 4.0, 0.0], 101)  # nodes at t = 0, 50, 100
    np.testing.assert_allclose(
        curve(np.array([0, 25, 50, 75, 100]) / 101), [0, 2, 4, 2, 0], atol=1e-12
    )
    assert curve(np.zeros(0)).shape == (0,)


@pytest.mark.parametrize(
    "values", [1.0, [1.0], [1.0, np.nan], [np.inf, 1.0], [[1.0], [2.0]]]
)
def test_bad_tables(values):
    with pytest.raises(ValueError, match=r"finite, \[N\] or \[K,N\] with N >= 2"):
        curves.table(values, 1000)


def test_errors_say_what_to_do():
    ts = np.array([9, 4, 0])
    with pytest.raises(ValueError, match="'mean': use one of sampling, train"):
        curves.standardise(rising, ts, 10, "mean")
    for mode in ("sampling", "train", "continuous", "dt"):
        with pytest.raises(ValueError, match='normalize="none"'):
            curves.standardise(np.zeros_like, ts, 10, mode)
    for outside in ([10, 4, 0], [9, 4, -1]):
        with pytest.raises(ValueError, match=r"leave 0 \.\.\. 9"):
            curves.standardise(rising, np.array(outside), 10, "none")
