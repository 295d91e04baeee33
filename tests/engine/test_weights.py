"""omega of a config: formulas, tables in files, probed curves."""

import numpy as np
import pytest

from progguide_jax.engine import probing, weights
from progguide_jax.guidance import rules
from progguide_jax.runtime import files, sharding
from progguide_jax.systems import build


def make(config, workdir="", origin=None):
    (omega,) = weights.make(config, workdir, origin or {}).values()
    return omega


def test_gn_and_gn_all_weights_follow_the_curve(tiny, probed):
    """[S] from the class mean of G; [K,S] from G itself."""
    _, origin = build.load_ema(tiny, probed, sharding.mesh())
    G = files.load_npz(probing.curve_path(probed))["G"]
    ts = np.array([15, 10, 5, 0])
    tiny.guidance.schedule, tiny.guidance.scale = "gn", 2.0
    mean = G.mean(0)[ts]
    expected = 2 * mean / mean.mean()
    np.testing.assert_allclose(make(tiny, probed, origin), expected, rtol=1e-6)
    tiny.guidance.schedule = "gn_all"
    rows = G[:, ts]
    expected = 2 * rows / rows.mean(1, keepdims=True)
    np.testing.assert_allclose(make(tiny, probed, origin), expected, rtol=1e-6)


def test_a_curve_is_read_between_timesteps_too(tiny, probed):
    """On a grid of sigma, t is fractional: G is interpolated in t."""
    _, origin = build.load_ema(tiny, probed, sharding.mesh())
    tiny.guidance.schedule, tiny.guidance.scale = "gn", 2.0
    tiny.sample.spacing = "karras"
    gn = files.load_npz(probing.curve_path(probed))["gn"]
    ns = build.noise_schedule(tiny)
    r = ns.sigma / ns.alpha
    ramp = np.linspace(r[-1] ** (1 / 7), r[0] ** (1 / 7), 4) ** 7
    t = np.interp(np.log(ramp), np.log(r), np.arange(20))
    G = np.interp(t, np.arange(20), gn)
    np.testing.assert_allclose(make(tiny, probed, origin), 2 * G / G.mean(), rtol=1e-5)


def test_a_rule_of_negative_weights_takes_a_mirrored_curve(tiny):
    tiny.guidance.rule, tiny.guidance.schedule = "cfgpp", "linear"
    tiny.guidance.scale = -0.4
    tau = np.array([15, 10, 5, 0]) / 20
    expected = -0.4 * (1 - tau) / (1 - tau).mean()
    np.testing.assert_allclose(make(tiny), expected, rtol=1e-6)
    tiny.guidance.scale = -0.9
    with pytest.raises(ValueError, match="falls to -1.44 and the rule 'cfgpp' takes"):
        make(tiny)


def test_a_rule_of_negative_weights_takes_none_of_both_signs(tiny):
    tiny.guidance.rule, tiny.guidance.schedule = "cfgpp", "beta"
    tiny.guidance.scale = -0.4
    with pytest.raises(ValueError, match=r"beta schedule is .* takes -1 \.\.\. 0: set"):
        make(tiny)


def test_a_rule_of_positive_weights_takes_no_negative_one(tiny, monkeypatch):
    positive = rules.RULES["apg"]._replace(scales=(0.0, np.inf))
    monkeypatch.setitem(rules.RULES, "apg", positive)
    tiny.guidance.rule, tiny.guidance.schedule = "apg", "beta"
    with pytest.raises(ValueError, match=r"beta .* 'apg' takes 0 \.\.\. inf: set"):
        make(tiny)
    tiny.guidance.schedule = "clamp_linear"
    assert make(tiny).min() > 0


def test_a_schedule_in_w_and_one_of_noise_levels(tiny):
    """w = 1 + omega of beta is 0 at both ends; an interval of sigma on a grid of sigma,
    and a curve that needs the noise schedule."""
    tiny.guidance.schedule, tiny.guidance.scale = "beta", 2.0
    p = np.arange(4) / 3
    np.testing.assert_allclose(make(tiny), 3 * 6 * p * (1 - p) - 1, atol=1e-6)
    tiny.sample.spacing, tiny.guidance.schedule = "karras", "interval"
    ns = build.noise_schedule(tiny)
    r = ns.sigma / ns.alpha
    sigma = np.linspace(r[-1] ** (1 / 7), r[0] ** (1 / 7), 4) ** 7
    window = tiny.guidance.interval
    window.sigma_min, window.sigma_max = float(sigma[2]), float(sigma[1])
    np.testing.assert_array_equal(make(tiny), [0, 2, 0, 0])
    tiny.guidance.schedule = "dg_cfg"
    f = (1 - ns.alpha_bar) * np.sqrt(ns.alpha_bar)
    f /= 1 - ns.alpha_bar / np.append(1, ns.alpha_bar[:-1])
    f = np.interp(np.interp(np.log(sigma), np.log(r), np.arange(20)), np.arange(20), f)
    np.testing.assert_allclose(make(tiny), 2 * f / f.mean(), rtol=1e-5)


def test_a_reference_may_have_a_scale_of_its_own(tiny):
    tiny.guidance.references = ("null", "autoguidance")
    tiny.guidance.schedule, tiny.guidance.scale = "linear", 2.0
    same = weights.make(tiny, "", {})
    np.testing.assert_array_equal(same["null"], same["guide"])
    tiny.guidance.autoguidance.scale = 0.5
    own = weights.make(tiny, "", {})
    np.testing.assert_allclose(own["guide"], same["null"] / 4, rtol=1e-6)
    np.testing.assert_array_equal(own["null"], same["null"])


