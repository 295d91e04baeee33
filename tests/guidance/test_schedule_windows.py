"""An interval's ends in t, sigma, log-SNR or steps; curves at other noise levels."""

import numpy as np
import pytest

from progguide_jax.diffusion import levels, process
from progguide_jax.guidance import curves, gradnorm, schedules

T = 1000
NS = process.ddpm_linear(T)
ALPHA_BAR = np.cumprod(1 - np.linspace(1e-4, 0.02, T))
R = np.sqrt((1 - ALPHA_BAR) / ALPHA_BAR)


def interval(grid, num_timesteps=T, noise_schedule=None, scale=1.0, **ends):
    omega = schedules.make(
        "interval", scale, grid, num_timesteps, noise_schedule=noise_schedule, **ends
    )
    return np.flatnonzero(omega)


GRIDS = {
    "leading": levels.make("leading", NS, 50),
    "trailing": levels.make("trailing", NS, 50),
    "karras": levels.karras(NS, 32),
    "log_snr": levels.log_snr(NS, 40),
}


@pytest.mark.parametrize("name", GRIDS)
@pytest.mark.parametrize("low, high", [(0.28, 5.42), (0.19, 1.61), (1.0, 1.6)])
def test_the_four_kinds_select_the_same_steps(name, low, high):
    grid = GRIDS[name]
    r = grid.sigma[:-1] / grid.alpha[:-1]
    (wanted,) = np.nonzero((low < r) & (r <= high))
    assert 1 < len(wanted) < len(r)
    np.testing.assert_array_equal(interval(grid, sigma_min=low, sigma_max=high), wanted)
    np.testing.assert_array_equal(
        interval(grid, log_snr_min=-2 * np.log(high), log_snr_max=-2 * np.log(low)),
        wanted,
    )
    ends = {"step_min": int(wanted[0]), "step_max": int(wanted[-1])}
    np.testing.assert_array_equal(interval(grid, **ends), wanted)
    t = np.interp(np.log([low, high]), np.log(R), np.arange(T))
    np.testing.assert_array_equal(interval(grid, t_min=t[0], t_max=t[1]), wanted)
    # timesteps and the noise schedule say the same as the grid
    np.testing.assert_array_equal(
        interval(grid.t[:-1], noise_schedule=NS, sigma_min=low, sigma_max=high), wanted
    )


def test_the_published_interval_of_edm2():
    """Steps 17 ... 22 of 32, whose noise levels are 1.609 ... 0.283: (0.19, 1.61]."""
    k = np.arange(32)
    sigma = (80 ** (1 / 7) + k / 31 * (0.002 ** (1 / 7) - 80 ** (1 / 7))) ** 7
    assert sigma[[17, 22]] == pytest.approx([1.609, 0.283], abs=5e-4)
    grid = levels.karras(None, 32)
    wanted = np.arange(17, 23)
    np.testing.assert_array_equal(interval(grid, step_min=17, step_max=22), wanted)
    np.testing.assert_array_equal(
        interval(grid, sigma_min=0.19, sigma_max=1.61), wanted
    )
    # the highest level belongs to it, the lowest does not
    ends = {"sigma_min": sigma[23], "sigma_max": sigma[17]}
    np.testing.assert_array_equal(interval(grid, **ends), wanted)
    omega = schedules.make("interval", 1.0, grid, T, sigma_min=0.19, sigma_max=1.61)
    assert set(omega) == {0, 1}  # their G = 2


@pytest.mark.parametrize(
    ("sigma", "t"), [(0.19, 55), (0.28, 82), (1.61, 353), (5.42, 579)]
)
def test_where_sigma_lies_on_the_ddpm_schedule(sigma, t):
    every = np.arange(T)[::-1]
    above = T - 1 - interval(every, noise_schedule=NS, sigma_min=sigma)
    assert above.min() in (t, t + 1)
    below = T - 1 - interval(every, noise_schedule=NS, sigma_max=sigma)
    assert below.max() == above.min() - 1


