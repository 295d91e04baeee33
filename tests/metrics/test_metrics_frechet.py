"""The Frechet distance, against closed forms, the nuclear norm, SciPy's matrix root and
the numbers of torch-fidelity and dgm-eval (tests/golden/make_metrics.py)."""

import json
import pathlib

import numpy as np
import pytest
import scipy.linalg
from golden import make_metrics

from progguide_jax.metrics import frechet

GOLDEN = json.loads(
    (pathlib.Path(__file__).parents[1] / "golden" / "metrics.json").read_text()
)
DIM = 7


def sample(seed, n, dim=DIM, shift=0.0):
    """Correlated rows [n,dim]."""
    bits = np.random.default_rng(seed)
    mix = bits.standard_normal((dim, dim)) / 3 + np.diag(np.linspace(0.3, 2, dim))
    return bits.standard_normal((n, dim)) @ mix + shift


def statistics(x):
    m = frechet.of(x)
    return m.mean, frechet.covariance(m)


def rotation(seed, dim=DIM):
    q = np.random.default_rng(seed).standard_normal((dim, dim))
    return np.linalg.qr(q)[0]


def weighted_nuclear(w, x, y):
    """FD of rows x with weights w (sum 1) from rows y: tr (S1 S2)^{1/2} is the nuclear
    norm of the product of the centred rows. ddof 1 by the factor n / (n - 1)."""
    mean = w @ x
    a = (x - mean) * np.sqrt(w * len(x) / (len(x) - 1))[:, None]
    b = (y - y.mean(0)) / np.sqrt(len(y) - 1)
    shift = mean - y.mean(0)
    norm = np.linalg.norm(a @ b.T, "nuc")
    return shift @ shift + np.sum(a**2) + np.sum(b**2) - 2 * norm


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_moments_are_those_of_numpy(dtype):
    x = (1000 + sample(0, 9000, shift=3)).astype(dtype)  # more rows than a block has
    mean, cov = statistics(x)
    exact = x.astype(np.float64)
    assert mean.dtype == cov.dtype == np.float64
    np.testing.assert_allclose(mean, exact.mean(0), rtol=1e-13)
    np.testing.assert_allclose(cov, np.cov(exact.T), rtol=1e-9, atol=1e-9)


def test_batches_in_any_order_and_merged_parts_are_the_whole():
    x = sample(1, 1000)
    whole = frechet.of(x)
    cuts = [0, 1, 2, 130, 130, 700, 1000]
    parts = [x[a:b] for a, b in zip(cuts[:-1], cuts[1:], strict=True)]
    streamed = frechet.empty(DIM)
    for part in parts[::-1]:
        streamed = frechet.update(streamed, part)
    tree = [frechet.of(x[i::8]) for i in range(8)]  # one per device
    while len(tree) > 1:
        tree = [frechet.merge(*tree[i : i + 2]) for i in range(0, len(tree), 2)]
    for m in (streamed, tree[0], frechet.merge(frechet.empty(DIM), whole)):
        assert m.count == 1000
        np.testing.assert_allclose(m.mean, whole.mean, atol=1e-13)
        np.testing.assert_allclose(m.scatter, whole.scatter, rtol=1e-11, atol=1e-9)
    nothing = frechet.merge(frechet.empty(DIM), frechet.empty(DIM))
    assert nothing.count == 0 and not nothing.scatter.any()


def test_commuting_covariances():
    bits = np.random.default_rng(2)
    a, b = bits.uniform(0, 4, (2, DIM))
    a[0] = b[1] = 0
    q, mean1, mean2 = rotation(3), *bits.standard_normal((2, DIM))
    cov1, cov2 = (q * a) @ q.T, (q * b) @ q.T
    exact = np.sum((mean1 - mean2) ** 2) + np.sum((np.sqrt(a) - np.sqrt(b)) ** 2)
    assert frechet.distance(mean1, cov1, mean2, cov2) == pytest.approx(exact, rel=1e-7)


