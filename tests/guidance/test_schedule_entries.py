"""The schedules of other papers: numbers by hand, or from the formula in NumPy."""

import logging

import numpy as np
import pytest

from progguide_jax import registry
from progguide_jax.diffusion import levels, process
from progguide_jax.guidance import schedules

T = 1000
TEN = np.arange(10)[::-1] * 100  # tau = 0.9, 0.8 ... 0
NS = process.ddpm_linear(T)


def make(name, scale=1.0, ts=TEN, **shape):
    return schedules.make(name, scale, ts, T, **shape)


def _settings(name):
    """What `name` cannot do without."""
    return {
        "interval": {"t_min": 300},
        "neg_perturb": {"t_min": 300},
        "table": {"values": [3.0, 1.0, 2.0]},
        "gn": {"g": np.ones((2, T))},
        "gn_all": {"g": np.ones((2, T))},
    }.get(name, {})


@pytest.mark.parametrize("name", schedules.names())
def test_every_schedule_has_its_card(name):
    card = registry.card(schedules.SCHEDULES[name].curve)
    assert {"Title", "Formula", "Convention", "Neutral"} <= set(card)


@pytest.mark.parametrize("name", schedules.names())
@pytest.mark.parametrize("grid", [TEN, np.array([400, 300]), levels.karras(NS, 7)])
def test_a_scale_of_0_is_plain_conditional_sampling(name, grid):
    omega = make(name, 0, grid, noise_schedule=NS, **_settings(name))
    assert omega.dtype == np.float32 and not omega.any()


@pytest.mark.parametrize(
    ("name", "neutral"),
    [
        ("c2fg", {"rate": 0}),
        ("dynamic_cfg", {"tau_1": 1, "tau_2": 2}),
        ("negative_window", {"switch": 1}),
        ("beta", {"a": 1, "b": 1}),
        ("slides_cosine", {"floor": 1.7}),
        ("tv_interval", {"left": -1, "right": 2}),
        ("tv_stepup", {"ratio": 1}),
        ("tv_stepdown", {"ratio": 1}),
        ("interval", {"step_min": 0}),
        ("table", {"values": [2.0, 2.0]}),
        ("gn", {"g": np.eye(T)[-1]}),
    ],
)
def test_neutral_settings_are_static(name, neutral, caplog):
    caplog.set_level(logging.ERROR)
    np.testing.assert_allclose(make(name, 0.7, **neutral), 0.7, rtol=1e-6)


@pytest.mark.parametrize(
    "name", ["clamp_linear", "clamp_cosine", "c2fg", "muse_linear", "slides_cosine",
             "tv_stepup", "dynamic_cfg"],
)  # fmt: skip
def test_rising_schedules_rise(name):
    for spacing in levels.SPACINGS:
        omega = make(name, 2.0, levels.timesteps(T, 50, spacing))
        assert np.all(np.diff(omega) >= 0) and omega[0] < omega[-1]


def test_clamps_by_hand():
    """The floor is an omega, put under the standardised curve; the mean rises."""
    plain = 0.4 * 2 * (1 - TEN / T) / 1.1  # the mean of 2 (1 - tau) is 1.1 there
    np.testing.assert_allclose(make("linear", 0.4), plain, rtol=1e-6)
    np.testing.assert_allclose(
        make("clamp_linear", 0.4), np.maximum(plain, 0.2), rtol=1e-6
    )
    np.testing.assert_allclose(
        make("clamp_linear", 0.4, floor=0.3, normalize="continuous"),
        [0.3] * 3 + [0.32, 0.4, 0.48, 0.56, 0.64, 0.72, 0.8],
        rtol=1e-6,
    )
    cosine = make("clamp_cosine", 0.4, floor=0.1, normalize="continuous")
    at = 0.4 * (1 + np.cos(np.pi * TEN / T))
    np.testing.assert_allclose(cosine, np.where(at < 0.1, 0.1, at), rtol=1e-6)
    for name in ("linear", "cosine"):
        bare = make(f"clamp_{name}", 0.4, floor=0)
        np.testing.assert_array_equal(bare, make(name, 0.4))


def test_c2fg_by_hand():
    """w_0 at noise, w_0 e^rate at data; half-way sqrt(2) w_0 for ln 2."""
    omega = make("c2fg", 0.5, np.array([999, 500, 0]))
    expected = [1.5 * 2**0.001 - 1, 1.5 * 2**0.5 - 1, 2.0]
    np.testing.assert_allclose(omega, expected, rtol=1e-6)
    dense = make("c2fg", 0.5, np.arange(T)[::-1], rate=1.0)
    assert (1 + dense).mean() == pytest.approx(1.5 * (np.e - 1), rel=1e-3)
    # their w_0 = 1, a scale of 0, in all but name
    theirs = make("c2fg", 1e-6, np.array([500, 0]))
    np.testing.assert_allclose(theirs, [2**0.5 - 1, 1.0], rtol=1e-5)


