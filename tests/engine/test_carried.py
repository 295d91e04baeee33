"""A curve of another workdir goes to the noise levels of this one."""

import json

import numpy as np
import pytest

from progguide_jax.diffusion import process
from progguide_jax.engine import carried, probing, sampling, weights
from progguide_jax.runtime import config as config_lib
from progguide_jax.runtime import digests
from progguide_jax.systems import build, specs, trained, validation

CHECKPOINT = {"step": 7, "digest": "ab"}


@pytest.fixture
def other(tiny, tmp_path):
    """A curve over 300 timesteps of the cosine schedule: G of class c falls linearly in
    log(sigma / alpha), from 9 + c at log_r = 0."""
    tiny.noise.name, tiny.noise.num_timesteps = "cosine", 300
    ns = build.noise_schedule(tiny)
    G = 9 + np.arange(3.0)[:, None] - ns.log_r
    made_by = {
        "checkpoint": CHECKPOINT,
        "noise_schedule": digests.digest({"alpha_bar": ns.alpha_bar}),
    }
    (tmp_path / "probe").mkdir()
    (tmp_path / "config.json").write_text(config_lib.to_json(tiny))
    g = G - np.append(G[:, 1:], np.zeros((3, 1)), 1)
    np.savez(tmp_path / "probe" / "curve.npz", g=g)
    record = json.dumps({"made_by": made_by})
    (tmp_path / "probe" / "curve.json").write_text(record)
    tiny.noise.name, tiny.noise.num_timesteps = "ddpm_linear", 20
    tiny.guidance.schedule, tiny.guidance.gn.carry = "gn", True
    tiny.guidance.gn.curve = str(tmp_path / "probe" / "curve.npz")
    return tmp_path


@pytest.mark.parametrize("spacing", ["leading", "log_snr"])
@pytest.mark.parametrize("schedule", ["gn", "gn_all"])
def test_omega_is_that_of_the_noise_level(tiny, other, schedule, spacing, caplog):
    """On timesteps, and on a grid of sigma between them. Data are beyond the lowest
    level of the other schedule, whose value they take."""
    caplog.set_level("INFO")
    tiny.guidance.schedule, tiny.sample.spacing = schedule, spacing
    validation.check_command(tiny)
    (omega,) = weights.make(tiny, "", {"step": 1, "digest": "cd"}).values()
    log_r = np.log(specs.grid(tiny).r[:-1])
    log_r[-1] = process.make("cosine", 300).log_r[0]
    G = (10 if schedule == "gn" else 9 + np.arange(3.0)[:, None]) - log_r
    np.testing.assert_allclose(omega, G / G.mean(-1, keepdims=True), rtol=1e-5)
    (line,) = [r for r in caplog.messages if "carried" in r]
    assert "from 300 timesteps of cosine to 20 of ddpm_linear" in line


def test_without_the_key_it_is_refused(tiny, other):
    tiny.guidance.gn.carry = False
    with pytest.raises(ValueError, match="another noise .* set guidance.gn.carry=True"):
        weights.make(tiny, "", CHECKPOINT)


def test_the_record_of_samples_has_its_digest(tiny, other):
    run = sampling.Run(None, trained.of(tiny, {}, CHECKPOINT), "")
    about = sampling.make_spec(tiny, run).about["curve"]
    g = np.load(tiny.guidance.gn.curve)["g"]
    assert about["digest"] == digests.digest({"g": g})
    assert about["checkpoint"] == CHECKPOINT
    tiny.guidance.schedule = "static"
    assert "curve" not in sampling.make_spec(tiny, run).about


def test_a_curve_without_its_workdir(tiny, other):
    path, config = tiny.guidance.gn.curve, other / "config.json"
    tiny.noise.num_timesteps = 30
    config.write_text(config_lib.to_json(tiny))
    with pytest.raises(ValueError, match="than that of .*: run probe.py there again"):
        carried.load_curve(tiny, path)
    config.unlink()
    with pytest.raises(ValueError, match="guidance.gn.carry needs .* there is no"):
        carried.load_curve(tiny, path)
    assert probing.curve_made_by(path)["checkpoint"] == CHECKPOINT