def test_two_gaussians_that_differ_along_the_class_axis():
    # class axis: mean and deviation (mu sqrt(d), s_u); all others: deviation s_p
    d, mu, s_u, s_p, m, s = 16, 0.7, 0.1, 0.24, 0.5, 0.25
    axis = np.ones(d) / np.sqrt(d)
    across = np.eye(d) - np.outer(axis, axis)
    cov = s_u**2 * np.outer(axis, axis) + s_p**2 * across
    exact = d * (mu - m) ** 2 + (s_u - s) ** 2 + (d - 1) * (s_p - s) ** 2
    found = frechet.distance(np.full(d, mu), cov, np.full(d, m), s**2 * np.eye(d))
    assert found == pytest.approx(exact, rel=1e-12)


def test_the_matrix_root_of_scipy_agrees():
    (mean1, cov1), (mean2, cov2) = statistics(sample(4, 50)), statistics(sample(5, 60))
    trace = np.trace(cov1 + cov2 - 2 * scipy.linalg.sqrtm(cov1 @ cov2)).real
    exact = np.sum((mean1 - mean2) ** 2) + trace
    found = frechet.distance(mean1, cov1, mean2, cov2)
    assert found == pytest.approx(exact, rel=1e-12)
    assert frechet.distance(mean2, cov2, mean1, cov1) == pytest.approx(found, rel=1e-12)
    kept = frechet.distance(mean1, cov1, mean2, cov2, frechet.root(cov2))
    assert kept == found
    q = rotation(6)
    turned = (q @ mean1, q @ cov1 @ q.T, q @ mean2, q @ cov2 @ q.T)
    assert frechet.distance(*turned) == pytest.approx(found, rel=1e-12)


@pytest.mark.parametrize("n", [2, 5, 40])
def test_fewer_images_than_dimensions(n):
    x, y = sample(7, n, 30), sample(8, 12, 30)
    exact = weighted_nuclear(np.full(n, 1 / n), x, y)
    found = frechet.distance(*statistics(x), *statistics(y))
    assert found == pytest.approx(exact, rel=1e-6)
    assert frechet.distance(*statistics(x), *statistics(x)) == pytest.approx(
        0, abs=1e-5
    )


def test_a_set_against_itself():
    x = sample(9, 300)
    assert frechet.distance(*statistics(x), *statistics(x)) == pytest.approx(
        0, abs=1e-12
    )
    value, terms = frechet.value_and_influence(x, frechet.of(x), *statistics(x))
    np.testing.assert_allclose(terms, 0, atol=1e-12)  # the minimum of FD


def test_references_agree():
    arrays = make_metrics.inputs()
    sums = {name: np.abs(a).sum() for name, a in arrays.items()}
    assert sums == pytest.approx(GOLDEN["sums"], rel=1e-13)
    x, ref = arrays["features"], statistics(arrays["features_ref"])
    found = frechet.distance(*statistics(x), *ref)
    assert found == pytest.approx(GOLDEN["torch_fidelity"]["fid"], rel=1e-12)
    assert found == pytest.approx(GOLDEN["dgm_eval"]["fd"], rel=1e-12)
    assert frechet.with_error(x, *ref).value == pytest.approx(found, rel=1e-12)
    infinity = frechet.infinity(x, *ref, seed=make_metrics.INFINITY_SEED).value
    assert infinity == pytest.approx(GOLDEN["dgm_eval"]["fd_infinity"], rel=1e-11)


@pytest.mark.parametrize(("n", "n_ref"), [(40, 50), (5, 50), (40, 6), (6, 5)])
def test_influence_is_the_derivative_in_an_image_s_weight(n, n_ref):
    x, y = sample(10, n, 12), sample(11, n_ref, 12, shift=0.3)
    terms = frechet.influence(x, frechet.of(x), *statistics(y))
    step, even = 1e-5, np.full(n, 1 / n)
    numeric = []
    for towards in np.eye(n):
        up, down = (
            weighted_nuclear(even + s * (towards - even), x, y) for s in (step, -step)
        )
        numeric.append((up - down) / (2 * step))
    np.testing.assert_allclose(terms, numeric, rtol=1e-5, atol=1e-5)
    assert abs(terms.sum()) < 1e-5


