"""CLIP score, accuracy and the motion metrics: by hand and by the published code."""

import json
import pathlib

import numpy as np
import pytest
from golden import make_manifold

from progguide_jax.metrics import alignment, per_class

GOLDEN = pathlib.Path(__file__).parents[1] / "golden"


@pytest.fixture(scope="module")
def golden():
    whole = json.loads((GOLDEN / "manifold.json").read_text())
    return whole["motion_diffusion_model"]


def test_clip_score_by_hand():
    """cos 1, 0, -1 and 3/5: negative cosines count, lengths do not."""
    image = np.array([[2, 0], [0, 1], [1, 1], [1, 0]], np.float32)
    text = np.array([[5, 0], [3, 0], [-2, -2], [3, 4]], np.float32)
    expected = np.array([1, 0, -1, 0.6])
    np.testing.assert_allclose(alignment.cosines(image, text), expected, atol=1e-15)
    got = alignment.clip_score(image, text)
    np.testing.assert_allclose(got.value, 0.15)
    np.testing.assert_allclose(got.error, expected.std(ddof=1) / 2)


def test_accuracy_by_hand():
    logits = np.array([[1, 2, 0], [5, 5, 1], [0, -1, -2], [0, 1, 9], [3, 2, 1.0]])
    labels = np.array([1, 0, 2, 2, 1], np.int32)
    expected = [1, 1, 0, 1, 0]  # of equal logits the first
    np.testing.assert_array_equal(alignment.correct(logits, labels), expected)
    got = alignment.accuracy(logits, labels, 3)
    np.testing.assert_allclose(got, (0.6, np.sqrt(0.6 * 0.4 / 4)), rtol=1e-12)
    by_class = per_class.for_each_class(
        lambda i: alignment.correct(logits[i], labels[i]).mean(), labels, num_classes=3
    )
    assert by_class == {0: 1.0, 1: 0.5, 2: 0.5}


def test_motion_metrics_are_those_of_the_motion_diffusion_model(golden):
    arrays = make_manifold.inputs()
    motion, rows = arrays["motion"], arrays["motion"].reshape(240, 8)
    draws, pairs = make_manifold.DRAWS, make_manifold.PAIRS
    seed = make_manifold.SEED
    got = {
        "mm_dist": alignment.mm_dist(arrays["text"], rows).value,
        "multimodality": alignment.multimodality(motion, draws, seed).value,
        "diversity": alignment.motion_diversity(rows, pairs, seed).value,
    }
    assert got == pytest.approx(golden, rel=1e-12)


def test_motion_metrics_leave_the_global_generator_alone():
    np.random.seed(3)
    expected = np.random.random()
    np.random.seed(3)
    alignment.multimodality(np.random.default_rng(0).standard_normal((3, 12, 2)))
    assert np.random.random() == expected


def test_multimodality_shares_its_draws_and_errs_over_texts():
    """All texts alike: one distance, no error, though the motions of each differ."""
    one = np.random.default_rng(0).standard_normal((1, 15, 4))
    same = alignment.multimodality(np.repeat(one, 5, 0), seed=1)
    assert same.value > 0 and same.error < 1e-15
    # a text scaled by s has distances scaled by s: 1, 2, 3 times d
    scaled = alignment.multimodality(one * np.array([1, 2, 3])[:, None, None], seed=1)
    np.testing.assert_allclose(scaled.value, 2 * same.value)
    np.testing.assert_allclose(scaled.error, same.value / np.sqrt(3))


def test_motion_errors_by_hand():
    text, motion = np.zeros((3, 2)), np.array([[3, 4], [0, 0], [0, 1.0]])
    got = alignment.mm_dist(text, motion)
    np.testing.assert_allclose(got, (2, np.sqrt(7 / 3)), rtol=1e-12)  # of 5, 0, 1


def test_repeated_by_hand():
    """std with ddof 0, as the published evaluation has it: of 1 ... 5 it is sqrt 2."""
    got = alignment.repeated(lambda seed: seed + 1.0, range(5))
    np.testing.assert_allclose(got, (3, 1.96 * np.sqrt(2 / 5)), rtol=1e-12)
    seen = []
    alignment.repeated(lambda seed: seen.append(seed) or 0.0)
    assert seen == list(range(20))


def test_what_is_refused():
    x = np.ones((4, 3))
    with pytest.raises(ValueError, match="belong to row i of the other"):
        alignment.clip_score(x, x[:3])
    with pytest.raises(ValueError, match="all 0 in row 2"):
        alignment.clip_score(x, x * np.array([1, 1, 0, 1])[:, None])
    with pytest.raises(ValueError, match="text embeddings is not finite in row 0"):
        alignment.mm_dist(x * np.nan, x)
    with pytest.raises(ValueError, match="logits of 3 classes for samples of 10"):
        alignment.accuracy(x, np.zeros(4, int), 10)
    with pytest.raises(ValueError, match=r"label 3 in row 1: expected 0 \.\.\. 2"):
        alignment.accuracy(x, np.array([0, 3, 0, 0]))
    with pytest.raises(ValueError, match="10 draws need 11 repeats of a text, got 10"):
        alignment.multimodality(np.zeros((3, 10, 2)))
    with pytest.raises(ValueError, match="300 draws need 301 motions, got 300"):
        alignment.motion_diversity(np.zeros((300, 2)))
    with pytest.raises(ValueError, match="expected .texts,repeats,D"):
        alignment.multimodality(x)
    with pytest.raises(ValueError, match="needs 2 seeds, got 1"):
        alignment.repeated(float, [0])
