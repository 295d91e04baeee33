"""Probing a workdir: its draws, its bookkeeping, and that stopping changes nothing."""

import errno
import json
import pathlib

import jax
import numpy as np
import pytest

from progguide_jax import probing, state
from progguide_jax.diffusion import samplers
from progguide_jax.guidance import gradnorm, schedules
from progguide_jax.runtime import files, sharding


class Killed(Exception):
    """What stands for a kill -9 here."""


def curve(workdir):
    return files.load_npz(probing.curve_path(workdir))


def test_stratified_draws_reach_every_timestep_equally_often():
    """T batches hold B permutations of 0 ... T-1."""
    draws = [probing.draw_timesteps("stratified", 3, k, 12, 20) for k in range(20)]
    np.testing.assert_array_equal(np.bincount(np.concatenate(draws)), np.full(20, 12))
    for first in range(0, 240, 20):  # and every T in a row are one of them
        piece = np.concatenate(draws)[first : first + 20]
        assert sorted(piece) == list(range(20))
    assert not np.array_equal(draws[0], draws[5])  # another permutation each time


def test_stratified_draws_do_not_depend_on_the_batch_size():
    def stream(size):
        draws = [
            probing.draw_timesteps("stratified", 3, k, size, 20)
            for k in range(240 // size)
        ]
        return np.concatenate(draws)

    np.testing.assert_array_equal(stream(12), stream(48))
    np.testing.assert_array_equal(stream(12), stream(1))


@pytest.mark.parametrize("mode", ["stratified", "uniform"])
def test_draws_are_a_function_of_seed_and_batch(mode):
    def draw(seed, batch):
        return probing.draw_timesteps(mode, seed, batch, 64, 1000)

    np.testing.assert_array_equal(draw(0, 7), draw(0, 7))
    assert not np.array_equal(draw(0, 7), draw(1, 7))
    assert not np.array_equal(draw(0, 7), draw(0, 8))
    assert draw(0, 0).dtype == np.int32


def test_uniform_draws_are_uniform_and_independent():
    draws = [probing.draw_timesteps("uniform", 0, k, 100, 20) for k in range(200)]
    counts = np.bincount(np.concatenate(draws), minlength=20)
    assert len(counts) == 20
    chi_square = np.sum((counts - 1000.0) ** 2 / 1000)
    assert chi_square < 19 + 5 * np.sqrt(2 * 19)
    # a bin's count over batches is binomial(100, 1/20); stratified ones hardly vary
    per_batch = np.array([np.bincount(d, minlength=20) for d in draws])
    ratio = per_batch.var(0, ddof=1).mean() / (100 / 20 * 19 / 20)
    assert 0.85 < ratio < 1.15


def test_the_curve_is_consistent_with_itself(probed):
    """Suffix sums, class means and counts, each computed the long way."""
    made = curve(probed)
    g, G, count = made["g"], made["G"], made["count"]
    assert g.shape == (3, 20) and np.all(g > 0)
    # 10 batches of 96: every t 48 times; the data are a third of each class
    np.testing.assert_array_equal(count.sum(0), np.full(20, 48))
    np.testing.assert_array_equal(count.sum(1), [320, 320, 320])
    for t in range(20):
        np.testing.assert_allclose(G[:, t], g[:, t:].sum(1), rtol=1e-12)
        variance = np.square(made["standard_error"][:, t:]).sum(1)
        np.testing.assert_allclose(
            made["G_standard_error"][:, t], np.sqrt(variance), rtol=1e-12
        )
    np.testing.assert_allclose(made["gn"], G.sum(0) / 3, rtol=1e-12)
    error = np.sqrt(np.square(made["G_standard_error"]).sum(0)) / 3
    np.testing.assert_allclose(made["gn_standard_error"], error, rtol=1e-12)
    np.testing.assert_array_equal(made["t"], np.arange(20))
    assert (pathlib.Path(probed) / "probe" / "curve.png").stat().st_size > 1000


def test_the_gn_schedule_is_the_class_mean_of_the_curve(probed):
    made = curve(probed)
    ts = samplers.timesteps(20, 5)
    weights = made["gn"][ts]
    got = schedules.make("gn", 2.0, ts, 20, g=made["g"])
    np.testing.assert_allclose(got, 2.0 * weights / weights.mean(), rtol=1e-6)
    assert np.all(np.diff(got) >= 0)  # G grows as t falls


def test_every_example_is_counted_at_its_own_class_and_timestep(
    tiny, trained, workdir_copy, monkeypatch
):
    """With g = (1 + t)(1 + 10 label) put in place of the gradient, the curve is it."""
    monkeypatch.setattr(state, "embed_label", lambda module, params, label: label)
    monkeypatch.setattr(
        gradnorm,
        "per_example",
        lambda eps_fn, x0, eps, t, emb, noise_schedule: (1.0 + t) * (1 + 10 * emb),
    )
    workdir = workdir_copy(trained)
    probing.probe(tiny, workdir)
    expected = np.outer([1, 11, 21], 1 + np.arange(20))
    np.testing.assert_allclose(curve(workdir)["g"], expected, rtol=1e-6)
    np.testing.assert_allclose(curve(workdir)["standard_error"], 0, atol=0.1)


def test_a_killed_probe_goes_on_as_if_it_had_not_been(
    tiny, trained, probed, workdir_copy, monkeypatch
):
    """Killed in batch 5 of 10; the accumulator was saved after 4."""
    workdir, put, calls = workdir_copy(trained), sharding.put, []

    def failing(*args):
        calls.append(args)
        if len(calls) == 6:
            raise Killed
        return put(*args)

    monkeypatch.setattr(sharding, "put", failing)
    with pytest.raises(Killed):
        probing.probe(tiny, workdir)
    assert not pathlib.Path(probing.curve_path(workdir)).exists()
    probing.probe(tiny, workdir)
    assert len(calls) == 6 + 6
    ours, theirs = curve(workdir), curve(probed)
    for name in theirs:
        np.testing.assert_array_equal(ours[name], theirs[name], err_msg=name)
    assert not (pathlib.Path(workdir) / "probe" / "accumulator.npz").exists()
    probing.probe(tiny, workdir)  # finished: nothing is computed
    assert len(calls) == 12


def test_another_probe_starts_anew(tiny, probed, workdir_copy, monkeypatch):
    workdir = workdir_copy(probed)
    before = curve(workdir)
    tiny.probe.seed = 1
    probing.probe(tiny, workdir)
    assert not np.array_equal(curve(workdir)["g"], before["g"])
    made_by = json.loads((pathlib.Path(workdir) / "probe/curve.json").read_text())
    assert made_by["probe"]["seed"] == 1 and made_by["checkpoint"]["step"] == 6


def test_eight_devices_probe_as_one_does(
    tiny, trained, probed, workdir_copy, one_device
):
    workdir = workdir_copy(trained)
    probing.probe(tiny, workdir)
    for name in ("g", "count", "gn", "standard_error"):
        np.testing.assert_allclose(
            curve(workdir)[name], curve(probed)[name], rtol=1e-4, err_msg=name
        )


def test_a_full_disk_keeps_what_was_accumulated(
    tiny, trained, probed, workdir_copy, monkeypatch
):
    workdir, write = workdir_copy(trained), files.write

    def full(path, content):
        if pathlib.Path(path).name == "curve.npz":
            raise OSError(errno.ENOSPC, "No space left on device")
        write(path, content)

    with monkeypatch.context() as patch:
        patch.setattr(files, "write", full)
        with pytest.raises(OSError, match="No space left"):
            probing.probe(tiny, workdir)
    accumulator = pathlib.Path(workdir) / "probe" / "accumulator.npz"
    assert int(files.load_npz(accumulator)["done"]) == 10
    probing.probe(tiny, workdir)
    np.testing.assert_array_equal(curve(workdir)["g"], curve(probed)["g"])


def test_a_curve_must_belong_to_the_checkpoint_and_the_noise(
    tiny, probed, workdir_copy
):
    path = probing.curve_path(probed)
    _, origin = state.load_ema(tiny, probed, sharding.mesh())
    np.testing.assert_array_equal(
        probing.load_curve(tiny, path, origin), curve(probed)["g"]
    )
    with pytest.raises(FileNotFoundError, match="run probe.py first"):
        probing.load_curve(tiny, path + ".none", origin)
    other = {"step": 4, "digest": "0" * 16}
    with pytest.raises(ValueError, match=r"another checkpoint \(step 6; this one is "):
        probing.load_curve(tiny, path, other)
    tiny.noise.name = "cosine"
    with pytest.raises(ValueError, match="another noise schedule"):
        probing.load_curve(tiny, path, origin)
    workdir = workdir_copy(probed)
    (pathlib.Path(workdir) / "probe" / "curve.json").unlink()
    with pytest.raises(ValueError, match="curve.json is missing: run probe.py again"):
        probing.load_curve(tiny, probing.curve_path(workdir), origin)


def test_bad_probes_end_before_they_begin(tiny, probed, tmp_path):
    with pytest.raises(FileNotFoundError, match="run train.py first"):
        probing.probe(tiny, str(tmp_path))
    tiny.probe.batch_size = 100
    with pytest.raises(ValueError, match="probe.batch_size 100 .* use 96 or 104"):
        probing.probe(tiny, probed)


def test_too_few_examples_say_so_and_lose_nothing(tiny, trained, workdir_copy):
    workdir = workdir_copy(trained)
    tiny.probe.num_examples, tiny.probe.batch_size = 8, 8
    with pytest.raises(ValueError, match="were never probed: raise probe.num_examples"):
        probing.probe(tiny, workdir)
    assert jax.tree.leaves(state.load_ema(tiny, workdir, sharding.mesh())[0])
