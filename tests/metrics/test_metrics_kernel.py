"""Unbiased MMD^2 with the cubic kernel, against sums by hand, a plain double loop and
the numbers of torch-fidelity and dgm-eval (tests/golden/make_metrics.py)."""

import itertools
import json
import pathlib

import numpy as np
import pytest
from golden import make_metrics

from progguide_jax.metrics import kernel

GOLDEN = json.loads(
    (pathlib.Path(__file__).parents[1] / "golden" / "metrics.json").read_text()
)


def sample(seed, n, shift=0.0, dim=5):
    return np.random.default_rng(seed).standard_normal((n, dim)) + shift


def loop(a, b):
    """MMD^2 from its definition, pair after pair."""

    def k(x, y):
        return (float(x @ y) / len(x) + 1) ** 3

    within = [
        np.mean([k(x, y) for x, y in itertools.permutations(s, 2)]) for s in (a, b)
    ]
    return sum(within) - 2 * np.mean([k(x, y) for x, y in itertools.product(a, b)])


def test_three_points_by_hand():
    a = np.array([[0.0, 0], [2, 0], [0, 2]])
    b = np.array([[2.0, 2], [0, 0], [-2, 0]])
    # k = (x.y / 2 + 1)^3; within a all pairs 1; within b 1, 1, (-2 + 1)^3 = -1;
    # a b: 1 1 1, 27 1 -1, 27 1 1
    by_hand = 1 + (1 + 1 - 1) / 3 - 2 * (3 + 27 + 27 + 1 + 1 + 1 - 1) / 9
    found = kernel.mmd2(a, b)
    assert found.value == pytest.approx(by_hand, rel=1e-14)
    once = kernel.kid(a, b, subsets=2, subset_size=3)
    assert once == pytest.approx((by_hand, 0), rel=1e-14, abs=1e-13)


@pytest.mark.parametrize("rows", [4, 7, 100])
def test_blocks_of_the_kernel_s_matrix(monkeypatch, rows):
    monkeypatch.setattr(kernel, "_ROWS", rows)
    a, b = sample(0, 20), sample(1, 13, 0.5)
    found = kernel.mmd2(a, b)
    assert found.value == pytest.approx(loop(a, b), rel=1e-12)
    jackknife = 0
    for first, second, swap in ((a, b, False), (b, a, True)):
        left = [np.delete(first, i, 0) for i in range(len(first))]
        values = [loop(second, x) if swap else loop(x, second) for x in left]
        jackknife += (len(values) - 1) * np.var(values)
    assert found.error == pytest.approx(np.sqrt(jackknife), rel=1e-10)
    assert kernel.mmd2(b, a) == pytest.approx(found, rel=1e-12)
    assert kernel.mmd2(a[::-1], b) == pytest.approx(found, rel=1e-12)


def test_references_agree():
    arrays = make_metrics.inputs()
    a, b = arrays["features"], arrays["features_ref"]
    found = kernel.kid(a, b, make_metrics.SUBSETS, make_metrics.SUBSET_SIZE)
    assert found == pytest.approx(GOLDEN["torch_fidelity"]["kid"], rel=1e-12)
    exact = kernel.mmd2(a[: len(b)], b).value
    assert exact == pytest.approx(GOLDEN["dgm_eval"]["mmd2"], rel=1e-12)


def test_float32_features_are_summed_in_float64():
    a, b = sample(2, 50).astype(np.float32), sample(3, 60).astype(np.float32)
    doubles = a.astype(np.float64), b.astype(np.float64)
    assert kernel.mmd2(a, b) == kernel.mmd2(*doubles)
    assert kernel.kid(a, b, 3, 20) == kernel.kid(*doubles, 3, 20)


@pytest.mark.parametrize("shift", [0.0, 0.4])
def test_unbiased_and_the_error_over_many_draws(shift):
    # E (x.y/D + 1)^3 for x ~ N(s, I), y ~ N(u, I), independent: with z = x.y / D,
    # 1 + 3 E z + 3 E z^2 + E z^3 from E x = s, E x x^T = I + s s^T, ... exactly, by
    # Gauss-Hermite quadrature in D = 1
    nodes, weights = np.polynomial.hermite_e.hermegauss(8)
    weights = weights / weights.sum()

    def expected(s, u):
        return weights @ (np.outer(nodes + s, nodes + u) + 1) ** 3 @ weights

    exact = expected(0, 0) + expected(shift, shift) - 2 * expected(0, shift)
    draws = 400
    found = [
        kernel.mmd2(sample(2 * i, 60, dim=1), sample(2 * i + 1, 40, shift, dim=1))
        for i in range(10, 10 + draws)
    ]
    values, errors = np.array(found).T
    spread = values.std(ddof=1)
    assert values.mean() == pytest.approx(exact, abs=4 * spread / np.sqrt(draws))
    ratio = np.sqrt(np.mean(errors**2)) / spread
    assert 0.85 < ratio < 1.6  # not too small; at most sqrt(2) for equal distributions


def test_too_few_images_are_named():
    a, b = sample(4, 999), sample(5, 1200)
    with pytest.raises(ValueError, match="needs 1000 images in both sets, got 999"):
        kernel.kid(a, b)
    with pytest.raises(ValueError, match="got 1200 and 999"):
        kernel.kid(b, a)
    with pytest.raises(ValueError, match="1 subset of 2 images or more, got 5 of 1"):
        kernel.kid(a, b, 5, 1)
    with pytest.raises(ValueError, match="3 images in both sets, got 2 and 1200"):
        kernel.mmd2(a[:2], b)
    with pytest.raises(ValueError, match="5 and 4 dimensions"):
        kernel.mmd2(a, b[:, :4])
    b[6, 1] = np.nan
    with pytest.raises(
        ValueError, match="second set of features is not finite in row 6"
    ):
        kernel.mmd2(a, b)
