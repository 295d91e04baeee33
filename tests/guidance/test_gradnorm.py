import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from progguide_jax.diffusion import levels, process, samplers
from progguide_jax.guidance import gradnorm

NS = process.ddpm_linear()
PROBES = (gradnorm.per_example, gradnorm.per_example_vmap)
HALF_NORMAL_CV = math.sqrt(math.pi / 2 - 1)  # of |N(0, 1)|: 0.7555


def draw(batch=5, pixels=6, width=4, seed=0, dtype=np.float32):
    """x0, eps [B,P,1], t [B], emb [B,D] and two weights [P,D]."""
    rng = np.random.default_rng(seed)
    x0, eps = rng.normal(size=(2, batch, pixels, 1)).astype(dtype)
    emb = rng.normal(size=(batch, width)).astype(dtype)
    t = np.linspace(0, 999, batch).astype(np.int32)
    w, u = rng.normal(size=(2, pixels, width)).astype(dtype)
    return x0, eps, t, emb, w, u


# --- g of one example ---


def measure(probe, eps_fn, *args):
    """g [B] of (x0, eps, t, emb)."""
    return jax.jit(lambda *a: probe(eps_fn, *a, noise_schedule=NS))(*args)


@pytest.mark.parametrize("probe", PROBES)
def test_linear_network_in_closed_form(probe):
    """eps_hat = x_t + W emb: the gradient is W^T sign(x_t + W emb - eps)."""
    x0, eps, t, emb, w, _ = draw()

    def eps_fn(x, t, emb):
        return x + (emb @ w.T)[..., None]

    g = measure(probe, eps_fn, x0, eps, t, emb)
    assert g.shape == (5,) and g.dtype == jnp.float32
    for i in range(5):
        x_t = NS.alpha[t[i]] * x0[i] + NS.sigma[t[i]] * eps[i]
        residual = x_t[:, 0] + w @ emb[i] - eps[i, :, 0]
        expected = np.linalg.norm(w.T @ np.sign(residual))
        assert g[i].item() == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("probe", PROBES)
def test_nonlinear_network_by_finite_differences(x64, probe):
    """One example and one coordinate at a time, the error written in numpy."""
    x0, eps, t, emb, w, u = draw(dtype=np.float64)

    def eps_fn(x, t, emb):
        a = jnp.tanh(emb @ w.T + x[..., 0])
        return (a * (emb @ u.T) + t[:, None] / 1000)[..., None]

    def error(i, e):
        x_t = NS.alpha[t[i]] * x0[i, :, 0] + NS.sigma[t[i]] * eps[i, :, 0]
        eps_hat = np.tanh(w @ e + x_t) * (u @ e) + t[i] / 1000
        return np.abs(eps_hat - eps[i, :, 0]).sum()

    g = measure(probe, eps_fn, x0, eps, t, emb)
    h = 1e-6
    for i in range(5):
        slopes = [
            (error(i, emb[i] + h * d) - error(i, emb[i] - h * d)) / (2 * h)
            for d in np.eye(4)
        ]
        assert g[i].item() == pytest.approx(np.linalg.norm(slopes), rel=1e-6)


@pytest.mark.parametrize("probe", PROBES)
def test_batch_mates_do_not_matter(probe):
    x0, eps, t, emb, w, _ = draw()

    def eps_fn(x, t, emb):
        return jnp.tanh(x + (emb @ w.T)[..., None])

    def g(rows):
        return measure(probe, eps_fn, x0[rows], eps[rows], t[rows], emb[rows])

    whole = g(np.arange(5))
    np.testing.assert_allclose(g(np.array([3]))[0], whole[3], rtol=1e-6)
    np.testing.assert_allclose(g(np.array([4, 3, 0]))[1], whole[3], rtol=1e-6)


def test_vmap_form_is_right_even_where_examples_interact():
    """A network that subtracts the batch mean: the reference form sees batches of 1."""
    x0, eps, t, emb, w, _ = draw()

    def eps_fn(x, t, emb):
        shift = (emb @ w.T)[..., None]
        return x + shift - 0.5 * jnp.mean(shift, axis=0, keepdims=True)

    args = (x0, eps, t, emb)
    vmapped = measure(gradnorm.per_example_vmap, eps_fn, *args)
    for i in range(5):
        one = (a[i : i + 1] for a in args)
        alone = measure(gradnorm.per_example, eps_fn, *one)
        np.testing.assert_allclose(vmapped[i], alone[0], rtol=1e-5)
    coupled = measure(gradnorm.per_example, eps_fn, *args)
    assert not np.allclose(coupled, vmapped, rtol=1e-2)


