import numpy as np
import pytest

from progguide_jax.diffusion import levels, process, samplers

NS = process.ddpm_linear()


@pytest.mark.parametrize(
    ("arguments", "first", "last"),
    [
        ((1000, 50, "leading"), [980, 960, 940], [40, 20, 0]),
        ((1000, 50, "leading", 1), [981, 961, 941], [41, 21, 1]),
        ((1000, 50, "trailing"), [999, 979, 959], [59, 39, 19]),
        ((1000, 50, "linspace"), [999, 979, 958, 938], [41, 20, 0]),
        ((1000, 200, "leading"), [995, 990], [5, 0]),
        ((10, 3, "leading"), [6, 3, 0], [6, 3, 0]),
        ((10, 4, "leading"), [6, 4, 2, 0], [6, 4, 2, 0]),
        ((10, 3, "trailing"), [9, 6, 2], [9, 6, 2]),
        ((10, 3, "linspace"), [9, 4, 0], [9, 4, 0]),
        ((10, 3, "trailing", -2), [7, 4, 0], [7, 4, 0]),
        ((4, 4, "trailing"), [3, 2, 1, 0], [3, 2, 1, 0]),
        ((4, 1, "linspace"), [3], [3]),
    ],
)
def test_timesteps_by_hand(arguments, first, last):
    ts = samplers.timesteps(*arguments)
    assert ts.dtype == np.int32 and ts.shape == (arguments[1],)
    assert ts[: len(first)].tolist() == first
    assert ts[-len(last) :].tolist() == last


@pytest.mark.parametrize("spacing", levels.SPACINGS)
def test_every_grid_falls_strictly(spacing):
    for num_timesteps in (7, 40):
        for num_steps in range(1, num_timesteps + 1):
            ts = samplers.timesteps(num_timesteps, num_steps, spacing)
            assert np.all(np.diff(ts) < 0) and 0 <= ts[-1] <= ts[0] < num_timesteps


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"sigma_max": "a"}, "sigma_max must be a number, got 'a'"),
        ({"rho": (1,)}, "rho must be a number"),
        ({"sigma_min": 500.0}, "sigma_min 500 leaves the range of ddpm_linear: use 0"),
        ({"sigma_max": 1e-9}, "sigma_max 1e-09 leaves the range of"),
    ],
)
def test_impossible_ends(settings, message):
    with pytest.raises(ValueError, match=message):
        levels.karras(NS, 10, **settings)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((1000, 1001), "1 ... 1000 .* got 1001"),
        ((1000, 0), "got 0"),
        ((1000, 50, "leadin"), "unknown spacing 'leadin': did you mean 'leading'"),
        ((1000, 50, "trailing", 1), "outside 0 ... 999: use one in -19 ... 0"),
        ((1000, 50, "leading", -1), "use one in 0 ... 19"),
    ],
)
def test_impossible_grids(arguments, message):
    with pytest.raises(ValueError, match=message):
        samplers.timesteps(*arguments)
