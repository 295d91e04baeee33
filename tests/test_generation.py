"""Samples of a workdir: what image i depends on, resuming, and bad input."""

import errno
import pathlib
import shutil

import jax
import numpy as np
import pytest

from progguide_jax import generation, probing, state
from progguide_jax.diffusion import samplers
from progguide_jax.runtime import files, sharding


class Killed(Exception):
    """What stands for a kill -9 here."""


def only_folder(workdir):
    (folder,) = (pathlib.Path(workdir) / "samples").iterdir()
    return folder


def samples(workdir, name=None):
    folder = pathlib.Path(workdir) / "samples" / name if name else only_folder(workdir)
    return files.load_npz(folder / "samples.npz")


def assert_same_images(a, b):
    """Equal but for the rounding of a program compiled for another batch: at most one
    grey level, in few pixels."""
    assert a.shape == b.shape and a.dtype == b.dtype == np.uint8
    difference = np.abs(a.astype(int) - b)
    assert difference.max() <= 1 and np.mean(difference > 0) < 1e-3


@pytest.fixture(scope="module")
def weights(trained, make_tiny):
    return state.load_ema(make_tiny(), trained, sharding.mesh())


def test_what_is_written(sampled):
    made = samples(sampled)
    assert made["images"].shape == (40, 8, 8, 3) and made["images"].dtype == np.uint8
    np.testing.assert_array_equal(made["seeds"], np.arange(40))
    assert np.std(made["images"]) > 5
    assert sorted(p.name for p in only_folder(sampled).iterdir()) == [
        "grid.png",
        "samples.json",
        "samples.npz",
    ]


def test_images_are_those_of_the_sampler_called_by_hand(sampled, weights, tiny):
    """The whole path spelled out once: keys, noise, labels, DDIM, rounding."""
    module = state.network(tiny)
    made, index = samples(sampled), np.arange(16)
    keys = [jax.random.fold_in(jax.random.key(tiny.sample.seed), i) for i in index]
    x_T = np.stack(
        [jax.random.normal(jax.random.fold_in(k, 0), (8, 8, 3)) for k in keys]
    )
    label = made["labels"][:16]
    x_0 = samplers.sample(
        jax.tree_util.Partial(state.eps_of_label(module), jax.device_get(weights[0])),
        x_T,
        cond=label,
        null_cond=3,
        noise_schedule=module.noise_schedule,
        timesteps=np.array([15, 10, 5, 0]),
        omega=np.full(4, 1.0, np.float32),
        clip_x0=1.0,
    )
    x_0 = np.asarray(x_0, np.float64)
    exact = np.clip((x_0 + 1) * 127.5, 0, 255)
    assert np.abs(made["images"][:16] - exact).max() < 0.51


def test_image_i_depends_on_nothing_but_its_seed(tiny, weights, sampled, one_device):
    """Another batch size, another batch order, another number of devices."""
    tiny.sample.batch_size = 8
    sampler = generation.Sampler(tiny, state.network(tiny), sharding.mesh())
    made, order = samples(sampled), np.array([3, 39, 17, 0, 8, 21, 30, 5])
    params = jax.device_get(weights[0])
    images = sampler(params, order, made["labels"][order], np.ones(4, np.float32))
    assert_same_images(generation.to_uint8(images), made["images"][order])


def test_another_batch_size_makes_the_same_images(tiny, trained, sampled, workdir_copy):
    workdir = workdir_copy(trained)
    tiny.sample.batch_size, tiny.sample.num_images = 24, 30
    generation.generate(tiny, workdir)
    made, other = samples(workdir), samples(sampled)
    assert_same_images(made["images"], other["images"][:30])
    np.testing.assert_array_equal(made["labels"], other["labels"][:30])


def test_a_killed_run_goes_on_where_it_stopped(
    tiny, trained, sampled, workdir_copy, monkeypatch
):
    """Killed in the third batch: two parts stay as they are, the result is the same."""
    workdir, call, calls = workdir_copy(trained), generation.Sampler.__call__, []

    def failing(self, params, index, labels, omega):
        calls.append(int(index[0]))
        if len(calls) == 3:
            raise Killed
        return call(self, params, index, labels, omega)

    monkeypatch.setattr(generation.Sampler, "__call__", failing)
    with pytest.raises(Killed):
        generation.generate(tiny, workdir)
    parts = sorted(only_folder(workdir).glob("part_*"))
    assert len(parts) == 2
    before = [p.stat().st_mtime_ns for p in parts]
    monkeypatch.setattr(
        generation, "_join_parts", lambda *args: None
    )  # to look at the parts
    generation.generate(tiny, workdir)
    assert calls == [0, 16, 32, 32]
    assert [p.stat().st_mtime_ns for p in parts] == before
    monkeypatch.undo()
    generation.generate(tiny, workdir)  # only joins
    ours, theirs = samples(workdir), samples(sampled)
    for name in theirs:
        np.testing.assert_array_equal(ours[name], theirs[name], err_msg=name)
    assert not list(only_folder(workdir).glob("part_*"))


