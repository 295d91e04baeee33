"""Precision, recall, density, coverage: by hand, by torch-fidelity and by prdc."""

import json
import pathlib

import jax
import numpy as np
import pytest
from golden import make_manifold

from progguide_jax.metrics import distances, manifold

GOLDEN = pathlib.Path(__file__).parents[1] / "golden"


@pytest.fixture(scope="module")
def arrays():
    return make_manifold.inputs()


@pytest.fixture(scope="module")
def golden():
    return json.loads((GOLDEN / "manifold.json").read_text())


def column(*values):
    return np.array(values, np.float32)[:, None]


# radii with k = 1: 1 for all of REAL; 2.5, .5, .5, 1, 1 for FAKE
# radii with k = 2: 2, 1, 2, 8, 9 for REAL
REAL = column(0, 1, 2, 10, 11)
FAKE = column(0.5, 3, 3.5, 30, 31)


def test_radii_by_hand():
    np.testing.assert_array_equal(manifold.radii(REAL, 1), [1, 1, 1, 1, 1])
    np.testing.assert_array_equal(manifold.radii(REAL, 2), [2, 1, 2, 8, 9])
    np.testing.assert_array_equal(manifold.radii(FAKE, 1), [2.5, 0.5, 0.5, 1, 1])


def test_precision_and_recall_by_hand():
    # 3 is at distance 1 of 2: on the sphere counts
    precise, recalled = manifold.precision_recall_terms(REAL, FAKE, 1)
    np.testing.assert_array_equal(precise, [1, 1, 0, 0, 0])
    np.testing.assert_array_equal(recalled, [1, 1, 1, 0, 0])
    precision, recall = manifold.precision_recall(REAL, FAKE, 1)
    assert (precision.value, recall.value) == (0.4, 0.6)
    # binomial, with n - 1
    np.testing.assert_allclose(precision.error, np.sqrt(0.4 * 0.6 / 4), rtol=1e-12)
    # the other way round they change places
    recall, precision = manifold.precision_recall(FAKE, REAL, 1)
    assert (precision.value, recall.value) == (0.4, 0.6)


def test_density_and_coverage_by_hand():
    # on the sphere does not count
    dense, covered = manifold.density_coverage_terms(REAL, FAKE, 1)
    np.testing.assert_array_equal(dense, [2, 0, 0, 0, 0])
    np.testing.assert_array_equal(covered, [1, 1, 0, 0, 0])
    dense, covered = manifold.density_coverage_terms(REAL, FAKE, 2)
    np.testing.assert_array_equal(dense, [1.5, 1.5, 1.5, 0, 0])
    np.testing.assert_array_equal(covered, [1, 1, 1, 1, 1])
    density, coverage = manifold.density_coverage(REAL, FAKE, 2)
    np.testing.assert_allclose(density, (0.9, np.sqrt(0.135)), rtol=1e-12)
    assert coverage == (1, 0)


@pytest.mark.parametrize("block", [64, 1024])
@pytest.mark.parametrize("pair", ["clusters", "grid"])
def test_the_decisions_of_torch_fidelity_and_prdc(
    arrays, golden, monkeypatch, pair, block
):
    """400, 350 (60, 50) rows are no multiples of 64."""
    monkeypatch.setattr(distances, "_BLOCK", block)
    prefix = "" if pair == "clusters" else "grid_"
    real, fake = arrays[prefix + "real"], arrays[prefix + "fake"]
    for k in (1, 3, 5):
        got = [score.value for score in manifold.precision_recall(real, fake, k)]
        expected = golden["torch_fidelity"][pair][str(k)]
        np.testing.assert_allclose(got, expected, rtol=1e-7)  # they average in float32
        expected = golden["torch_fidelity_float32"][pair][str(k)]
        np.testing.assert_allclose(got, expected, rtol=1e-7)
        got = [score.value for score in manifold.density_coverage(real, fake, k)]
        np.testing.assert_allclose(got, golden["prdc"][pair][str(k)], rtol=1e-12)
        expected = golden["dgm_eval"]["prdc"][pair][str(k)]
        np.testing.assert_allclose(got, expected, rtol=1e-12)


def test_the_golden_inputs_are_those_of_the_rule(arrays, golden):
    for name, total in golden["sums"].items():
        np.testing.assert_allclose(np.abs(arrays[name]).sum(), total, rtol=1e-6)


def directly(real, fake, k):
    """All four arrays of terms from whole float64 matrices of distances."""

    def gaps(a, b):
        return np.linalg.norm(
            a[:, None].astype(float) - b[None, :].astype(float), axis=2
        )

    def radius(a):
        return np.sort(gaps(a, a) + np.diag(np.full(len(a), np.inf)), 1)[:, k - 1]

    between = gaps(fake, real)
    inside = between < radius(real)[None, :]
    return (
        (between <= radius(real)[None, :]).any(1),
        (between <= radius(fake)[:, None]).any(0),
        inside.sum(1) / k,
        inside.any(0),
    )


def check_directly(real, fake, k):
    got = (
        *manifold.precision_recall_terms(real, fake, k),
        *manifold.density_coverage_terms(real, fake, k),
    )
    for ours, expected in zip(got, directly(real, fake, k), strict=True):
        np.testing.assert_array_equal(ours, expected)


