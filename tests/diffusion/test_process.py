import math

import jax.numpy as jnp
import numpy as np
import pytest

from progguide_jax.diffusion import process

# alpha = 0.8 then 0.6, sigma = 0.6 then 0.8: every conversion is exact on paper
PYTHAGORAS = process.NoiseSchedule("pythagoras", np.array([0.64, 0.36]))


def test_ddpm_linear_golden_values():
    ns = process.ddpm_linear()
    assert ns.num_timesteps == 1000
    assert ns.alpha_bar.dtype == np.float64
    assert ns.alpha_bar[0] == pytest.approx(0.9999, abs=1e-15)
    assert ns.alpha_bar[999] == pytest.approx(4.036e-5, rel=1e-4)
    assert ns.alpha[999] == pytest.approx(0.00635, rel=1e-3)
    assert ns.sigma[999] / ns.alpha[999] == pytest.approx(157.4, rel=1e-4)


def test_ddpm_linear_against_a_sum_of_logarithms():
    ns = process.ddpm_linear()
    logs = [math.log1p(-(1e-4 + i * (0.02 - 1e-4) / 999)) for i in range(1000)]
    for t in (0, 1, 100, 500, 999):
        expected = math.exp(math.fsum(logs[: t + 1]))
        assert ns.alpha_bar[t] == pytest.approx(expected, rel=1e-12)


def test_scaled_linear_noise_range_of_stable_diffusion():
    # k-diffusion prints sigma_min = 0.0292, sigma_max = 14.6146 for this schedule
    ns = process.scaled_linear()
    ratio = ns.sigma / ns.alpha
    assert ratio[0] == pytest.approx(0.0292, abs=5e-5)
    assert ratio[-1] == pytest.approx(14.6146, abs=5e-5)


@pytest.mark.parametrize("num_timesteps", [1000, 50])
def test_cosine_is_the_formula_but_for_the_clipped_last_step(num_timesteps):
    ns = process.cosine(num_timesteps)

    def f(t):
        return math.cos((t / num_timesteps + 0.008) / 1.008 * math.pi / 2) ** 2

    expected = [f(t + 1) / f(0) for t in range(num_timesteps - 1)]
    np.testing.assert_allclose(ns.alpha_bar[:-1], expected, rtol=1e-9)
    assert ns.alpha_bar[-1] == pytest.approx(0.001 * expected[-1], rel=1e-9)


@pytest.mark.parametrize(
    "make", [process.ddpm_linear, process.scaled_linear, process.cosine]
)
def test_schedules_preserve_variance_and_fall(make):
    ns = make()
    np.testing.assert_allclose(ns.alpha**2 + ns.sigma**2, 1, atol=1e-15)
    assert np.all(np.diff(ns.alpha_bar) < 0)
    assert make(10).num_timesteps == 10


def test_hand_computed_conversions():
    # t = 1: x0 = 2, eps = -1  ->  x_t = 1.2 - 0.8 = 0.4, v = -0.6 - 1.6 = -2.2
    x0, eps, v = (jnp.full((1, 1), a) for a in (2.0, -1.0, -2.2))
    t = jnp.array([1])
    x_t = process.add_noise(PYTHAGORAS, x0, t, eps)
    np.testing.assert_allclose(x_t, 0.4, rtol=1e-6)
    for kind, prediction in {"eps": eps, "x0": x0, "v": v}.items():
        args = (PYTHAGORAS, x_t, t, prediction, kind)
        np.testing.assert_allclose(process.to_x0(*args), x0, rtol=1e-6)
        np.testing.assert_allclose(process.to_eps(*args), eps, rtol=1e-6)
        np.testing.assert_allclose(process.to_v(*args), v, rtol=1e-6)


# alpha, sigma, x_t of x0 = 2 and eps = -1, and the predictions that say so
BY_HAND = [
    (0.6, 0.8, 0.4, {"eps": -1.0, "x0": 2.0, "v": -2.2}),
    (0.0, 1.0, -1.0, {"eps": -1.0, "x0": 2.0, "v": -2.0}),  # x_t = eps, v = -x0
]


@pytest.mark.parametrize("alpha, sigma, x, said", BY_HAND)
@pytest.mark.parametrize("source", process.PREDICTIONS)
@pytest.mark.parametrize("to", process.PREDICTIONS)
def test_conversions_at_a_level_of_no_schedule(alpha, sigma, x, said, source, to):
    level = process.Level(*(jnp.full(1, a) for a in (17.25, alpha, sigma)))
    x0, eps, x_t = (jnp.full((1, 2, 1), a) for a in (2.0, -1.0, x))
    np.testing.assert_allclose(process.diffuse(level, x0, eps), x_t, rtol=1e-6)
    np.testing.assert_allclose(process.target(level, x0, eps, to), said[to], rtol=1e-6)
    prediction = jnp.full((1, 2, 1), said[source])
    got = process.convert(level, x_t, prediction, source, to)
    if alpha == 0 and source == "eps" and to != "eps":
        assert not np.any(np.isfinite(got))  # pure noise says nothing of x0
    else:
        np.testing.assert_allclose(got, said[to], rtol=1e-6)