def test_a_reference_may_have_a_schedule_of_its_own(tiny, tmp_path):
    """With its scale and without, a table among them, which is read for it alone."""
    tiny.guidance.references = ("null", "autoguidance", "icg")
    tiny.guidance.schedule, tiny.guidance.scale = "linear", 2.0
    tiny.guidance.autoguidance.schedule, tiny.guidance.autoguidance.scale = (
        "static",
        1.0,
    )
    tiny.guidance.icg.schedule = "table"
    np.savetxt(tmp_path / "w.txt", np.arange(20.0))
    tiny.guidance.table.file = str(tmp_path / "w.txt")
    made = weights.make(tiny, "", {})
    tau = np.array([15, 10, 5, 0]) / 20
    wanted = {"null": 2 * (1 - tau) / (1 - tau).mean(), "guide": np.ones(4)}
    wanted["icg"] = 2 * tau / tau.mean()
    for branch, values in wanted.items():
        np.testing.assert_allclose(made[branch], values, rtol=1e-6)
    tiny.guidance.references = ("autoguidance", "icg")  # and the common one is not read
    tiny.guidance.schedule = "gn"
    assert set(weights.make(tiny, "", {})) == {"guide", "icg"}


def test_one_reference_early_and_another_late(tiny):
    """On 15, 10, 5, 0, with one window: a weight is where the other is not."""
    tiny.guidance.references, tiny.guidance.scale = ("null", "icg"), 2.0
    tiny.guidance.schedule, tiny.guidance.icg.schedule = "interval", "neg_perturb"
    tiny.guidance.interval.t_min = tiny.guidance.neg_perturb.t_min = 8
    made = weights.make(tiny, "", {})
    np.testing.assert_array_equal(made["null"], [2, 2, 0, 0])
    np.testing.assert_array_equal(made["icg"], [0, 0, 2, 2])


def test_a_rule_that_sees_the_mean_takes_weights_of_one_sign(tiny):
    tiny.guidance.references = ("null", "autoguidance")
    tiny.guidance.scale, tiny.guidance.autoguidance.scale = -0.5, 1.0
    assert len(weights.make(tiny, "", {})) == 2
    tiny.guidance.rule = "apg"
    with pytest.raises(ValueError, match="rule 'apg': at step 0 omega is -0.5 of one"):
        weights.make(tiny, "", {})


def test_an_interval_without_a_sampling_timestep_is_refused(tiny):
    tiny.guidance.schedule = "interval"
    window = tiny.guidance.interval
    window.t_min, window.t_max = 1, 4  # the grid is 15, 10, 5, 0
    with pytest.raises(ValueError, match="'interval': 0 on all 4 sampling timesteps"):
        make(tiny)


def test_a_curve_that_is_the_same_everywhere_is_said(tiny, caplog):
    """On 15, 10, 5, 0: a window between two of them, and one over all."""
    tiny.guidance.schedule = "neg_perturb"
    tiny.guidance.neg_perturb.t_min, tiny.guidance.neg_perturb.t_max = 6, 9
    np.testing.assert_array_equal(make(tiny), np.ones(4))
    assert "'neg_perturb' has one value on all 4" in caplog.text
    caplog.clear()
    tiny.guidance.neg_perturb.t_max = 10
    np.testing.assert_array_equal(make(tiny), [1, 0, 1, 1])
    assert not caplog.text


def test_a_reference_of_no_weight_beside_another_is_no_error(tiny):
    tiny.guidance.references = ("null", "autoguidance")
    tiny.guidance.autoguidance.scale = 0.0
    made = weights.make(tiny, "", {})
    np.testing.assert_array_equal(made["guide"], np.zeros(4))
    np.testing.assert_array_equal(made["null"], np.ones(4))


def test_tables_from_files(tiny, probed, tmp_path):
    """An .npy and a text file of weights over t ascending; the mean is the scale."""
    origin, values = {"step": 6, "digest": ""}, np.arange(20.0) ** 2
    np.save(tmp_path / "w.npy", values)
    np.savetxt(tmp_path / "w.txt", values)
    tiny.guidance.schedule, tiny.guidance.scale = "table", 3.0
    expected = np.array([225, 100, 25, 0]) / 87.5 * 3
    for name in ("w.npy", "w.txt"):
        tiny.guidance.table.file = str(tmp_path / name)
        got = make(tiny, probed, origin)
        np.testing.assert_allclose(got, expected, rtol=1e-6)
    tiny.guidance.table.file = str(tmp_path / "none.npy")
    with pytest.raises(FileNotFoundError, match="no table of weights at .*none.npy"):
        make(tiny, probed, origin)
    np.save(tmp_path / "rows.npy", np.ones((2, 20)))  # the config has 3 classes
    tiny.guidance.table.file = str(tmp_path / "rows.npy")
    with pytest.raises(ValueError, match="2 rows .* 3 classes"):
        make(tiny, probed, origin)
    (tmp_path / "bad.npy").write_bytes(b"no array")
    tiny.guidance.table.file = str(tmp_path / "bad.npy")
    with pytest.raises(ValueError, match="bad.npy") as error:
        make(tiny, probed, origin)
    assert "\n" not in str(error.value)