def test_distances_below_the_rounding_of_products():
    """Tight groups far from each other: in float32 products their distances drown."""
    bits = np.random.default_rng(0)
    corner = 100.0 * bits.standard_normal((3, 5))
    real = np.repeat(corner, 20, 0) + 1e-6 * bits.standard_normal((60, 5))
    fake = np.repeat(corner, 15, 0) + 2e-6 * bits.standard_normal((45, 5))
    check_directly(real, fake, 3)
    expected = directly(real, fake, 3)[0]
    assert 0 < expected.mean() < 1


def test_copies():
    """Six copies of 0 have radius 0: a further copy is inside with <=, not with <."""
    real = column(0, 0, 0, 0, 0, 0, 5, 6, 7, 8)
    fake = column(0, 0, 0, 0, 0, 20)
    precise, recalled = manifold.precision_recall_terms(real, fake, 3)
    np.testing.assert_array_equal(precise, [1, 1, 1, 1, 1, 0])
    np.testing.assert_array_equal(recalled[:6], 1)
    dense, covered = manifold.density_coverage_terms(real[:6], fake, 3)
    assert not dense.any() and not covered.any()
    check_directly(real, fake, 3)
    check_directly(real, real, 5)


def test_features_far_from_zero(arrays):
    real, fake = arrays["grid_real"], arrays["grid_fake"]
    before = manifold.precision_recall_terms(real, fake)
    after = manifold.precision_recall_terms(real + 2.0**14, fake + 2.0**14)
    for a, b in zip(before, after, strict=True):
        np.testing.assert_array_equal(a, b)


def test_few_pairs_are_settled_one_by_one(arrays, monkeypatch):
    settled = []
    settle = distances._settle
    monkeypatch.setattr(
        distances,
        "_settle",
        lambda p, row, *rest: settled.append(len(row)) or settle(p, row, *rest),
    )
    offset = np.float32(1000)  # centring takes it away
    manifold.density_coverage_terms(arrays["real"] + offset, arrays["fake"] + offset)
    assert 0 < len(settled) and sum(settled) < 350 * 400 / 1000


def test_devices_do_not_change_a_term(arrays):
    mesh = jax.make_mesh((8,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
    rows = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("data"))
    assert mesh.size == 8
    real, fake = arrays["real"], arrays["fake"]
    for terms in (manifold.precision_recall_terms, manifold.density_coverage_terms):
        for one, eight in zip(
            terms(real, fake, 3), terms(real, fake, 3, rows), strict=True
        ):
            np.testing.assert_array_equal(one, eight)
    np.testing.assert_array_equal(
        manifold.radii(real, 3), manifold.radii(real, 3, rows)
    )
    # fewer images than devices; 3.5 is in the ball of 10, which reaches to 2
    precise, _ = manifold.precision_recall_terms(REAL[:4], FAKE[:4], 1, rows)
    np.testing.assert_array_equal(precise, [1, 1, 1, 0])


def test_order_of_the_images_does_not_matter(arrays):
    real, fake = arrays["real"], arrays["fake"]
    bits = np.random.default_rng(1)
    i, j = bits.permutation(len(real)), bits.permutation(len(fake))
    for terms in (manifold.precision_recall_terms, manifold.density_coverage_terms):
        of_fake, of_real = terms(real, fake)
        again = terms(real[i], fake[j])
        np.testing.assert_array_equal(again[0], of_fake[j])
        np.testing.assert_array_equal(again[1], of_real[i])


def test_a_set_against_itself():
    x = np.random.default_rng(2).standard_normal((90, 4)).astype(np.float32)
    precision, recall = manifold.precision_recall(x, x)
    assert precision == recall == (1, 0)
    density, coverage = manifold.density_coverage(x, x)
    assert coverage == (1, 0)
    # each ball of k = 5 holds its centre and 4 neighbours within its radius
    np.testing.assert_allclose(density.value, 1, rtol=1e-12)


def test_what_is_refused():
    x = np.zeros((5, 2), np.float32)
    with pytest.raises(ValueError, match="real images has 5 rows.* needs 6 or more"):
        manifold.density_coverage(x, x, 5)
    with pytest.raises(ValueError, match="fake images has 3 rows.* needs 4 or more"):
        manifold.precision_recall(x, x[:3], 3)
    with pytest.raises(ValueError, match="k = 0"):
        manifold.precision_recall(x, x, 0)
    with pytest.raises(ValueError, match="k = 0"):
        manifold.radii(x, 0)
    with pytest.raises(ValueError, match="3 rows: .* needs 4"):
        manifold.radii(x[:3], 3)
    with pytest.raises(ValueError, match="features have 2 and 1 dimensions"):
        manifold.precision_recall(x, x[:, :1])
    y = x.copy()
    y[3, 1] = np.nan
    with pytest.raises(ValueError, match="fake images is not finite in row 3"):
        manifold.precision_recall(x, y)
    with pytest.raises(ValueError, match=r"shape \(5,\): expected \[N,D\]"):
        manifold.radii(x[:, 0], 1)