def test_dynamic_cfg_by_hand():
    omega = make("dynamic_cfg", 3.0, np.array([950, 900, 750, 600, 10]))
    np.testing.assert_allclose(omega, [-1, -1, 1, 3, 3], rtol=1e-6)


def test_beta_by_hand():
    """Beta(2, 2) is 6 p (1 - p), Beta(2, 3) is 12 p (1 - p)^2; w 0 is omega -1."""
    five = np.array([800, 600, 400, 200, 0])
    p = np.array([0, 0.25, 0.5, 0.75, 1])
    omega = make("beta", 1.0, five)
    np.testing.assert_allclose(omega, 2 * 6 * p * (1 - p) - 1, rtol=1e-6)
    assert omega[0] == omega[-1] == -1
    omega = make("beta", 6.5, five, b=3.0)
    np.testing.assert_allclose(omega, 7.5 * 12 * p * (1 - p) ** 2 - 1, rtol=1e-6)
    standardised = make("beta", 1.0, five, normalize="sampling")
    assert standardised.mean() == pytest.approx(1.0, rel=1e-6)


def test_muse_linear_by_hand():
    five = np.array([999, 600, 400, 1, 0])  # by the step, wherever t is
    omega = make("muse_linear", 4.0, five)
    np.testing.assert_array_equal(omega, [0, 1, 2, 3, 4])
    grid = levels.karras(NS, 32)
    omega = make("muse_linear", 4.0, grid)
    assert omega[0] == 0 and omega.mean() == pytest.approx(2, rel=1e-6)


def test_slides_cosine_by_hand():
    """w_t = w_max (1 + cos(pi t / 32)) / 2 at t = 32 ... 1: 0 at first."""
    ts = levels.timesteps(T, 32)
    t = np.arange(32, 0, -1)
    omega = make("slides_cosine", 3.0, ts)
    np.testing.assert_allclose(omega, 2 * (1 + np.cos(np.pi * t / 32)) - 1, atol=1e-6)
    assert omega[0] == -1
    assert (1 + omega).mean() == pytest.approx(4 / 2 * (1 - 1 / 32), rel=1e-6)
    above = make("slides_cosine", 3.0, ts, floor=1.0)
    np.testing.assert_allclose(above, 1.5 * (1 + np.cos(np.pi * t / 32)), atol=1e-6)
    assert above[0] == 0


def test_negative_window_by_hand():
    np.testing.assert_allclose(
        make("negative_window", 2.0, switch=0.3), [2] * 3 + [-1] * 7
    )
    late = make("negative_window", 2.0, levels.karras(NS, 10), switch=0.5, late=0.0)
    np.testing.assert_array_equal(late, [2] * 5 + [0] * 5)


def _tv(w_mean, t):
    """The published triangle, in w."""
    steps = len(t)
    low, high, half = 1.0, 2 * w_mean - 1, steps // 2
    if steps % 2:
        up = np.linspace(low, high, half + 1)
        w = np.concatenate([up, up[::-1][1:]])
    else:
        up = np.linspace(low, high, half + 1)[:-1]
        w = np.concatenate([up, np.linspace(high, low, half)])
    delta = np.append(t[:-1] - t[1:], t[-1]) / t[0]
    return w * w_mean / np.sum(w * delta), delta


@pytest.mark.parametrize("steps", [1, 2, 3, 10, 28, 33])
def test_tv_is_the_published_triangle_and_keeps_its_mean(steps):
    for spacing in ("trailing", "linspace"):
        ts = levels.timesteps(T, steps, spacing)
        w, delta = _tv(4.5, ts.astype(np.float64))
        omega = make("tv", 3.5, ts)
        np.testing.assert_allclose(1 + omega, w, rtol=1e-6)
        assert np.sum((1 + omega) * delta) == pytest.approx(4.5, rel=1e-6)


def test_tv_by_hand():
    """w is 1, 3, 5, 1 at t / t_0 = 1, 3/4, 1/2, 1/4: a mean of 2.5, brought to 3."""
    omega = make("tv", 2.0, np.array([800, 600, 400, 200]))
    np.testing.assert_allclose(omega, np.array([1, 3, 5, 1]) * 3 / 2.5 - 1, rtol=1e-6)
    omega = make("tv", 2.0, np.array([800, 400, 200]))  # 1, 5, 1 with 1/2, 1/4, 1/4
    np.testing.assert_allclose(omega, np.array([1, 5, 1]) * 3 / 2 - 1, rtol=1e-6)


