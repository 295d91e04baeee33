import numpy as np
import pytest
from scipy import integrate

from progguide_jax.diffusion import levels, samplers
from progguide_jax.guidance import gradnorm, schedules

T = 1000
GRID = samplers.timesteps(T, 200)
HALF = 2**-0.5


def make(name, scale=1.0, ts=GRID, normalize=None, **shape):
    return schedules.make(name, scale, ts, T, normalize, **shape)


@pytest.mark.parametrize(
    ("name", "values"),  # at tau = 0, 1/4, 1/2, 3/4, 1
    [
        ("static", [1, 1, 1, 1, 1]),
        ("linear", [2, 1.5, 1, 0.5, 0]),
        ("cosine", [2, 1 + HALF, 1, 1 - HALF, 0]),
        ("invlinear", [0, 0.5, 1, 1.5, 2]),
        ("sine", [0, 1 - HALF, 1, 1 + HALF, 2]),
        ("sine_bump", [0, np.pi / 2 * HALF, np.pi / 2, np.pi / 2 * HALF, 0]),
        ("lambda", [0, 1, 2, 1, 0]),
        ("vshape", [2, 1, 0, 1, 2]),
    ],
)
def test_shapes_by_hand_and_their_integral(name, values):
    curve = schedules.SCHEDULES[name].curve(T)
    np.testing.assert_allclose(curve(np.linspace(0, 1, 5)), values, atol=1e-12)
    integral, _ = integrate.quad(
        lambda tau: curve(np.array([tau]))[0], 0, 1, points=[0.5]
    )
    assert integral == pytest.approx(1, abs=1e-9)


@pytest.mark.parametrize(
    ("power", "mean"), [(0.01, 0.9995), (0.1, 0.965), (1, 0.5), (2, 0.313), (4, 0.178)]
)
def test_power_cosine_mean_and_peak(power, mean):
    integral, _ = integrate.quad(lambda tau: schedules.pcs(tau, power), 0, 1)
    assert integral == pytest.approx(mean, abs=6e-4)
    omega = make("pcs", 0.7, power=power)
    assert omega[-1] == pytest.approx(0.7, rel=1e-6)  # t = 0: the peak is the scale
    assert omega.mean() == pytest.approx(0.7 * mean, abs=3e-3)
    standardised = make("pcs", 0.7, power=power, normalize="sampling")
    assert standardised.mean() == pytest.approx(0.7, rel=1e-6)


def test_power_cosine_defaults_to_power_4():
    # tau = 0.5: (1 - cos(pi / 16)) / 2
    omega = make("pcs", ts=np.array([500]))
    assert omega[0] == pytest.approx(0.0096073598, rel=1e-6)
    np.testing.assert_array_equal(make("pcs"), make("pcs", power=4))


@pytest.mark.parametrize("spacing", levels.SPACINGS)
def test_directions_in_sampling_order(spacing):
    ts = samplers.timesteps(T, 50, spacing)
    g = np.random.default_rng(0).random(T)
    for name, shape in {"linear": {}, "cosine": {}, "pcs": {}, "gn": {"g": g}}.items():
        omega = make(name, ts=ts, **shape)
        assert np.all(np.diff(omega) > 0), name
    for name in ("invlinear", "sine"):
        assert np.all(np.diff(make(name, ts=ts)) < 0), name
    middle = slice(20, 30)
    for name in ("lambda", "sine_bump"):
        omega = make(name, ts=ts)
        assert omega[middle].min() > 1.4 and max(omega[0], omega[-1]) < 0.1
    omega = make("vshape", ts=ts)
    assert omega[middle].max() < 0.5 and min(omega[0], omega[-1]) > 1.8


@pytest.mark.parametrize("name", ["linear", "cosine"])
@pytest.mark.parametrize(
    ("arguments", "mean"),
    [
        ((50, "leading"), 1.020),
        ((100, "leading"), 1.010),
        ((200, "leading"), 1.005),
        ((50, "trailing"), 0.982),
        ((100, "trailing"), 0.992),
        ((200, "trailing"), 0.997),
        ((50, "linspace"), 1.001),
        ((50, "leading", 1), 1.018),
        ((100, "leading", 1), 1.008),
        ((200, "leading", 1), 1.003),
    ],
)
def test_a_gathered_curve_is_off_by_the_grid(name, arguments, mean):
    ts = samplers.timesteps(T, *arguments)
    assert make(name, ts=ts, normalize="continuous").mean() == pytest.approx(
        mean, abs=5.1e-4
    )
    assert make(name, ts=ts).mean() == pytest.approx(1, rel=1e-6)
    gathered = make(name, ts=ts, normalize="train")  # the literal Algorithm 1
    full = make(name, ts=np.arange(T)[::-1], normalize="sampling")
    np.testing.assert_allclose(gathered, full[::-1][ts], rtol=1e-6)


