"""Every metric by name, against the numbers of torch-fidelity, prdc and dgm-eval of
tests/golden, so that a swapped argument, another k or another seed shows."""

import functools
import inspect
import json
import pathlib

import numpy as np
import pytest
from golden import make_manifold, make_metrics

from progguide_jax.metrics import frechet, kernel, manifold, suite

GOLDEN = pathlib.Path(__file__).parents[1] / "golden"
METRICS = json.loads((GOLDEN / "metrics.json").read_text())
MANIFOLD = json.loads((GOLDEN / "manifold.json").read_text())
KID = inspect.signature(kernel.kid)


def reference(x):
    m = frechet.of(x)
    covariance = frechet.covariance(m)
    return suite.Reference(m.mean, covariance, x, frechet.root(covariance))


@pytest.fixture
def gaussians(monkeypatch):
    """(sample [600,24], reference of [500,24]) of make_metrics; subsets of KID as small
    as there, its seed and the order of its sets as `suite` has them."""
    sizes = dict(subsets=make_metrics.SUBSETS, subset_size=make_metrics.SUBSET_SIZE)
    monkeypatch.setattr(kernel, "kid", functools.partial(kernel.kid, **sizes))
    arrays = make_metrics.inputs()
    return suite.Sample(arrays["features"]), reference(arrays["features_ref"])


@pytest.fixture(scope="module")
def clusters():
    """(sample [350,16], reference of [400,16]) of make_manifold."""
    arrays = make_manifold.inputs()
    return suite.Sample(arrays["fake"]), reference(arrays["real"])


@pytest.mark.parametrize("root", [True, False])
def test_frechet_distances(gaussians, root):
    sample, ref = gaussians
    if not root:
        ref = ref._replace(root=None)
    names, seed = ("fd_infinity", "fd"), make_metrics.INFINITY_SEED
    found = suite.score(names, sample, ref, seed=seed)
    assert tuple(found) == names  # as asked for
    fd, infinity = found["fd"], found["fd_infinity"]
    assert fd.value == pytest.approx(METRICS["torch_fidelity"]["fid"], rel=1e-12)
    expected = METRICS["dgm_eval"]["fd_infinity"]
    assert infinity.value == pytest.approx(expected, rel=1e-11)
    assert fd.terms.shape == (600,) and infinity.terms is None
    assert fd.error == pytest.approx(fd.terms.std(ddof=1) / np.sqrt(600), rel=1e-12)
    both = np.hypot(fd.error, infinity.more["fit_error"])
    assert infinity.error == pytest.approx(both, rel=1e-12)
    assert 0 < infinity.more["fit_error"] < infinity.error
    alone = suite.score(["fd_infinity"], sample, ref, seed=seed)
    assert list(alone) == ["fd_infinity"] and alone["fd_infinity"] == infinity


def test_one_solution_serves_both_frechet_distances(gaussians, monkeypatch):
    solved = []
    solve = frechet.value_and_influence
    monkeypatch.setattr(
        frechet, "value_and_influence", lambda *a: solved.append(1) or solve(*a)
    )
    for names in (("fd", "fd_infinity"), ("fd_infinity", "fd")):
        suite.score(names, *gaussians)
    assert len(solved) == 2


def test_inception_score():
    logits = make_metrics.inputs()["logits"]
    sample = suite.Sample(np.zeros((300, 2)), logits)
    score = suite.score(["is"], sample, suite.Reference(None, None), seed=5)["is"]
    mean, std = METRICS["torch_fidelity"]["inception_score"]["10"]
    assert score.value == pytest.approx(mean, rel=1e-12)
    assert score.more == pytest.approx({"std": std}, rel=1e-11)
    assert score.terms.shape == (300,)
    error = score.terms.std(ddof=1) / np.sqrt(300)
    assert score.error == pytest.approx(error, rel=1e-12)