def test_bfloat16_network_gives_a_float32_norm():
    x0, eps, t, emb, w, _ = draw()

    def eps_fn(x, t, emb):
        return (x + (emb @ w.T)[..., None]).astype(jnp.bfloat16)

    for probe in PROBES:
        g = measure(probe, eps_fn, x0, eps, t, emb)
        assert g.dtype == jnp.float32 and np.all(np.isfinite(g))


def test_one_evaluation_of_the_network_serves_the_whole_batch():
    x0, eps, t, emb, w, _ = draw()
    calls = []

    def eps_fn(x, t, emb):
        calls.append(x.shape)
        return x + (emb @ w.T)[..., None]

    measure(gradnorm.per_example, eps_fn, x0, eps, t, emb)
    assert calls == [(5, 6, 1)]


# --- accumulator ---


def fill(values, count):
    """An accumulator [K,T] of the first `count` [K,T] of `values` [n,K,T]."""
    keep = np.arange(len(values))[:, None, None] < count
    _, label, t = np.nonzero(keep)
    g = jnp.asarray(values[keep], jnp.float32)
    return gradnorm.accumulate(gradnorm.empty(*values.shape[1:]), g, t, label)


def test_accumulator_against_a_loop():
    rng = np.random.default_rng(0)
    acc = gradnorm.empty(3, 7)
    bins = {}
    for _ in range(20):
        g = rng.random(11).astype(np.float32)
        t, label = rng.integers(0, 7, 11), rng.integers(0, 3, 11)
        acc = gradnorm.accumulate(acc, g, t, label)  # repeats within a batch add up
        for k in range(11):
            bins.setdefault((label[k], t[k]), []).append(g[k])
    curve = gradnorm.mean_curve(acc)
    for (c, t), values in bins.items():
        assert curve.count[c, t] == len(values)
        assert curve.g[c, t] == pytest.approx(np.mean(values), rel=1e-5)
        assert acc.total_sq[c, t] == pytest.approx(np.sum(np.square(values)), rel=1e-5)
    assert sum(len(v) for v in bins.values()) == curve.count.sum() == 220


@pytest.mark.parametrize("most", [2, 4, 40])
def test_pooled_coefficient_of_variation(most):
    """Half-normal g of any size per bin: CV .7555 even from pairs."""
    rng = np.random.default_rng(1)
    size = 1 + np.linspace(0, 5, 4000)
    count = rng.integers(1, most + 1, (2, 4000))
    values = np.abs(rng.normal(size=(most, 2, 4000))) * size
    curve = gradnorm.mean_curve(fill(values, count))
    cv = curve.standard_error * np.sqrt(count) / curve.g
    np.testing.assert_allclose(cv, HALF_NORMAL_CV, rtol=0.06 if most == 2 else 0.03)
    assert np.ptp(cv[0]) < 1e-9


def test_standard_errors_against_replicates():
    """600 classes that share one curve are 600 repetitions of one measurement."""
    rng = np.random.default_rng(2)
    truth = np.array([1.0, 3.0, 2.0, 0.5])
    values = np.abs(rng.normal(size=(8, 600, 4))) * truth
    curve = gradnorm.mean_curve(fill(values, np.full((600, 4), 8)))
    spread = curve.g.std(0, ddof=1)
    np.testing.assert_allclose(curve.standard_error.mean(0), spread, rtol=0.1)
    G = gradnorm.cumulative(curve.g)
    error = gradnorm.cumulative_error(curve.standard_error)
    np.testing.assert_allclose(error.mean(0), G.std(0, ddof=1), rtol=0.1)


def test_a_probe_of_every_tenth_timestep_has_the_curve_and_its_error():
    """600 repetitions again; the truth is a line, so that nothing is lost between."""
    rng, truth = np.random.default_rng(2), 2.0 - np.arange(201) / 200
    at = gradnorm.visited(201, 10)
    np.testing.assert_array_equal(at, np.arange(0, 201, 10))
    np.testing.assert_array_equal(gradnorm.visited(25, 10), [0, 10, 20, 24])
    count = np.zeros((600, 201), int)
    count[:, at] = 4
    values = np.abs(rng.normal(size=(4, 600, 201))) * truth
    curve = gradnorm.mean_curve(fill(values, count), stride=10)
    np.testing.assert_allclose(curve.g.mean(0), truth * (2 / np.pi) ** 0.5, rtol=0.05)
    np.testing.assert_array_equal(curve.count, count)
    G, error = gradnorm.cumulative(curve.g), curve.standard_error
    error = gradnorm.cumulative_error(error, 10).mean(0)
    np.testing.assert_allclose(error[:150], G.std(0, ddof=1)[:150], rtol=0.15)


