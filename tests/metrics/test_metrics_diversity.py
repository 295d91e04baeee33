"""The paper's diversity: by hand, on Gaussians, and its errors."""

import numpy as np
import pytest

from progguide_jax.metrics import diversity

X = np.array([[1, 0], [3, 5], [0, 0], [5, 5], [2, -6], [3, 5]], np.float32)
LABELS = np.array([4, 4, 7, 4, 7, 4])


def test_by_hand():
    """Class 4 has 1, 3, 5, 3 and 0, 5, 5, 5: stds sqrt(8/3) and 2.5; class 7 has
    sqrt(2) and 3 sqrt(2)."""
    classes, values = diversity.per_condition(X, LABELS)
    np.testing.assert_array_equal(classes, [4, 7])
    expected = [(np.sqrt(8 / 3) + 2.5) / 2, 2 * np.sqrt(2)]
    np.testing.assert_allclose(values, expected, rtol=1e-12)
    got = diversity.diversity(X, LABELS, over="conditions")
    np.testing.assert_allclose(got.value, np.mean(expected), rtol=1e-12)
    np.testing.assert_allclose(got.error, abs(expected[0] - expected[1]) / 2)


def draw(seed, counts=(40, 160), width=6):
    """Two classes of unequal size: stds 1 ... 3 and 2 ... 6 around any mean."""
    bits = np.random.default_rng(seed)
    labels = np.repeat([0, 1], counts)
    spread = np.linspace(1, 3, width) * (1 + labels)[:, None]
    return spread * bits.standard_normal((len(labels), width)) + 50 * labels[:, None], (
        labels
    )


def test_the_error_over_images_is_the_spread_of_fresh_images():
    scores = [diversity.diversity(*draw(seed)) for seed in range(400)]
    values, errors = np.array(scores).T
    # each std is low by 1 / (4 n): .6 % with 40 images
    np.testing.assert_allclose(values.mean(), 3, rtol=6e-3)
    # 400 draws know their spread to 4 %
    np.testing.assert_allclose(errors.mean(), values.std(ddof=1), rtol=0.08)


def test_the_error_over_images_is_that_of_the_bootstrap():
    x, labels = draw(0)
    bits = np.random.default_rng(1)
    mine = [np.flatnonzero(labels == c) for c in (0, 1)]
    values = []
    for _ in range(400):
        again = np.concatenate([bits.choice(m, len(m)) for m in mine])
        values.append(diversity.diversity(x[again], labels).value)
    error = diversity.diversity(x, labels).error
    np.testing.assert_allclose(error, np.std(values, ddof=1), rtol=0.15)


def jackknife(x, labels):
    """Each image left out in turn, condition after condition, as the formula reads."""
    classes = np.unique(labels)
    variance = 0
    for c in classes:
        rows = x[labels == c]
        n = len(rows)
        left = [np.delete(rows, i, 0).std(0, ddof=1).mean() for i in range(n)]
        variance += (n - 1) * np.var(left) / len(classes) ** 2
    return np.sqrt(variance)


@pytest.mark.parametrize("counts", [(3, 3), (3, 7), (40, 160)])
def test_the_error_over_images_is_that_of_the_jackknife(counts):
    x, labels = draw(2, counts)
    value, terms = diversity.value_and_influence(x, labels)
    error = terms.std(ddof=1) / np.sqrt(len(x))
    np.testing.assert_allclose(error, jackknife(x, labels), rtol=1e-10)
    # the sign of an influence: the image farthest out adds most
    spread = np.array([np.ptp(x[labels == c], 0) for c in (0, 1)])
    far = np.abs((x - 50 * labels[:, None]) / spread[labels]).sum(1)
    assert np.corrcoef(far, terms)[0, 1] > 0.5


@pytest.mark.parametrize(("n", "low", "high"), [(3, 1.1, 1.45), (10, 1, 1.25)])
def test_the_error_of_few_images_is_not_too_small(n, low, high):
    labels = np.repeat(np.arange(5), n)
    bits = np.random.default_rng(3)
    scale = (1 + labels)[:, None]
    rows = (scale * bits.standard_normal((len(labels), 6)) for _ in range(400))
    found = [diversity.diversity(x, labels) for x in rows]
    values, errors = np.array(found).T
    assert low < errors.mean() / values.std(ddof=1) < high


def test_only_within_a_condition():
    """A shift of a whole class is no diversity; order does not matter."""
    x, labels = draw(1)
    value, terms = diversity.value_and_influence(x, labels)
    shifted = x + np.array([3.0, -7.0])[labels][:, None]
    np.testing.assert_allclose(
        diversity.diversity(shifted, labels).value, value, rtol=1e-12
    )
    order = np.random.default_rng(0).permutation(len(x))
    again, moved = diversity.value_and_influence(x[order], labels[order])
    np.testing.assert_allclose(again, value, rtol=1e-12)
    np.testing.assert_allclose(moved, terms[order], atol=1e-10)


def test_copies_have_no_diversity_and_no_error():
    x = np.repeat([[1.0, 2], [3, 4]], 5, 0)
    assert diversity.diversity(x, np.repeat([0, 1], 5)) == (0, 0)


def test_what_is_refused():
    with pytest.raises(ValueError, match="class 3 has 1 image"):
        diversity.diversity(np.zeros((5, 2)), np.array([0, 0, 3, 1, 1]))
    with pytest.raises(ValueError, match="class 7 has 2 images: the error .* needs 3"):
        diversity.diversity(X, LABELS)
    with pytest.raises(ValueError, match=r"integers \[5\], one an image"):
        diversity.diversity(np.zeros((5, 2)), np.zeros(4, int))
    with pytest.raises(ValueError, match="float64 of shape"):
        diversity.diversity(np.zeros((5, 2)), np.zeros(5))
    with pytest.raises(ValueError, match='"images" or "conditions"'):
        diversity.diversity(X, LABELS, over="prompts")
    with pytest.raises(ValueError, match="over conditions needs 2"):
        diversity.diversity(X[:2], LABELS[:2], over="conditions")
    with pytest.raises(ValueError, match="not finite in row 4"):
        broken = X.copy()
        broken[4, 0] = np.nan
        diversity.diversity(broken, LABELS)