def test_parts_with_gaps_and_overlaps_are_joined_in_order(tiny, tmp_path):
    """Left by runs of other batch sizes: 0-16, nothing until 32, 32-48. Batches of 24
    fill the gap, over what is there; every image shows its own number."""

    def numbered(params, index, labels, omega):
        grey = (np.asarray(index) - 127.5) / 127.5
        return np.broadcast_to(grey[:, None, None, None], (len(index), 8, 8, 3))

    def write(first, end):
        index = np.arange(first, end)
        files.save_npz(
            tmp_path / f"part_{first:08d}_{end:08d}.npz",
            images=generation.to_uint8(numbered(None, index, None, None)),
            labels=generation.balanced_labels(index, 3, tiny.sample.seed),
            seeds=index,
        )

    write(0, 16)
    write(32, 48)
    tiny.sample.batch_size, tiny.sample.num_images = 24, 62
    generation._write_parts(tiny, tmp_path, numbered, None, np.ones(4))
    assert (tmp_path / "part_00000016_00000040.npz").exists()
    generation._join_parts(tiny, tmp_path)
    made = files.load_npz(tmp_path / "samples.npz")
    expected = np.arange(62)
    np.testing.assert_array_equal(made["seeds"], expected)
    np.testing.assert_array_equal(
        made["labels"], generation.balanced_labels(expected, 3, tiny.sample.seed)
    )
    np.testing.assert_array_equal(made["images"][:, 3, 5, 1], expected)
    assert {p.name for p in tmp_path.iterdir()} == {"samples.npz", "grid.png"}


def test_more_images_later_keep_the_first(tiny, sampled, workdir_copy, monkeypatch):
    workdir, call, calls = workdir_copy(sampled), generation.Sampler.__call__, []

    def counting(self, params, index, labels, omega):
        calls.append(int(index[0]))
        return call(self, params, index, labels, omega)

    monkeypatch.setattr(generation.Sampler, "__call__", counting)
    generation.generate(tiny, workdir)  # there already
    assert calls == []
    tiny.sample.num_images = 50
    generation.generate(tiny, workdir)
    assert calls == [40]
    made, before = samples(workdir), samples(sampled)
    np.testing.assert_array_equal(made["images"][:40], before["images"])
    np.testing.assert_array_equal(made["seeds"], np.arange(50))
    counts = np.bincount(made["labels"][:48])
    np.testing.assert_array_equal(counts, [16, 16, 16])


def test_a_full_disk_keeps_the_parts(tiny, trained, sampled, workdir_copy, monkeypatch):
    workdir, write = workdir_copy(trained), files.write

    def full(path, content):
        if "part_00000016" in pathlib.Path(path).name:
            raise OSError(errno.ENOSPC, "No space left on device")
        write(path, content)

    with monkeypatch.context() as patch:
        patch.setattr(files, "write", full)
        with pytest.raises(OSError, match="No space left"):
            generation.generate(tiny, workdir)
    assert [p.name for p in only_folder(workdir).glob("part*")] == [
        "part_00000000_00000016.npz"
    ]
    generation.generate(tiny, workdir)
    np.testing.assert_array_equal(
        samples(workdir)["images"], samples(sampled)["images"]
    )


def test_labels_are_uniform_in_every_block():
    labels = generation.balanced_labels(np.arange(70), 7, seed=4)
    for block in labels.reshape(10, 7):
        assert sorted(block) == list(range(7))
    assert len({tuple(block) for block in labels.reshape(10, 7)}) > 5
    order = np.array([69, 3, 12])
    np.testing.assert_array_equal(
        generation.balanced_labels(order, 7, seed=4), labels[order]
    )
    other = generation.balanced_labels(np.arange(70), 7, seed=5)
    assert not np.array_equal(other, labels)


def test_a_folder_of_other_samples_is_refused(tiny, sampled, workdir_copy):
    workdir = workdir_copy(sampled)
    tiny.sample.name = only_folder(sampled).name
    tiny.guidance.scale = 2.0
    with pytest.raises(ValueError, match="another omega: .*sample.name=NAME"):
        generation.generate(tiny, workdir)
    np.testing.assert_array_equal(
        samples(workdir)["images"], samples(sampled)["images"]
    )