def test_kernel_distance(gaussians):
    sample, ref = gaussians
    score = suite.score(["kd"], sample, ref, seed=5)["kd"]
    mean, std = METRICS["torch_fidelity"]["kid"]
    assert score.value == pytest.approx(mean, rel=1e-12)
    assert score.more["std"] == pytest.approx(std, rel=1e-12)
    assert score.terms is None
    # 500 of the 600 rows, as many as the reference has
    few = sample.features[suite.subset(600, 500, 5)]
    all_images = kernel.mmd2(few, ref.features)
    assert (score.more["all"], score.error) == pytest.approx(all_images, rel=1e-12)
    first = suite.Sample(sample.features[:500])
    score = suite.score(["kd"], first, ref)["kd"]
    assert score.more["all"] == pytest.approx(METRICS["dgm_eval"]["mmd2"], rel=1e-12)
    # what torch-fidelity takes where nothing is said
    defaults = {k: p.default for k, p in KID.parameters.items()}
    defaults = {k: v for k, v in defaults.items() if isinstance(v, int)}
    assert defaults == dict(subsets=100, subset_size=1000, seed=2020)


def test_shares_of_manifolds(clusters):
    names = ("precision_recall", "density_coverage")
    found = suite.score(names, *clusters, seed=1)
    shares = [found[name].value for name in ("precision", "recall")]
    expected = MANIFOLD["torch_fidelity"]["clusters"]["3"]
    np.testing.assert_allclose(shares, expected, rtol=1e-7)  # they average in float32
    shares = [found[name].value for name in ("density", "coverage")]
    expected = MANIFOLD["prdc"]["clusters"]["5"]
    np.testing.assert_allclose(shares, expected, rtol=1e-12)
    terms = {name: np.shape(score.terms) for name, score in found.items()}
    # those of recall and coverage belong to real images: no difference pairs by them
    assert terms == dict(precision=(350,), recall=(), density=(350,), coverage=())
    assert all(s.more == {"samples": 350, "reference": 400} for s in found.values())


def test_vendi(clusters):
    sample, _ = clusters
    score = suite.score(["vendi"], sample, suite.Reference(None, None))["vendi"]
    assert score.value == pytest.approx(MANIFOLD["vendi_score"]["1"], rel=1e-9)
    assert score.terms.shape == (350,)


def test_scores_of_labelled_samples(clusters):
    features, labels = clusters[0].features, np.arange(350) % 5
    logits = np.eye(5)[(labels + (np.arange(350) % 7 == 0)) % 5]
    sample = suite.Sample(features, logits, labels)
    names = ("diversity", "accuracy")
    found = suite.score(names, sample, suite.Reference(None, None))
    stds = [features[labels == c].std(0, ddof=1, dtype=float).mean() for c in range(5)]
    assert found["diversity"].value == pytest.approx(np.mean(stds), rel=1e-9)
    assert found["diversity"].terms.shape == (350,)
    accuracy = found["accuracy"]
    assert accuracy.value == pytest.approx(6 / 7, rel=1e-12)
    assert accuracy.error == pytest.approx(np.sqrt(6 / 49 / 349), rel=1e-12)
    np.testing.assert_array_equal(accuracy.terms, np.arange(350) % 7 != 0)


def test_more_samples_than_the_reference_has_are_thinned(clusters):
    sample, ref = clusters
    few = ref._replace(features=ref.features[100:])
    chosen = suite.subset(350, 300, 9)
    for name, terms_of, k in (
        ("precision_recall", manifold.precision_recall_terms, 3),
        ("density_coverage", manifold.density_coverage_terms, 5),
    ):
        first, second = suite.score([name], sample, few, seed=9).values()
        expected = terms_of(few.features, sample.features[chosen], k)
        np.testing.assert_array_equal(first.terms, expected[0])
        assert second.value == pytest.approx(np.mean(expected[1]), rel=1e-12)


def test_a_subset_is_a_function_of_its_numbers():
    chosen = suite.subset(1000, 100, 3)
    np.testing.assert_array_equal(chosen, suite.subset(1000, 100, 3))
    assert len(chosen) == 100 and (np.diff(chosen) > 0).all()
    assert 0 <= chosen.min() and chosen.max() < 1000
    assert not np.array_equal(chosen, suite.subset(1000, 100, 4))
    np.testing.assert_array_equal(suite.subset(5, 9, 0), np.arange(5))
    often = np.concatenate([suite.subset(10, 3, seed) for seed in range(1000)])
    counts = np.bincount(often, minlength=10)  # 300 each, give or take 14.5
    assert (np.abs(counts - 300) < 4 * 14.5).all()


