"""The inception score, against limits known by hand, its definition written out, and
the numbers of torch-fidelity and dgm-eval (tests/golden/make_metrics.py)."""

import json
import pathlib

import numpy as np
import pytest
import scipy.special
from golden import make_metrics

from progguide_jax.metrics import inception_score

GOLDEN = json.loads(
    (pathlib.Path(__file__).parents[1] / "golden" / "metrics.json").read_text()
)


def logits(seed, n=300, k=12, scale=2.0):
    return scale * np.random.default_rng(seed).standard_normal((n, k))


def weighted(w, rows):
    """exp(sum_i w_i KL_i), w summing to 1."""
    p = scipy.special.softmax(rows, 1)
    return np.exp(w @ scipy.special.rel_entr(p, w @ p).sum(1))


@pytest.mark.parametrize("splits", make_metrics.SPLITS)
def test_torch_fidelity_agrees(splits):
    # rows ordered by class; 300 rows leave a remainder in 7 splits
    found = inception_score.score(make_metrics.inputs()["logits"], splits)
    expected = GOLDEN["torch_fidelity"]["inception_score"][str(splits)]
    assert found[:2] == pytest.approx(expected, rel=1e-12, abs=1e-14)


def test_dgm_eval_agrees_where_splits_divide_the_images():
    found = inception_score.score(make_metrics.inputs()["logits"])
    expected = GOLDEN["dgm_eval"]["inception_score"]
    assert found[:2] == pytest.approx(expected, rel=1e-11)


def test_limits():
    confident = 100 * np.eye(8)[np.arange(400) % 8]
    found = inception_score.score(confident, splits=1)
    assert found == pytest.approx((8, 0, 0), abs=1e-10)
    # a class of which no image has a trace counts with 0 log 0 = 0
    unseen = np.insert(100 * confident, 8, 0, axis=1)
    assert inception_score.score(unseen, 1) == pytest.approx((8, 0, 0), abs=1e-12)
    same = np.tile(logits(0, n=1), (50, 1))
    assert inception_score.score(same) == pytest.approx((1, 0, 0), abs=1e-12)


def test_a_constant_or_a_permutation_changes_nothing():
    rows = logits(1)
    found = inception_score.score(rows, 1)
    moved = rows + np.random.default_rng(2).uniform(-900, 900, (300, 1))
    assert inception_score.score(moved, 1) == pytest.approx(found, rel=1e-9, abs=1e-12)
    assert inception_score.score(rows[::-1], 1) == pytest.approx(found, rel=1e-12)


def test_rows_in_blocks(monkeypatch):
    rows = logits(3)
    whole, terms = inception_score.score_and_terms(rows)
    monkeypatch.setattr(inception_score, "_ROWS", 7)
    again, also = inception_score.score_and_terms(rows)
    assert again == pytest.approx(whole, rel=1e-12)
    assert inception_score.score(rows) == again
    np.testing.assert_allclose(also, terms, atol=1e-12)


def test_float32_logits_are_scored_in_float64():
    rows = logits(4).astype(np.float32)
    assert inception_score.score(rows) == inception_score.score(rows.astype(np.float64))


def test_classes_in_order_are_shuffled():
    ordered = 100 * np.eye(10)[np.arange(5000) // 500]
    found = inception_score.score(ordered)
    assert found.mean > 9.8  # in order, each split of 500 would score 1


@pytest.mark.parametrize("splits", [1, 3])
def test_terms_are_the_derivative_in_an_image_s_weight(splits):
    """Of the mean over splits (40 images: 13, 13, 14), whose images share one weight;
    the derivative by differences of the definition."""
    rows, count, step = logits(5, n=40), 40, 1e-5
    order = np.random.RandomState(2020).permutation(count)
    cuts = [i * count // splits for i in range(1, splits)]

    def mean(w):
        parts = np.split(order, cuts)
        return np.mean([weighted(w[p] / w[p].sum(), rows[p]) for p in parts])

    even = np.full(count, 1 / count)
    found, terms = inception_score.score_and_terms(rows, splits)
    assert found.mean == pytest.approx(mean(even), rel=1e-12)
    slope = [
        (mean(even + step * (e - even)) - mean(even - step * (e - even))) / (2 * step)
        for e in np.eye(count)
    ]
    np.testing.assert_allclose(terms, slope, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("splits", [1, 10])
def test_error_is_the_spread_over_many_draws(splits):
    draws = [inception_score.score(logits(100 + i), splits) for i in range(300)]
    values, _, errors = np.array(draws).T
    assert values.std(ddof=1) == pytest.approx(errors.mean(), rel=4 / np.sqrt(600))


def test_error_where_a_split_has_fewer_images_than_classes():
    """First order: .7 to .8 of the spread. The error of one score of all 200 images,
    which knows their classes better, would be four times the spread."""
    draws = [
        inception_score.score(logits(100 + i, n=200, k=200, scale=4.0))
        for i in range(100)
    ]
    values, _, errors = np.array(draws).T
    assert 0.55 < errors.mean() / values.std(ddof=1) < 0.9


def test_what_cannot_be_scored_is_named():
    with pytest.raises(ValueError, match="10 splits needs 20 images or more.* got 19"):
        inception_score.score(logits(7, n=19))
    with pytest.raises(ValueError, match="1 splits needs 2 images .* got 1 images"):
        inception_score.score(logits(7, n=1), 1)
    with pytest.raises(ValueError, match="1 split or more"):
        inception_score.score(logits(7), 0)
    bad = logits(8)
    bad[17, 3] = np.inf
    with pytest.raises(ValueError, match="logits is not finite in row 17"):
        inception_score.score(bad)