@pytest.mark.parametrize("name", ["linear", "cosine"])
def test_dt_is_sampling_on_ddim_grids(name):
    for num_steps in (50, 200):
        ts = samplers.timesteps(T, num_steps)
        dt, sampling = (make(name, ts=ts, normalize=m) for m in ("dt", "sampling"))
        np.testing.assert_allclose(dt, sampling, rtol=1e-6)


def test_scale_dtype_and_the_default_mean():
    g = np.random.default_rng(1).random((2, T))
    table = {"values": [1.0, 5.0, 2.0]}
    shapes = {"table": table, "gn": {"g": g}, "gn_all": {"g": g}}
    shapes |= dict.fromkeys(("interval", "neg_perturb"), {"t_min": 200, "t_max": 499})
    shapes |= dict.fromkeys("static linear cosine invlinear sine sine_bump".split(), {})
    shapes |= dict.fromkeys("lambda vshape pcs".split(), {})
    for name, shape in shapes.items():
        omega = make(name, 0.2, **shape)
        assert omega.dtype == np.float32
        assert omega.shape == ((2, 200) if name == "gn_all" else (200,))
        np.testing.assert_allclose(omega, 0.2 * make(name, **shape), rtol=1e-6)
        np.testing.assert_array_equal(make(name, 0, **shape), 0)
        if name not in ("pcs", "interval", "neg_perturb"):  # a peak, a height
            np.testing.assert_allclose(omega.mean(-1), 0.2, rtol=1e-5)