def test_settings_that_change_images_get_a_folder_of_their_own(tiny, weights):
    """And those that do not change them share one."""
    origin = {"step": 6, "digest": "0"}

    def name(**changes):
        config = tiny.copy_and_resolve_references()
        for key, value in changes.items():
            section, field = key.split("__")
            config[section][field] = value
        omega = generation.make_omega(config, "", origin)
        made_by = generation.made_by(config, origin, omega)
        return generation.sample_name(config, made_by)

    base = name()
    assert name(sample__batch_size=8, guidance__t_max=3, data__dir="x") == base
    others = [
        dict(sample__spacing="trailing"),
        dict(sample__offset=1),
        dict(sample__clip_x0=False),
        dict(sample__eta=0.001),
        dict(guidance__schedule="pcs"),
        dict(guidance__schedule="pcs", guidance__power=2.0),
        dict(guidance__schedule="linear", guidance__normalize="train"),
    ]
    names = [base, *(name(**changes) for changes in others)]
    assert len(set(names)) == len(names)


def test_an_interval_without_a_sampling_timestep_is_refused(tiny):
    tiny.guidance.schedule = "interval"
    tiny.guidance.t_min, tiny.guidance.t_max = 1, 4  # the grid is 15, 10, 5, 0
    with pytest.raises(ValueError, match="0 on all 4 sampling timesteps"):
        generation.make_omega(tiny, "", {})


def test_omega_zero_is_the_conditional_model(tiny, weights, sampled):
    """Against a DDIM loop in numpy with one forward a step and no guidance at all."""
    mesh, module = sharding.mesh(), state.network(tiny)
    ns, index, label = module.noise_schedule, np.arange(16), np.arange(16) % 3
    sampler = generation.Sampler(tiny, module, mesh)
    params = weights[0]
    got = sampler(params, index, label, np.zeros(4, np.float32))
    base_key = jax.random.key(tiny.sample.seed)
    x = np.stack(
        [
            jax.random.normal(
                jax.random.fold_in(jax.random.fold_in(base_key, i), 0), (8, 8, 3)
            )
            for i in index
        ]
    ).astype(np.float64)
    eps_fn = jax.jit(state.eps_of_label(module))
    for t, s in ((15, 10), (10, 5), (5, 0), (0, None)):
        eps = np.asarray(eps_fn(params, np.float32(x), np.full(16, t), label))
        x0 = np.clip((x - ns.sigma[t] * eps) / ns.alpha[t], -1, 1)
        eps = (x - ns.alpha[t] * x0) / ns.sigma[t]
        x = x0 if s is None else ns.alpha[s] * x0 + ns.sigma[s] * eps
    np.testing.assert_allclose(got, x, atol=2e-4)
    guided = sampler(params, index, label, np.full(4, 5, np.float32))
    assert np.abs(guided - got).max() > 1e-3


def test_gn_and_gn_all_weights_follow_the_curve(tiny, probed, workdir_copy):
    """[S] from the class mean of G; [K,S] and then [S,B] by label from G itself."""
    _, origin = state.load_ema(tiny, probed, sharding.mesh())
    G = files.load_npz(probing.curve_path(probed))["G"]
    ts = np.array([15, 10, 5, 0])
    tiny.guidance.schedule, tiny.guidance.scale = "gn", 2.0
    mean = G.mean(0)[ts]
    np.testing.assert_allclose(
        generation.make_omega(tiny, probed, origin), 2 * mean / mean.mean(), rtol=1e-6
    )
    tiny.guidance.schedule = "gn_all"
    omega = generation.make_omega(tiny, probed, origin)
    rows = G[:, ts]
    np.testing.assert_allclose(omega, 2 * rows / rows.mean(1, keepdims=True), rtol=1e-6)
    workdir = workdir_copy(probed)
    seen, call = [], generation.Sampler.__call__

    class Spy(generation.Sampler):
        def __call__(self, params, index, labels, weights):
            seen.append((labels, weights))
            return call(self, params, index, labels, weights)

    tiny.sample.num_images = 16
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(generation, "Sampler", Spy)
        generation.generate(tiny, workdir)
    ((labels, weights),) = seen
    assert weights.shape == (4, 16)
    for b, label in enumerate(labels):
        np.testing.assert_array_equal(weights[:, b], omega[label])
    assert samples(workdir)["images"].shape == (16, 8, 8, 3)