def test_tv_interval_keeps_the_mean_and_is_conditional_outside():
    ts = levels.timesteps(T, 28, "trailing")
    omega = make("tv_interval", 3.5, ts)
    place = ts / ts[0]
    delta = np.append(ts[:-1] - ts[1:], ts[-1]) / ts[0]
    inside = (place > 0.15) & (place < 0.78)
    value = (4.5 - delta[~inside].sum()) / delta[inside].sum()
    np.testing.assert_allclose(1 + omega, np.where(inside, value, 1), rtol=1e-6)
    assert not omega[~inside].any()  # exactly: those steps cost one evaluation


def test_rounding_moves_no_step():
    """14 / 100 * 100 > 14 and 0.55 * 100 > 55."""
    ts = np.arange(100)[::-1]
    omega = schedules.make("tv_interval", 1.0, ts, 100)  # 15 ... 77 of 0 ... 99
    assert np.flatnonzero(omega).tolist() == list(range(22, 85))
    omega = schedules.make("negative_window", 1.0, ts, 100, switch=0.55)
    assert np.count_nonzero(omega == 1) == 55


def test_tv_steps_by_hand():
    """A third of w for a quarter of the steps: 0, 1/4, 1/2, 3/4, 1 of them."""
    five = np.array([800, 600, 400, 200, 0])
    np.testing.assert_allclose(make("tv_stepup", 5, five), [1, 5, 5, 5, 5])
    np.testing.assert_allclose(make("tv_stepdown", 5, five), [5, 1, 1, 1, 1])
    np.testing.assert_allclose(make("tv_stepup", 0.5, five)[0], -0.5)  # w = 0.5


def test_dg_cfg_is_its_formula_and_weak_at_both_ends():
    beta = np.linspace(1e-4, 0.02, T)
    alpha_bar = np.cumprod(1 - beta)
    ts = levels.timesteps(T, 50, "trailing")
    f = ((1 - alpha_bar) * np.sqrt(alpha_bar) / beta)[ts]
    omega = make("dg_cfg", 2.0, ts, noise_schedule=NS)
    np.testing.assert_allclose(omega, 2 * f / f.mean(), rtol=1e-6)
    peak = np.argmax(omega)
    assert 10 < peak < 45 and omega[0] < 0.1 and omega[-1] < omega[peak] / 2
    between = levels.karras(NS, 9)  # linear in t between timesteps
    omega = make("dg_cfg", 2.0, between, noise_schedule=NS)
    f = (1 - alpha_bar) * np.sqrt(alpha_bar) / beta
    f = np.interp(between.t[:-1], np.arange(T), f)
    np.testing.assert_allclose(omega, 2 * f / f.mean(), rtol=1e-6)


@pytest.mark.parametrize("name", ["tv", "negative_window"])
def test_schedules_with_a_scaling_of_their_own_take_no_other(name):
    with pytest.raises(ValueError, match=f"'sampling' and schedule '{name}' has a"):
        make(name, normalize="sampling")
    np.testing.assert_array_equal(make(name), make(name, normalize="none"))


@pytest.mark.parametrize(
    ("name", "shape", "message"),
    [
        ("clamp_linear", {"floor": -1}, "floor is -1: use an omega"),
        ("c2fg", {"rate": -1}, "rate is -1"),
        ("dynamic_cfg", {"tau_1": 0.9, "tau_2": 0.6}, "use 0 <= tau_1 < tau_2"),
        ("negative_window", {"switch": 0}, "switch is 0"),
        ("negative_window", {"late": -2}, "late is -2: use an omega of -1 or more"),
        ("slides_cosine", {"floor": -1}, "floor is -1"),
        ("beta", {"a": 0.5}, "a 0.5, b 2.0: use numbers of 1 or more"),
        ("tv", {"ts": np.array([0])}, "use a grid that begins above 0"),
        ("tv_interval", {"left": 0.8, "right": 0.2}, "use left < right"),
        ("tv_interval", {"left": 0.51, "right": 0.52}, "holds none of the 10 steps"),
        ("tv_stepup", {"ratio": 0}, "ratio is 0: it must be positive"),
        ("tv_stepdown", {"switch": 2}, "switch is 2"),
        ("muse_linear", {"power": 2}, "schedule 'muse_linear' .*power"),
        ("dg_cfg", {}, "dg_cfg needs the noise schedule: pass noise_schedule="),
        ("dg_cfg", {"noise_schedule": process.cosine(50)},
         "noise_schedule has 50 timesteps and num_timesteps is 1000"),
        ("dg_cfg", {"noise_schedule": process.cosine}, "is cosine, no NoiseSchedule"),
    ],
)  # fmt: skip
def test_bad_settings(name, shape, message):
    with pytest.raises(ValueError, match=message) as error:
        make(name, **shape)
    assert "\n" not in str(error.value)