@pytest.mark.parametrize("start", process.PREDICTIONS)
@pytest.mark.parametrize("through", process.PREDICTIONS)
def test_conversions_round_trip(x64, start, through):
    ns = process.ddpm_linear()
    rng = np.random.default_rng(0)
    x_t, prediction = (jnp.asarray(rng.normal(size=(6, 2, 2, 3))) for _ in range(2))
    t = jnp.array([0, 1, 10, 300, 700, 999])
    to = {"eps": process.to_eps, "x0": process.to_x0, "v": process.to_v}
    there = to[through](ns, x_t, t, prediction, start)
    back = to[start](ns, x_t, t, there, through)
    np.testing.assert_allclose(back, prediction, rtol=1e-9, atol=1e-9)


def test_each_example_has_its_own_t():
    ns = process.ddpm_linear()
    rng = np.random.default_rng(1)
    x0, eps = rng.normal(size=(2, 3, 4, 4, 1)).astype(np.float32)
    t = np.array([5, 500, 999])
    x_t = process.add_noise(ns, jnp.asarray(x0), jnp.asarray(t), jnp.asarray(eps))
    for i in range(3):
        expected = ns.alpha[t[i]] * x0[i] + ns.sigma[t[i]] * eps[i]
        np.testing.assert_allclose(x_t[i], expected, rtol=1e-6, atol=1e-6)
    scalar = process.add_noise(ns, jnp.asarray(x0), 500, jnp.asarray(eps))
    np.testing.assert_array_equal(scalar[1], x_t[1])


def test_zero_terminal_snr_is_a_shift_and_a_scale_of_alpha():
    """Algorithm 1 of Lin et al. on alpha = 0.9, 0.8, 0.6: minus 0.6, times 3."""
    ns = process.NoiseSchedule("mine", np.array([0.9, 0.8, 0.6]) ** 2)
    moved = process.zero_terminal_snr(ns)
    np.testing.assert_allclose(moved.alpha, [0.9, 0.6, 0.0], rtol=1e-12)
    assert moved.alpha[-1] == 0 and moved.sigma[-1] == 1 and moved.log_r[-1] == np.inf
    moved = process.zero_terminal_snr(process.ddpm_linear())
    assert moved.alpha[0] == pytest.approx(process.ddpm_linear().alpha[0], rel=1e-12)
    assert moved.alpha[-1] == 0 and np.all(np.diff(moved.alpha) < 0)


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float32])
def test_dtype_follows_the_image(dtype):
    x = jnp.ones((2, 3), dtype)
    t = jnp.array([0, 1])
    assert process.add_noise(PYTHAGORAS, x, t, x).dtype == dtype
    for to in (process.to_x0, process.to_eps, process.to_v):
        for kind in process.PREDICTIONS:
            assert to(PYTHAGORAS, x, t, x, kind).dtype == dtype


def test_equal_and_hashed_by_content():
    a, b = process.ddpm_linear(), process.ddpm_linear()
    assert a == b and hash(a) == hash(b)
    assert a != process.ddpm_linear(999)
    assert a != process.cosine()
    assert a != "ddpm_linear"


def test_the_table_is_frozen_but_not_the_callers_array():
    mine = np.array([0.9, 0.5])
    ns = process.NoiseSchedule("mine", mine)
    with pytest.raises(ValueError, match="read-only"):
        ns.alpha_bar[0] = 0.1
    mine[0] = 0.8
    assert ns.alpha_bar[0] == 0.9


@pytest.mark.parametrize(
    "values", [[0.5, 0.9], [0.9, 0.9], [1.0, 0.5], [0.5, -0.1], [], [[0.5]], [np.nan]]
)
def test_impossible_alpha_bar(values):
    with pytest.raises(ValueError, match="mine: alpha_bar must"):
        process.NoiseSchedule("mine", np.array(values))


def test_errors_say_what_to_do():
    x = jnp.zeros((1, 1))
    for to in (process.to_x0, process.to_eps, process.to_v):
        with pytest.raises(ValueError, match="'noise': use one of eps, x0, v"):
            to(PYTHAGORAS, x, 0, x, "noise")
    level = PYTHAGORAS.level(jnp.zeros(1, int))
    for kinds in (("noise", "eps"), ("v", "noise"), ("noise", "noise")):
        with pytest.raises(ValueError, match="'noise': use one of eps, x0, v"):
            process.convert(level, x, x, *kinds)
    with pytest.raises(ValueError, match="'noise': use one of eps, x0, v"):
        process.target(level, x, x, "noise")
    with pytest.raises(ValueError, match="zero terminal SNR .* at least 2"):
        process.zero_terminal_snr(process.ddpm_linear(1))
    for make in (process.ddpm_linear, process.scaled_linear, process.cosine):
        with pytest.raises(ValueError, match="at least 1, got 0"):
            make(0)
    with pytest.raises(ValueError, match="every beta"):
        process.ddpm_linear(10, beta_start=0.0)
    with pytest.raises(ValueError, match="every beta"):
        process.scaled_linear(10, beta_end=1.0)