def test_tables_from_files(tiny, probed, tmp_path):
    """An .npy and a text file of weights over t ascending; the mean is the scale."""
    origin, values = {"step": 6, "digest": ""}, np.arange(20.0) ** 2
    np.save(tmp_path / "w.npy", values)
    np.savetxt(tmp_path / "w.txt", values)
    tiny.guidance.schedule, tiny.guidance.scale = "table", 3.0
    expected = np.array([225, 100, 25, 0]) / 87.5 * 3
    for name in ("w.npy", "w.txt"):
        tiny.guidance.table = str(tmp_path / name)
        got = generation.make_omega(tiny, probed, origin)
        np.testing.assert_allclose(got, expected, rtol=1e-6)
    tiny.guidance.table = str(tmp_path / "none.npy")
    with pytest.raises(FileNotFoundError, match="no table of weights at .*none.npy"):
        generation.make_omega(tiny, probed, origin)
    np.save(tmp_path / "rows.npy", np.ones((2, 20)))  # the config has 3 classes
    tiny.guidance.table = str(tmp_path / "rows.npy")
    with pytest.raises(ValueError, match="2 rows .* 3 classes"):
        generation.make_omega(tiny, probed, origin)
    (tmp_path / "bad.npy").write_bytes(b"no array")
    tiny.guidance.table = str(tmp_path / "bad.npy")
    with pytest.raises(ValueError, match="bad.npy") as error:
        generation.make_omega(tiny, probed, origin)
    assert "\n" not in str(error.value)


def test_bad_input_ends_in_one_line_and_writes_nothing(
    tiny, trained, probed, workdir_copy, tmp_path
):
    def refused(config, workdir, error, words):
        with pytest.raises(error, match=words) as caught:
            generation.generate(config, workdir)
        assert "\n" not in str(caught.value)
        assert not (pathlib.Path(workdir) / "samples").exists()

    empty = tmp_path / "empty"
    empty.mkdir()
    refused(tiny, str(empty), FileNotFoundError, "no checkpoint in .*: run train.py")
    gn = tiny.copy_and_resolve_references()
    gn.guidance.schedule = "gn"
    refused(gn, trained, FileNotFoundError, "no gradient-norm curve at .*probe.py")
    odd = tiny.copy_and_resolve_references()
    odd.sample.batch_size = 20
    refused(odd, trained, ValueError, "sample.batch_size 20 .* use 16 or 24")
    wide = tiny.copy_and_resolve_references()
    wide.model.base_channels = 16
    refused(wide, trained, ValueError, "does not fit.*base_channels: 8 -> 16")
    # a curve of another run
    moved = workdir_copy(trained)
    steps = pathlib.Path(moved) / "checkpoints"
    shutil.rmtree(steps / "6")
    gn.guidance.curve = probing.curve_path(probed)
    refused(gn, moved, ValueError, r"another checkpoint \(step 6; this one is step 4\)")
    long = tiny.copy_and_resolve_references()
    long.sample.num_steps = 21
    refused(long, trained, ValueError, "sample.num_steps is 21: use at most 20")


def test_to_uint8_rounds_half_up_and_clips_once():
    """-1 and 1 are the ends; one grey level is 2 / 255, half of one rounds up."""
    level = 2 / 255
    x = np.array([-1, 1, -3, 3, 0, -1 + 0.49 * level, -1 + 0.51 * level, 1 - level])
    np.testing.assert_array_equal(
        generation.to_uint8(x), [0, 255, 0, 255, 128, 0, 1, 254]
    )
    every = np.arange(256, dtype=np.uint8)
    data = every / np.float32(127.5) - np.float32(1)  # what the network is trained on
    np.testing.assert_array_equal(generation.to_uint8(data), every)


def test_tile_lays_images_out_row_by_row():
    """Five 2x3 images of one value each, three columns, two pixels of white between."""
    values = np.array([10, 20, 30, 40, 50], np.uint8)
    images = np.broadcast_to(values[:, None, None, None], (5, 2, 3, 3))
    picture = generation.tile(images, columns=3)
    row = [255, 0, 0, 0, 255]
    up = [255] + [10] * 3 + [255, 255] + [20] * 3 + [255, 255] + [30] * 3 + [255]
    low = [255] + [40] * 3 + [255, 255] + [50] * 3 + [255] * 6
    white = [255] * (3 * len(row))
    expected = np.array([white, up, up, white, white, low, low, white])
    for channel in range(3):
        np.testing.assert_array_equal(picture[..., channel], expected)
    grey = generation.tile(images[..., :1], columns=3)
    np.testing.assert_array_equal(grey, picture)
