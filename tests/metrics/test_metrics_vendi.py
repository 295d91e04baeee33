"""Vendi scores: closed forms, vendi-score and dgm-eval, errors by the bootstrap."""

import json
import pathlib

import numpy as np
import pytest
from golden import make_manifold

from progguide_jax.metrics import per_class, vendi

GOLDEN = pathlib.Path(__file__).parents[1] / "golden"
ORDERS = [0.5, 1, 2, np.inf]


@pytest.fixture(scope="module")
def fake():
    return make_manifold.inputs()["fake"]


@pytest.fixture(scope="module")
def golden():
    return json.loads((GOLDEN / "manifold.json").read_text())


@pytest.mark.parametrize("q", ORDERS)
@pytest.mark.parametrize("copies", [1, 7])
def test_copies_of_orthogonal_images_count_once(q, copies):
    """Of any length; with 1 copy of each there are fewer images than dimensions."""
    directions = np.linalg.qr(np.random.default_rng(0).standard_normal((6, 6)))[0][:5]
    x = np.repeat(directions, copies, 0) * np.arange(1, 5 * copies + 1)[:, None]
    np.testing.assert_allclose(vendi.score(x, q).value, 5, rtol=1e-12)
    np.testing.assert_allclose(vendi.score(x[:copies][[0] * 9], q).value, 1, rtol=1e-12)


@pytest.mark.parametrize(
    ("q", "expected"),
    [
        (0.5, (0.75**0.5 + 0.25**0.5) ** 2),
        (1, 0.75**-0.75 * 0.25**-0.25),
        (2, 1 / (0.75**2 + 0.25**2)),
        (np.inf, 1 / 0.75),
    ],
)
def test_unequal_shares(q, expected):
    x = np.array([[1.0, 0, 0], [2, 0, 0], [3, 0, 0], [0, 0, -1]])
    np.testing.assert_allclose(vendi.score(x, q).value, expected, rtol=1e-12)
    wide = np.concatenate([x, np.zeros((4, 5))], 1)  # by K rather than by its dual
    np.testing.assert_allclose(vendi.score(wide, q).value, expected, rtol=1e-12)


def test_agrees_with_vendi_score_and_dgm_eval(fake, golden):
    for q in ORDERS:
        got = vendi.score(fake, q).value
        np.testing.assert_allclose(got, golden["vendi_score"][str(q)], rtol=1e-9)
        got = vendi.score(fake[::30], q).value
        expected = golden["dgm_eval"]["vendi_few"][str(q)]
        np.testing.assert_allclose(got, expected, rtol=1e-9)
    np.testing.assert_allclose(
        vendi.score(fake).value, golden["dgm_eval"]["vendi"], rtol=1e-9
    )
    by_class = per_class.for_each_class(
        lambda rows: vendi.score(fake[rows]).value,
        np.arange(len(fake)) % 5,
        num_classes=5,
    )
    expected = golden["dgm_eval"]["vendi_per_class"]
    np.testing.assert_allclose(list(by_class.values()), expected, rtol=1e-9)


@pytest.mark.parametrize("q", ORDERS)
def test_influence_is_the_change_by_one_more_image(fake, q):
    """d/de of the score of weights (1 - e) / N + e [image i], by differences."""
    x = fake.astype(np.float64)
    x /= np.linalg.norm(x, axis=1, keepdims=True)

    def score(weights):
        values = np.linalg.eigvalsh((x * weights[:, None]).T @ x)
        if q == 1:
            return np.exp(-np.sum(values * np.log(values)))
        return 1 / values[-1] if np.isinf(q) else np.sum(values**q) ** (1 / (1 - q))

    value, terms = vendi.value_and_influence(fake, q)
    np.testing.assert_allclose(terms.sum(), 0, atol=1e-9 * len(fake))
    even, step = np.full(len(x), 1 / len(x)), 1e-4
    for i in (0, 100, 349):
        towards = (np.arange(len(x)) == i) - even
        slope = (score(even + step * towards) - score(even - step * towards)) / 2 / step
        np.testing.assert_allclose(terms[i], slope, rtol=1e-4, atol=1e-5)


def test_influence_by_either_form(fake):
    """Zeros appended: the same images, fewer than dimensions."""
    wide = np.concatenate([fake, np.zeros((350, 400))], 1)
    for q in ORDERS:
        value, terms = vendi.value_and_influence(fake, q)
        again, also = vendi.value_and_influence(wide, q)
        np.testing.assert_allclose(again, value, rtol=1e-9)
        np.testing.assert_allclose(also, terms, atol=1e-8)


def bootstrap(statistic, count, draws, seed=0):
    """Standard error of statistic(index [count]) over resamplings with replacement of
    the images 0 ... count - 1 (Efron 1979)."""
    bits = np.random.Generator(np.random.Philox(seed))
    values = [statistic(bits.integers(0, count, count)) for _ in range(draws)]
    return np.std(values, ddof=1)


@pytest.mark.parametrize("q", [1, np.inf])
def test_the_error_is_that_of_the_bootstrap(fake, q):
    resampled = bootstrap(lambda rows: vendi.score(fake[rows], q).value, len(fake), 300)
    # 300 draws know a standard deviation to 4 %
    np.testing.assert_allclose(vendi.score(fake, q).error, resampled, rtol=0.15)


@pytest.mark.parametrize(("count", "low", "high"), [(16, 0.5, 0.85), (320, 1.15, 1.6)])
def test_the_error_misses_the_spread_of_fresh_images_both_ways(count, low, high):
    """Few images: what others would add is missing. Many: equal eigenvalues."""
    bits = np.random.default_rng(0)
    found = [vendi.score(bits.standard_normal((count, 32))) for _ in range(100)]
    values, errors = np.array(found).T
    assert low < errors.mean() / values.std(ddof=1) < high


def test_blocks_of_rows_are_the_whole(fake, monkeypatch):
    value, terms = vendi.value_and_influence(fake)
    monkeypatch.setattr(vendi, "_ROWS", 64)
    again, also = vendi.value_and_influence(fake)
    np.testing.assert_allclose(again, value, rtol=1e-12)
    np.testing.assert_allclose(also, terms, atol=1e-11)


def test_what_is_refused():
    x = np.ones((4, 3))
    with pytest.raises(ValueError, match="1 rows: .* needs 2"):
        vendi.score(x[:1])
    with pytest.raises(ValueError, match="q of a Vendi score"):
        vendi.score(x, 0)
    with pytest.raises(ValueError, match="all 0 in row 2"):
        vendi.score(x * np.array([1, 1, 0, 1])[:, None])
    with pytest.raises(ValueError, match="not finite in row 1"):
        vendi.score(x * np.array([1, np.inf, 1, 1])[:, None])