def test_names():
    assert set(suite.names()) == set(suite.MINIMUM)
    every = [score for name in suite.names() for score in suite.scores_of(name)]
    assert every == (
        "fd fd_infinity is kd precision recall density coverage vendi diversity "
        "accuracy".split()
    )
    lower = [score for score in every if suite.better(score) == "lower"]
    assert lower == ["fd", "fd_infinity", "kd"]
    assert {suite.better(score) for score in every} == {"lower", "higher"}
    public = [suite.public_name(score, "inception") for score in every[:5]]
    assert public == ["fid", "fid_infinity", "is", "kid", "precision_inception"]
    other = [suite.public_name(score, "dinov2") for score in every[:4]]
    assert other == ["fd_dinov2", "fd_infinity_dinov2", "is_dinov2", "kd_dinov2"]


def test_too_few_images_are_named():
    suite.check_count(("kd", "fd"), 1000, "cells")
    with pytest.raises(ValueError, match="kd needs 1000 .* and cells has 999: make"):
        suite.check_count(("fd", "kd"), 999, "cells")
    for name, count in suite.MINIMUM.items():
        suite.check_count([name], count, "cells")
        with pytest.raises(ValueError, match=f"^{name} needs {count} images"):
            suite.check_count([name], count - 1, "cells")


@pytest.mark.parametrize(
    "name", ["fd", "fd_infinity", "is", "vendi", "diversity", "accuracy"]
)
def test_the_minimum_is_enough_and_one_less_is_not(name):
    """Of one class, as scores per class have it."""
    ref = reference(np.random.default_rng(0).standard_normal((30, 4)))
    x = np.random.default_rng(1).standard_normal((suite.MINIMUM[name], 4))
    sample = suite.Sample(x, x, np.zeros(len(x), int))
    assert suite.score([name], sample, ref)
    less = suite.Sample(x[1:], x[1:], np.zeros(len(x) - 1, int))
    with pytest.raises(ValueError, match=f"^{name}: "):
        suite.score([name], less, ref)


LACKING = [
    ("is", "logits", "come without logits: use a classifier's"),
    ("accuracy", "logits", "come without logits: use a classifier's"),
    ("accuracy", "labels", "samples have no labels"),
    ("diversity", "labels", "samples have no labels"),
    ("kd", "reference_features", "python -m eval.reference"),
    ("precision_recall", "reference_features", "python -m eval.reference"),
    ("density_coverage", "reference_features", "python -m eval.reference"),
]


@pytest.mark.parametrize("name, lacking, words", LACKING)
def test_what_a_metric_lacks_is_said_early_and_late(clusters, name, lacking, words):
    sample, ref = clusters
    sample = sample._replace(logits=np.zeros((350, 3)), labels=np.arange(350) % 3)
    if lacking == "reference_features":
        ref = ref._replace(features=None)
    else:
        sample = sample._replace(**{lacking: None})
    there = dict(logits=True, labels=True, reference_features=True) | {lacking: False}
    with pytest.raises(ValueError, match=f"^{name}: .*{words}") as early:
        suite.check(["fd", name], **there)
    with pytest.raises(ValueError) as late:
        suite.score(["fd", name], sample, ref)
    assert str(late.value) == str(early.value)
    assert len(str(early.value).splitlines()) == 1


@pytest.mark.parametrize("lacking", ["logits", "labels", "reference_features"])
def test_what_is_not_needed_may_lack(lacking):
    there = dict(logits=True, labels=True, reference_features=True) | {lacking: False}
    needing = {name for name, what, _ in LACKING if what == lacking}
    suite.check([name for name in suite.names() if name not in needing], **there)


@pytest.mark.parametrize(
    "name",
    ["fd", "fd_infinity", "kd", "precision_recall", "density_coverage", "vendi"],
)
def test_long_loops_are_shown_and_nothing_changes(gaussians, name):
    seen = []

    def track(items, what):
        yield from items
        seen.append((what, len(items)))  # to its end

    shown = suite.score((name,), *gaussians, track=track)
    assert seen and all(what and count for what, count in seen)
    for score, expected in suite.score((name,), *gaussians).items():
        assert shown[score][:2] == expected[:2]  # value and error


def test_diversity_needs_three_images_of_each_class():
    with pytest.raises(ValueError, match="3 images of each of 10 classes .* make 30"):
        suite.check_count(("diversity",), 29, "sample.num_images", 10)
    suite.check_count(("diversity",), 30, "sample.num_images", 10)
    suite.check_count(("diversity",), 29, "sample.num_images")