def test_the_literal_closed_forms_of_section_4_1():
    tau = GRID / T
    for name, g in {"linear": 2 * (1 - tau), "cosine": np.cos(np.pi * tau) + 1}.items():
        omega = make(name, 0.15, normalize="continuous")
        np.testing.assert_allclose(omega, 0.15 * g, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize(
    ("g", "name", "difference"),
    [
        (np.ones(T), "linear", 0.002),
        (np.sin(np.pi * np.arange(T) / T), "cosine", 0.004),
    ],
)
def test_constant_g_gives_linear_and_sine_g_cosine(g, name, difference):
    ts = np.arange(T)[::-1]
    for normalize in ("train", "continuous"):
        gn = make("gn", ts=ts, g=g, normalize=normalize)
        heuristic = make(name, ts=ts, normalize="continuous")
        assert np.abs(gn - heuristic).max() < difference


def test_gn_and_gn_all_by_hand():
    g = np.array([[1.0, 2.0, 3.0, 4.0], [5.0, 0.0, 1.0, 0.0]])
    ts = np.array([3, 1, 0])
    # G = [10, 9, 7, 4] and [6, 1, 1, 0]; gathered [4, 9, 10] and [0, 1, 6]
    rows = schedules.make("gn_all", 0.5, ts, 4, g=g)
    expected = [np.array([4, 9, 10]) / 23 * 1.5, np.array([0, 1, 6]) / 7 * 1.5]
    np.testing.assert_allclose(rows, expected, rtol=1e-6)
    mean = schedules.make("gn", 0.5, ts, 4, g=g)
    np.testing.assert_allclose(mean, np.array([4, 10, 16]) / 30 * 1.5, rtol=1e-6)
    np.testing.assert_allclose(
        schedules.make("gn", 0.5, ts, 4, g=g.mean(0)), mean, rtol=1e-6
    )
    # one door for probed curves and formulas
    np.testing.assert_array_equal(gradnorm.omega(g, 0.5, ts), rows)
    literal = schedules.make("gn", 1.0, ts, 4, "train", g=g[0])
    np.testing.assert_allclose(literal, np.array([4, 9, 10]) / 7.5, rtol=1e-6)


def test_interval_is_inclusive_and_not_standardised():
    ts = np.arange(10)[::-1]
    omega = schedules.make("interval", 0.3, ts, 10, t_min=2, t_max=5)
    np.testing.assert_allclose(omega, 0.3 * np.array([0, 0, 0, 0, 1, 1, 1, 1, 0, 0]))
    same_energy = schedules.make("interval", 0.3, ts, 10, "sampling", t_min=2, t_max=5)
    np.testing.assert_allclose(same_energy, omega / 0.4, rtol=1e-6)


def test_an_interval_must_select_something():
    """Limits are timesteps: 0.2 would be none of them, and no limits all of them."""
    for name in ("interval", "neg_perturb"):
        with pytest.raises(
            ValueError, match=r"give t_min, t_max or both.* 0 \.\.\. 999"
        ):
            make(name)
        with pytest.raises(ValueError, match="0.2 is a fraction.* is t_min=200"):
            make(name, t_min=0.2)
    with pytest.raises(ValueError, match="'interval': 0 on all 200 sampling timesteps"):
        make("interval", t_min=1, t_max=4)
    with pytest.raises(ValueError, match="'neg_perturb': 0 on all 200"):
        make("neg_perturb", t_min=0)
    assert not make("interval", 0.0, t_min=1, t_max=4).any()  # asked for nothing


def test_a_weight_beyond_use_is_said(caplog):
    for scale in (0.0, 1.0, 100.0):
        for name in ("static", "linear", "pcs"):
            make(name, scale)
    make("static", -1.0)
    assert not caplog.messages
    make("static", 1e9)
    make("table", 1.0, values=[0, 0, 5e3], axis="t", normalize="none")  # its peak
    line = "a guidance weight is above 1000: images will saturate"
    assert [m.startswith(line) for m in caplog.messages] == [True, True]


def test_a_curve_that_is_static_is_said(caplog):
    make("interval", t_min=0)
    assert "'interval' has one value on all 200 sampling timesteps" in caplog.text
    caplog.clear()
    make("neg_perturb", t_min=1, t_max=4)  # between two timesteps
    assert "it is static" in caplog.text
    caplog.clear()
    make("interval", t_max=500), make("static"), make("static", 0.0)
    make("interval", 0.0, t_min=0)
    assert not caplog.text


def test_a_table_in_sampling_order():
    """As many values as steps: which way they go must be said."""
    values = np.arange(200.0) ** 2
    with pytest.raises(ValueError, match="as many as the 200 sampling steps: say axis"):
        make("table", values=values)
    steps = make("table", 0.5, values=values, axis="steps")
    np.testing.assert_allclose(steps, 0.5 * values / values.mean(), rtol=1e-6)
    ascending = make("table", 0.5, values=values, axis="t")
    assert ascending[0] == ascending.max() and steps[0] == 0
    rows = make("table", values=np.stack([values, values + 1]), axis="steps")
    np.testing.assert_allclose(rows[0], values / values.mean(), rtol=1e-6)
    with pytest.raises(ValueError, match=r"\(7,\): axis 'steps' takes one for each"):
        make("table", values=np.ones(7), axis="steps")
    with pytest.raises(ValueError, match="unknown axis 'step': did you mean 'steps'"):
        make("table", values=values, axis="step")


def test_a_table_is_a_curve_that_is_scaled():
    """Its mean is the scale; as it stands, times the scale, with normalize="none"."""
    values = np.arange(1.0, T + 1)
    assert make("table", 0.5, values=values).mean() == pytest.approx(0.5, rel=1e-6)
    as_it_is = make("table", 0.5, values=values, normalize="none")
    np.testing.assert_allclose(as_it_is, 0.5 * (GRID + 1), rtol=1e-6)


def test_a_function_of_t_or_of_tau():
    """By the name of its argument; scaled to the mean like the others, or as it is."""
    linear = make("linear", 0.3)
    np.testing.assert_allclose(make(lambda tau: 1 - tau, 0.3), linear, rtol=1e-6)
    np.testing.assert_allclose(make(lambda t: 1 - t / T, 0.3), linear, rtol=1e-6)
    as_it_is = make(lambda t: np.where(t < 500, 2.0, -0.5), 1.0, normalize="none")
    np.testing.assert_array_equal(as_it_is, np.where(GRID < 500, 2, -0.5))

    def at_once(t):
        return 3.0

    np.testing.assert_array_equal(make(at_once, 0.3), np.float32(0.3))
    with pytest.raises(ValueError, match="name the argument .*: it is 'x'"):
        make(lambda x: x)
    with pytest.raises(ValueError, match="your function of t must take an array"):
        make(lambda t: 1.0 if t < 500 else 0.0)
    with pytest.raises(ValueError, match=r"as long, .* \(it returned None\)"):
        make(lambda tau: None)
    with pytest.raises(ValueError, match=r"as long, .* \(it returned \(2, 3\)\)"):
        make(lambda tau: np.ones((2, 3)))
    with pytest.raises(ValueError, match="makes no sense for 'at_once'"):
        make(at_once, np.nan)


def test_a_function_of_t_written_for_tau_is_said(caplog):
    make(lambda t: t < 400), make(lambda tau: tau < 1e-9), make(lambda t: t >= 0)
    assert "static" in caplog.records.pop().message and not caplog.records
    for function in (lambda t: t < 0.4, lambda t: t >= 0.4):
        caplog.clear()
        make(function)
        assert "t is 0 ... 999; name the argument tau for t / T" in caplog.text


def test_every_t_is_on_the_right_side_of_an_interval():
    """t / T is inexact (29 / 100 * 100 < 29): no end may fall to rounding."""
    assert 29 / 100 * 100 < 29
    ts = np.arange(100)[::-1]
    for t in range(100):
        omega = schedules.make("interval", 1.0, ts, 100, t_min=t, t_max=t)
        assert np.flatnonzero(omega).tolist() == [99 - t]


def test_zeroed_windows_partition_the_static_weight():
    """Figure 7b: 20 windows of 50 timesteps hold 10 of 200 DDIM steps each."""
    static = make("static", 0.15)
    removed = []
    for i in range(20):
        window = dict(t_min=50 * i, t_max=50 * i + 49)
        perturbed = make("neg_perturb", 0.15, **window)
        assert np.count_nonzero(perturbed == 0) == 10
        removed.append(static - perturbed)
        np.testing.assert_array_equal(removed[-1], make("interval", 0.15, **window))
    np.testing.assert_allclose(np.sum(removed, 0), static, rtol=1e-6)


@pytest.mark.parametrize(
    ("name", "near"), [("cosin", "cosine"), ("gnall", "gn_all"), ("lambd", "lambda")]
)
def test_unknown_names_suggest_the_nearest(name, near):
    with pytest.raises(ValueError, match=f"did you mean '{near}'.* static, linear"):
        make(name)


def test_a_name_near_nothing_lists_all():
    with pytest.raises(ValueError) as error:
        make("zzz")
    assert "did you mean" not in str(error.value)
    assert all(name in str(error.value) for name in schedules.names())


@pytest.mark.parametrize(
    ("name", "scale"),
    [
        ("static", np.nan),
        ("static", np.inf),
        ("static", -1.1),
        ("linear", -0.1),
        ("cosine", -np.inf),
    ],
)
def test_scales_that_make_no_sense(name, scale):
    with pytest.raises(ValueError, match=f"makes no sense for '{name}'"):
        make(name, scale)


@pytest.mark.parametrize(("scale", "ts"), [("2.0", GRID), (GRID, 2.0), (None, GRID)])
def test_a_scale_is_a_number(scale, ts):
    """With timesteps in its place, the order of the arguments is said."""
    with pytest.raises(
        ValueError, match=r"pass one number, .* make\(name, scale, time"
    ):
        make("cosine", scale, ts)


def test_scale_minus_1_is_the_unconditional_model():
    np.testing.assert_array_equal(make("static", -1.0), -1)


@pytest.mark.parametrize(
    ("name", "shape", "message"),
    [
        ("pcs", {"power": 0}, "power must be positive, got 0"),
        ("cosine", {"power": 2}, "schedule 'cosine' .*power': it has none"),
        ("pcs", {"pow": 2}, "no setting 'pow': did you mean 'power'. it has power"),
        ("pcs", {"power": "2"}, "pcs: power must be a number, got '2'"),
        ("interval", {"t_min": "200"}, "interval: t_min must be a number, got '200'"),
        ("interval", {"t_min": 9, "t_max": 3}, "use 0 <= t_min <= t_max"),
        ("gn", {}, "schedule 'gn': .*'g'"),
        ("gn", {"g": np.ones(999)}, r"\(999,\), expected \[1000\].*noise schedule"),
        ("gn_all", {"g": np.ones((T, 10))}, r"\(1000, 10\), expected"),
        ("gn_all", {"g": np.ones(T)}, r"\(1000,\), expected \[K, 1000\]"),
        ("gn", {"g": -np.ones(T)}, "not negative"),
        ("gn", {"g": np.full(T, np.nan)}, "finite"),
        ("gn", {"g": np.zeros(T)}, "negative somewhere, or 0"),
        ("table", {"values": [1.0]}, "N >= 2"),
        ("table", {"values": [1.0, -2.0]}, "negative somewhere, or 0"),
        ("linear", {"normalize": "mean"}, "unknown normalize 'mean'"),
        (
            "linear",
            {"normalize": False},
            "normalize False: use one of sampling, .*none",
        ),
        ("table", {"values": [1, 2], "normalize": True}, "normalize True: use one of"),
        ("linear", {"ts": 50}, r"timesteps is 50: .* samplers.timesteps\(1000, 50\)"),
        ("linear", {"ts": np.array([1000, 0])}, r"leave 0 \.\.\. 999"),
    ],
)
def test_bad_shapes(name, shape, message):
    with pytest.raises(ValueError, match=message):
        make(name, **shape)