def test_influence_in_parts_is_the_whole(monkeypatch):
    x, ref = sample(12, 300), statistics(sample(13, 80))
    m = frechet.of(x)
    whole, infinity = frechet.influence(x, m, *ref), frechet.infinity(x, *ref)
    monkeypatch.setattr(frechet, "_ROWS", 70)  # rows turned to float64 at a time
    np.testing.assert_allclose(frechet.influence(x, m, *ref), whole, atol=1e-12)
    assert frechet.infinity(x, *ref) == pytest.approx(infinity, rel=1e-9)
    parts = [frechet.influence(x[i : i + 90], m, *ref) for i in range(0, 300, 90)]
    np.testing.assert_allclose(np.concatenate(parts), whole, atol=1e-12)
    order = np.random.default_rng(14).permutation(300)
    shuffled = frechet.influence(
        x[order], frechet.of(x[order]), *ref, frechet.root(ref[1])
    )
    np.testing.assert_allclose(shuffled, whole[order], atol=1e-9)


def test_error_is_the_jackknife_s_to_first_order():
    x, y = sample(15, 200, 4), sample(16, 150, 4, shift=0.5)
    ref = statistics(y)

    def jackknife(rows, fd):
        values = [fd(np.delete(rows, i, 0)) for i in range(len(rows))]
        return np.sqrt((len(rows) - 1) * np.var(values))

    of_x = jackknife(x, lambda rows: frechet.distance(*statistics(rows), *ref))
    of_y = jackknife(
        y, lambda rows: frechet.distance(*statistics(x), *statistics(rows))
    )
    found = frechet.with_error(x, *ref)
    assert found.error == pytest.approx(of_x, rel=0.02)
    both = frechet.with_error(x, *ref, x_ref=y)
    assert both.error == pytest.approx(np.hypot(of_x, of_y), rel=0.02)
    assert both.value == found.value


def test_error_and_bias_over_many_draws():
    # N(0, I) against N(shift, I): FD = |shift|^2, and E FD_N exceeds it by c / N
    dim, n, draws = 6, 200, 400
    bits = np.random.default_rng(17)
    ref = np.full(dim, 0.5), np.eye(dim)
    found = [
        frechet.with_error(bits.standard_normal((n, dim)), *ref) for _ in range(draws)
    ]
    values, errors = np.array(found).T
    spread = values.std(ddof=1)
    assert spread == pytest.approx(errors.mean(), rel=4 / np.sqrt(2 * draws))
    bias = (dim + dim * (dim + 1) / 4) / n
    assert values.mean() - dim / 4 == pytest.approx(bias, abs=4 * spread / draws**0.5)


@pytest.mark.parametrize("ratio", [1, 4])
def test_near_the_reference_the_error_is_too_large(ratio):
    """At the reference itself the first order vanishes, and the error is some sqrt(2)
    times the spread: within the bounds that `with_error` states."""
    dim, draws = 16, 400
    bits = np.random.default_rng(21)
    ref = np.zeros(dim), np.eye(dim), np.eye(dim)
    rows = (bits.standard_normal((ratio * dim, dim)) for _ in range(draws))
    values, errors = np.array([frechet.with_error(x, *ref) for x in rows]).T
    assert 1.1 < errors.mean() / values.std(ddof=1) < 1.75
    # and the bias is no part of it
    assert values.mean() > 2 * errors.mean()


@pytest.mark.parametrize("scale", [0.5, 2.0])
def test_the_bias_depends_on_the_covariance_of_the_sample(scale):
    """N(0, s^2 I) against N(0, I): c = s^2 D + s D (D + 1) / 4 over D (s - 1)^2."""
    dim, n, draws = 6, 300, 800
    bits = np.random.default_rng(22)
    ref = np.zeros(dim), np.eye(dim), np.eye(dim)
    excess = []
    for _ in range(draws):
        x = scale * bits.standard_normal((n, dim))
        distance = frechet.distance(*statistics(x), *ref)
        # less the first order, whose mean is 0
        trace = x.var(0, ddof=1).sum() - scale**2 * dim
        excess.append(distance - dim * (scale - 1) ** 2 - (1 - 1 / scale) * trace)
    error = np.std(excess, ddof=1) / np.sqrt(draws)
    c = scale**2 * dim + scale * dim * (dim + 1) / 4
    assert 40 * error < c / n
    assert np.mean(excess) == pytest.approx(c / n, abs=4 * error, rel=0.03)


