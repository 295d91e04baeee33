"""Probing a workdir: its draws, its bookkeeping, and that stopping changes nothing."""

import errno
import functools
import json
import os
import pathlib
import shutil
import signal

import flax.linen as nn
import jax
import numpy as np
import pytest

from progguide_jax.analytic import gaussians
from progguide_jax.data import batches
from progguide_jax.diffusion import process, samplers
from progguide_jax.engine import probing
from progguide_jax.guidance import gradnorm, schedules
from progguide_jax.runtime import files, sharding
from progguide_jax.systems import build


class Killed(Exception):
    """What stands for a kill -9 here."""


def curve(workdir):
    return files.load_npz(probing.curve_path(workdir))


# 30 images, six of class 0, ten of class 1, fourteen of class 2
LABELS = np.random.default_rng(0).permutation(np.repeat([0, 1, 2], [6, 10, 14]))


def stream(mode, size, total=240, seed=3):
    """(index, t) of the first `total` examples, drawn in batches of `size`."""
    draws = [
        probing.draw(mode, seed, k, size, LABELS, np.arange(20))
        for k in range(total // size)
    ]
    return tuple(np.concatenate(a) for a in zip(*draws, strict=True))


def test_stratified_draws_hold_every_timestep_of_every_class_equally_often():
    """K T = 60 places in a row hold each (t, c) once, whatever the class sizes."""
    index, t = stream("stratified", 12)
    for first in range(0, 240, 60):
        here = slice(first, first + 60)
        pairs = list(zip(LABELS[index[here]].tolist(), t[here].tolist(), strict=True))
        assert sorted(pairs) == [(c, i) for c in range(3) for i in range(20)]
    assert not np.array_equal(t[:60], t[60:120])  # other permutations each time
    # within a class the images take turns: 80 draws of 6, 10 and 14 images
    for c, n in ((0, 6), (1, 10), (2, 14)):
        counts = np.bincount(index)[LABELS == c]
        assert {80 // n, -(-80 // n)} >= set(counts)


@pytest.mark.parametrize("mode", ["stratified", "uniform"])
def test_draws_are_of_the_timesteps_that_are_visited(mode):
    some = np.array([0, 7, 14, 19])
    index, t = probing.draw(mode, 0, 0, 120, LABELS, some)
    assert set(t) == set(some) and t.dtype == np.int32
    if mode == "stratified":  # each of them in each class: 3 x 4 places, 10 times
        pairs, counts = np.unique([LABELS[index], t], axis=1, return_counts=True)
        assert pairs.shape == (2, 12) and set(counts) == {10}


def test_stratified_draws_do_not_depend_on_the_batch_size():
    for size in (48, 1):
        np.testing.assert_array_equal(
            stream("stratified", 12), stream("stratified", size)
        )


@pytest.mark.parametrize("mode", ["stratified", "uniform"])
def test_draws_are_a_function_of_seed_and_batch(mode):
    def draw(seed, batch):
        return np.stack(probing.draw(mode, seed, batch, 64, LABELS, np.arange(1000)))

    np.testing.assert_array_equal(draw(0, 7), draw(0, 7))
    for other in (draw(1, 7), draw(0, 8)):
        assert np.all(np.any(draw(0, 7) != other, axis=1))  # images and timesteps


def test_uniform_draws_are_uniform_and_independent():
    ts = np.arange(20)
    draws = [probing.draw("uniform", 0, k, 100, LABELS, ts)[1] for k in range(200)]
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
    # 10 batches of 96 are 16 times the 60 pairs of a class and a timestep
    np.testing.assert_array_equal(count, np.full((3, 20), 16))
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
    monkeypatch.setattr(build, "embed_label", lambda module, params, label: label)
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


def test_every_batch_has_noise_of_its_own(tiny, monkeypatch):
    """With eps^2 of one pixel in place of g: N(0, 1) squared, a function of (seed,
    number)."""
    monkeypatch.setattr(build, "embed_label", lambda module, params, label: label)
    monkeypatch.setattr(
        gradnorm, "per_example", lambda eps_fn, x0, eps, *_, **__: eps[:, 0, 0, 0] ** 2
    )
    mesh = sharding.mesh()
    step, nobody = probing.compiled_step(tiny, mesh), np.zeros(96, np.int32)
    batch = dict(image=np.zeros((96, 8, 8, 3), np.float32), label=nobody, t=nobody)

    def total(number):
        acc = step(gradnorm.empty(3, 20), {}, sharding.put(mesh, batch), number)
        return float(acc.total[0, 0])

    totals = [total(np.int32(n)) for n in (0, 1, 0, 2)]
    assert totals[0] == totals[2] and len(set(totals)) == 3
    for value in totals:
        assert abs(value - 96) < 5 * np.sqrt(2 * 96)


MODEL = gaussians.TwoGaussians(0.5, 0.25, (8, 8, 1))


class Exact(nn.Module):
    """The exact model of which the embedding is the mean m of x0's class:
    E[x0 | x_t] = (alpha std^2 x_t + sigma^2 m) / (alpha^2 std^2 + sigma^2)."""

    predicts: str

    def embed_label(self, label):
        return (label - 0.5)[:, None]

    def __call__(self, x_t, level, label_emb, train=False):
        alpha, sigma = (process.column(a, x_t) for a in level[1:])
        mean = process.column(label_emb[:, 0], x_t)
        x0 = alpha * 0.25**2 * x_t + sigma**2 * mean
        x0 /= alpha**2 * 0.25**2 + sigma**2
        return process.convert(level, x_t, x0, "x0", self.predicts)


@pytest.mark.parametrize("predicts", process.PREDICTIONS)
def test_g_is_that_of_eps_whatever_the_network_predicts(tiny, predicts):
    """The closed form of the gradient norm of eps, at pure noise 0: 960 examples at
    each t, whose g has a CV of 0.76. At pure noise an eps-network tells nothing of x0,
    but all that is asked of it is eps."""
    tiny.noise.zero_terminal_snr = True
    ns = build.noise_schedule(tiny)
    label, t = np.tile([0, 1], 4800), np.repeat(np.arange(0, 20, 2), 960)
    t[-960:] = 19
    image = MODEL.sample(jax.random.key(3), label)
    batch = {"image": image, "label": label, "t": t}
    step = functools.partial(probing.probe_step, config=tiny, module=Exact(predicts))
    acc = jax.jit(step)(gradnorm.empty(2, 20), {}, batch, 0)
    g = np.asarray(acc.total.sum(0) / np.maximum(acc.count.sum(0), 1))[t[::960]]
    expected = MODEL.gradnorm(ns)[t[::960]]
    assert expected[-1] == 0 and g[-1] == pytest.approx(0, abs=1e-4)
    np.testing.assert_allclose(g[:-1], expected[:-1], rtol=5 * 0.76 / np.sqrt(960))


def old_record(workdir):
    """Rewrite curve.json as the first version of this program wrote it."""
    path = pathlib.Path(workdir) / "probe" / "curve.json"
    record = json.loads(path.read_text())
    old = record["made_by"] | {"versions": record["versions"], "noise": {"beta_end": 1}}
    old["data"] = {"name": "synthetic"}
    path.write_text(json.dumps(old))


def test_a_curve_of_the_first_version_is_found_and_used(
    tiny, probed, workdir_copy, monkeypatch
):
    workdir = workdir_copy(probed)
    old_record(workdir)
    path = probing.curve_path(workdir)
    _, origin = build.load_ema(tiny, workdir, sharding.mesh())
    np.testing.assert_array_equal(
        probing.load_curve(tiny, path, origin), curve(probed)["g"]
    )
    assert probing.curve_made_by(path)["checkpoint"] == origin
    with monkeypatch.context() as patch:
        patch.setattr(sharding, "put", None)  # nothing is computed
        probing.probe(tiny, workdir)
        tiny.probe.seed = 1
        with pytest.raises(TypeError):
            probing.probe(tiny, workdir)
    with pytest.raises(ValueError, match="another checkpoint"):
        probing.load_curve(tiny, path, {"step": 4, "digest": "0" * 16})


def test_a_killed_probe_goes_on_as_if_it_had_not_been(
    tiny, trained, probed, workdir_copy, monkeypatch
):
    """Killed in batch 5 of 10; the accumulator was saved after 4."""
    workdir, compiled, calls = workdir_copy(trained), probing.compiled_step, []

    def failing(config, mesh):
        step = compiled(config, mesh)

        def run(*args):
            calls.append(args)
            if len(calls) == 6:
                raise Killed
            return step(*args)

        return run

    monkeypatch.setattr(probing, "compiled_step", failing)
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


@pytest.mark.parametrize(
    "number", [signal.SIGTERM, pytest.param(signal.SIGINT, marks=pytest.mark.slow)]
)
def test_a_signal_saves_the_batch_it_comes_in(
    number, tiny, trained, probed, workdir_copy, monkeypatch
):
    """In batch 3 of 10, long before the accumulator would be saved."""
    workdir, compiled, calls = workdir_copy(trained), probing.compiled_step, []
    tiny.probe.checkpoint_every = 50
    before = signal.getsignal(number)

    def interrupted(config, mesh):
        step = compiled(config, mesh)

        def run(*args):
            calls.append(args)
            if len(calls) == 3:
                os.kill(os.getpid(), number)
            return step(*args)

        return run

    monkeypatch.setattr(probing, "compiled_step", interrupted)
    with pytest.raises(InterruptedError, match="after 3 of 10 batches, saved"):
        probing.probe(tiny, workdir)
    assert signal.getsignal(number) == before
    probing.probe(tiny, workdir)
    assert len(calls) == 10  # the three are not made again
    ours, theirs = curve(workdir), curve(probed)
    for name in theirs:
        np.testing.assert_array_equal(ours[name], theirs[name], err_msg=name)


def test_a_killed_probe_loses_seconds_only(tiny, trained, workdir_copy, monkeypatch):
    """With no seconds to lose, each batch is saved."""
    monkeypatch.setattr(probing, "_SECONDS", 0.0, raising=False)
    take = batches.take

    def failing(dataset, index):
        if saved.exists() and int(files.load_npz(saved)["done"]) >= 3:
            raise Killed
        return take(dataset, index)

    workdir = workdir_copy(trained)
    saved = pathlib.Path(workdir) / "probe" / "accumulator.npz"
    monkeypatch.setattr(batches, "take", failing)
    tiny.probe.checkpoint_every = 50
    with pytest.raises(Killed):
        probing.probe(tiny, workdir)
    assert int(files.load_npz(saved)["done"]) >= 3


def test_another_probe_starts_anew_and_says_so(tiny, probed, workdir_copy, caplog):
    workdir = workdir_copy(probed)
    before = curve(workdir)
    tiny.probe.seed = 1
    probing.probe(tiny, workdir)
    assert "curve.npz is of another probe: it is made again" in caplog.text
    assert not np.array_equal(curve(workdir)["g"], before["g"])
    made_by = json.loads((pathlib.Path(workdir) / "probe/curve.json").read_text())
    made_by = made_by["made_by"]
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


def test_a_curve_is_never_beside_the_record_of_another(
    tiny, probed, workdir_copy, monkeypatch
):
    """Killed between the two files, a new probe leaves a curve that nobody uses."""
    workdir, write = workdir_copy(probed), files.write

    def killed(path, content):
        if pathlib.Path(path).name == "curve.json":
            raise Killed
        write(path, content)

    monkeypatch.setattr(files, "write", killed)
    tiny.probe.seed = 1
    with pytest.raises(Killed):
        probing.probe(tiny, workdir)
    _, origin = build.load_ema(tiny, workdir, sharding.mesh())
    with pytest.raises(ValueError, match="run probe.py again"):
        probing.load_curve(tiny, probing.curve_path(workdir), origin)


def test_a_curve_must_belong_to_the_checkpoint_and_the_noise(
    tiny, probed, workdir_copy
):
    path = probing.curve_path(probed)
    _, origin = build.load_ema(tiny, probed, sharding.mesh())
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
    with pytest.raises(ValueError, match="3 classes x 20 timesteps: use at least 60"):
        probing.probe(tiny, workdir)
    assert jax.tree.leaves(build.load_ema(tiny, workdir, sharding.mesh())[0])


@pytest.mark.parametrize(
    "content", ["{}", "[]", "not json", '{"checkpoint": {}}', '{"made_by": 1}']
)
def test_a_damaged_record_of_a_curve_is_one_line(tiny, tmp_path, content):
    np.savez(tmp_path / "curve.npz", g=np.ones((3, 20)))
    (tmp_path / "curve.json").write_text(content)
    with pytest.raises(ValueError, match="run ") as error:
        probing.load_curve(tiny, str(tmp_path / "curve.npz"), {"step": 1})
    assert "\n" not in str(error.value)


def test_what_a_kill_after_the_curve_left_is_finished(tiny, probed, workdir_copy):
    """Before, curve.png was never drawn and the accumulator stayed for ever."""
    workdir = workdir_copy(probed)
    folder = pathlib.Path(workdir) / "probe"
    picture = folder / "curve.png"
    expected = picture.read_bytes()
    picture.unlink()
    (folder / "accumulator.npz").write_bytes(b"")
    probing.probe(tiny, workdir)
    assert picture.read_bytes() == expected
    names = ["curve.json", "curve.npz", "curve.png"]
    assert sorted(p.name for p in folder.iterdir()) == names


@pytest.mark.parametrize("name", ["curve.npz", "curve.json", "accumulator.npz"])
def test_what_is_damaged_is_measured_again(
    name, tiny, probed, workdir_copy, monkeypatch, caplog
):
    """An empty file, as a power cut leaves it: the same command goes on by itself."""
    workdir = workdir_copy(probed)
    folder = pathlib.Path(workdir) / "probe"
    if name == "accumulator.npz":
        for path in folder.iterdir():
            path.unlink()
    (folder / name).write_bytes(b"")
    acc = jax.tree.map(np.ones_like, gradnorm.empty(3, 20))
    monkeypatch.setattr(probing, "compiled_step", lambda *_: lambda *_: acc)
    probing.probe(tiny, workdir)
    (line,) = [m for m in caplog.messages if name in m]
    assert "is damaged" in line and (folder / f"{name}.damaged").exists()
    assert files.load_json(folder / "curve.json")["made_by"]["probe"]["seed"] == 0


def test_a_training_that_has_not_ended_is_not_probed(tiny, trained, workdir_copy):
    workdir = pathlib.Path(workdir_copy(trained))
    shutil.rmtree(workdir / "checkpoints" / "6")
    with pytest.raises(ValueError, match="is at step 4 of 6: run train.py to its end"):
        probing.probe(tiny, str(workdir))
    assert not (workdir / "probe").exists()