def test_single_examples_have_no_standard_error_but_a_mean():
    g = np.random.default_rng(3).random((1, 20, 30))
    curve = gradnorm.mean_curve(fill(g, np.ones((20, 30))))
    np.testing.assert_allclose(curve.g, g[0], rtol=1e-6)
    assert np.all(np.isnan(curve.standard_error))


def test_empty_bins_are_interpolated():
    values = np.tile(np.arange(40.0) ** 2, (2, 2, 1))
    count = np.full((2, 40), 2)
    count[0, 10] = count[0, 39] = 0  # 2 of 40 = 5 %: still allowed
    curve = gradnorm.mean_curve(fill(values, count))
    assert curve.g[0, 10] == pytest.approx((9**2 + 11**2) / 2)
    assert curve.g[0, 39] == pytest.approx(38**2)
    np.testing.assert_allclose(curve.g[1], values[0, 1], rtol=1e-6)
    assert curve.count[0, 10] == 0


def test_too_many_empty_bins():
    count = np.full((3, 40), 2)
    count[1, :3] = 0
    acc = fill(np.ones((2, 3, 40)), count)
    with pytest.raises(ValueError, match="8% .* class 1 .* raise probe.num_examples"):
        gradnorm.mean_curve(acc)
    assert np.all(gradnorm.mean_curve(acc, max_empty=0.1).g == 1)


# --- G and the curves ---


def test_cumulative_by_hand():
    np.testing.assert_array_equal(gradnorm.cumulative([1, 2, 4]), [7, 6, 4])
    np.testing.assert_array_equal(
        gradnorm.cumulative(np.array([[1, 0], [2, 3]])), [[1, 0], [5, 3]]
    )
    np.testing.assert_allclose(gradnorm.cumulative_error([2.0, 4, 3]), [29**0.5, 5, 3])


def test_invariants_of_the_curves():
    g = np.random.default_rng(4).random((5, 1000)) ** 8
    assert np.all(np.diff(gradnorm.cumulative(g), axis=-1) <= 0)
    for spacing in levels.SPACINGS:
        ts = samplers.timesteps(1000, 50, spacing)
        table = gradnorm.omega(g, 0.2, ts)
        assert table.shape == (5, 50) and table.dtype == np.float32
        np.testing.assert_allclose(table.mean(1), 0.2, rtol=1e-6)
        assert np.all(np.diff(table, axis=1) >= 0)
        np.testing.assert_array_equal(gradnorm.omega(g[2], 0.2, ts), table[2])
        np.testing.assert_allclose(gradnorm.omega(1e6 * g, 0.2, ts), table, rtol=1e-6)


def test_omega_by_hand():
    # G = [10, 9, 7, 4]; over all T its mean is 7.5
    g, ts = np.array([1.0, 2.0, 3.0, 4.0]), np.array([3, 1])
    np.testing.assert_allclose(gradnorm.omega(g, 2.0, ts), [8 / 6.5, 18 / 6.5])
    np.testing.assert_allclose(gradnorm.omega(g, 2.0, ts, "train"), [8 / 7.5, 2.4])


def test_omega_refuses_a_transposed_g():
    ts = samplers.timesteps(1000, 50)
    with pytest.raises(ValueError, match="leave 0 ... 9"):
        gradnorm.omega(np.ones((1000, 10)), 0.2, ts)


def test_smoothed_by_hand():
    np.testing.assert_allclose(gradnorm.smoothed([0, 3, 0, 0], 3), [1.5, 1, 1, 0])
    rows = gradnorm.smoothed(np.array([[0, 3, 0, 0], [0, 0, 3, 3]]), 3)
    np.testing.assert_allclose(rows, [[1.5, 1, 1, 0], [0, 1, 2, 3]])


def test_smoothing_keeps_constants_and_straight_lines():
    np.testing.assert_allclose(gradnorm.smoothed(np.full((2, 60), 0.7)), 0.7)
    line = np.arange(60.0)
    np.testing.assert_allclose(gradnorm.smoothed(line)[12:-12], line[12:-12])
    assert gradnorm.smoothed(np.ones(10)).tolist() == pytest.approx([1] * 10)