def test_one_end_is_enough_and_pure_noise_has_an_infinite_sigma():
    pure = process.zero_terminal_snr(NS)
    every = np.arange(T)[::-1]
    noisy = interval(every, noise_schedule=pure, sigma_min=5.42)
    assert noisy[0] == 0 and len(noisy) > 10
    assert interval(every, noise_schedule=pure, sigma_max=5.42)[0] == len(noisy)
    assert interval(every, noise_schedule=pure, log_snr_min=-20.0)[0] == 1
    assert len(interval(every, step_max=4)) == 5
    assert interval(every, step_min=990, step_max=5000)[-1] == T - 1


@pytest.mark.parametrize(
    ("ends", "message"),
    [
        ({"t_min": 3, "sigma_max": 1.0}, "given in t and in sigma: give t_min"),
        ({"step_min": 3, "log_snr_max": 1.0}, "given in log_snr and in step"),
        ({"sigma_min": 2.0, "sigma_max": 1.0}, "use sigma_min < sigma_max"),
        ({"sigma_min": -1.0}, "use 0 or more"),
        ({"sigma_min": 200.0}, r"of the grid: its sigma is 0.07617 \.\.\. 157.4"),
        ({"sigma_max": 1e-4}, "sigma_min and sigma_max hold no noise level"),
        ({"sigma_max": float("nan")}, "use sigma_min < sigma_max"),
        ({"log_snr_min": 3.0, "log_snr_max": -3.0}, "use log_snr_min < log_snr_max"),
        ({"log_snr_min": 20.0}, r"hold no noise level of .* its log_snr is -10\.1"),
        ({"step_min": 5, "step_max": 4}, "use whole numbers 0 <= step_min <= step_max"),
        ({"step_min": 50}, r"holds no step of 0 \.\.\. 49"),
        ({"step_min": 0.5}, "use whole numbers"),
        ({"sigma_min": 1.0, "sigma_max": 1.0001}, "0 on all 50 sampling timesteps"),
    ],
)  # fmt: skip
def test_bad_ends(ends, message):
    grid = levels.make("trailing", NS, 50)
    with pytest.raises(ValueError, match=message) as error:
        interval(grid, **ends)
    assert "\n" not in str(error.value)


def test_sigma_needs_noise_levels():
    with pytest.raises(ValueError, match="need the noise levels: pass noise_schedule="):
        interval(np.arange(T)[::-1], sigma_min=1.0)


def test_a_curve_is_carried_by_noise_level():
    """A curve that is a function of log(sigma / alpha) stays that function."""
    source, target = process.ddpm_linear(400), process.cosine(T)
    low, high = source.log_r[[0, -1]]
    carried = curves.carry(np.stack([source.log_r, 3 - source.log_r]), source, target)
    expected = np.clip(target.log_r, low, high)
    np.testing.assert_allclose(carried, [expected, 3 - expected], atol=1e-12)
    g = np.random.default_rng(0).random((2, T))
    np.testing.assert_allclose(curves.carry(g, NS, NS), g, rtol=1e-12)
    with pytest.raises(ValueError, match=r"\(2, 1000\): pass one for each of the 400"):
        curves.carry(g, source, target)


def test_a_curve_is_carried_to_a_grid_of_sigma():
    """As by inverse interpolation of log(sigma / alpha) to t, then G linear in t."""
    G = gradnorm.cumulative(np.random.default_rng(1).random(T))
    grid = levels.karras(None, 16, sigma_min=0.02, sigma_max=80.0)
    t = np.interp(np.log(grid.sigma[:-1]), np.log(R), np.arange(T))
    expected = np.interp(t, np.arange(T), G)
    carried = curves.carry(G, NS, grid)
    np.testing.assert_allclose(carried, expected, rtol=1e-9)
    omega = schedules.make("table", 2.0, grid, T, values=carried, axis="steps")
    np.testing.assert_allclose(omega, 2 * expected / expected.mean(), rtol=1e-6)
    # on a grid in the coordinates of the schedule, a probed curve needs no carrying
    inside = levels.karras(NS, 16)
    there = curves.table(G, T)(inside.t[:-1] / T)
    np.testing.assert_allclose(curves.carry(G, NS, inside), there, rtol=1e-9)


def test_pure_noise_takes_the_value_at_pure_noise():
    pure = process.zero_terminal_snr(NS)
    G = np.arange(T, 0, -1.0)
    np.testing.assert_allclose(curves.carry(G, pure, pure), G, rtol=1e-12)
    assert curves.carry(G, NS, pure)[-1] == G[-1]