def test_infinity_removes_the_bias():
    dim, n, draws = 6, 1000, 40
    bits = np.random.default_rng(18)
    ref = np.zeros(dim), np.eye(dim)
    samples = [bits.standard_normal((n, dim)) for _ in range(draws)]
    plain = np.mean([frechet.distance(*statistics(x), *ref) for x in samples])
    found = np.array([frechet.infinity(x, *ref, seed=i) for i, x in enumerate(samples)])
    error = found[:, 0].std(ddof=1) / np.sqrt(draws)
    assert plain == pytest.approx((dim + dim * (dim + 1) / 4) / n, rel=0.2)
    assert plain > 5 * error
    assert found[:, 0].mean() == pytest.approx(0, abs=4 * error)


def test_infinity_is_the_intercept_with_its_error():
    x = np.array([0.1, 0.2, 0.5, 1.0])
    y = 3 + 2 * x + np.array([0.1, -0.2, 0.15, -0.05])
    coefficients, covariance = np.polyfit(x, y, 1, cov=True)
    found = frechet._intercept(x, y)
    assert found.value == pytest.approx(coefficients[1], rel=1e-12)
    assert found.error == pytest.approx(np.sqrt(covariance[1, 1]), rel=1e-12)


def test_what_cannot_be_measured_is_named():
    x, ref = sample(19, 50).astype(np.float32), statistics(sample(20, 50))
    with pytest.raises(ValueError, match="needs 2 images or more, got 1"):
        frechet.covariance(frechet.of(x[:1]))
    with pytest.raises(ValueError, match="features have 5 and 7 dimensions"):
        frechet.update(frechet.of(x), x[:, :5])
    with pytest.raises(ValueError, match="features have 5 and 7 dimensions"):
        frechet.distance(*statistics(x[:, :5]), *ref)
    with pytest.raises(ValueError, match=r"a mean \(7,\) and a covariance \(7, 5\)"):
        frechet.distance(ref[0], ref[1][:, :5], *ref)
    with pytest.raises(ValueError, match="features have 6 and 7 dimensions"):
        frechet.influence(x[:, :6], frechet.of(x), *ref)
    with pytest.raises(ValueError, match="20 images and 3 points or more, got 19"):
        frechet.infinity(x[:19], *ref)
    with pytest.raises(ValueError, match=r"shape \(50,\): expected \[N,D\]"):
        frechet.of(x[:, 0])
    bad = x.copy()
    bad[[31, 40], [2, 0]] = np.nan, np.inf
    with pytest.raises(ValueError, match="features is not finite in row 31"):
        frechet.infinity(bad, *ref)
    with pytest.raises(ValueError, match="after the first 50 is not finite in row 31"):
        frechet.update(frechet.of(x), bad)
    with pytest.raises(ValueError, match="statistics have values that are not finite"):
        frechet.distance(ref[0], ref[1], ref[0] * np.nan, ref[1])
    with pytest.raises(ValueError, match="statistics have values that are not finite"):
        frechet.infinity(x, ref[0], ref[1] * np.nan)


@pytest.mark.slow
def test_golden_numbers_are_those_of_the_installed_library():
    pytest.importorskip("torch_fidelity")
    found = make_metrics.by_torch_fidelity()
    golden = GOLDEN["torch_fidelity"]
    assert found["fid"] == pytest.approx(golden["fid"], rel=1e-12)
    assert found["kid"] == pytest.approx(golden["kid"], rel=1e-12)
    for splits, score in found["inception_score"].items():
        assert score == pytest.approx(golden["inception_score"][splits], rel=1e-12)
