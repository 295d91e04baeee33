"""Samples of a workdir: what image i depends on, resuming, and bad input."""

import os
import pathlib
import shutil

import jax
import numpy as np
import pytest

from configs import base
from progguide_jax.diffusion import samplers
from progguide_jax.engine import label_order, probing, sampling, training
from progguide_jax.runtime import config as config_lib
from progguide_jax.runtime import files, locking, sharding
from progguide_jax.systems import build, drawing, pictures, specs
from progguide_jax.systems import trained as trained_system


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
    return build.load_ema(make_tiny(), trained, sharding.mesh())


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
    module, ns = build.network(tiny), build.noise_schedule(tiny)
    made, index = samples(sampled), np.arange(16)
    keys = [jax.random.fold_in(jax.random.key(tiny.sample.seed), i) for i in index]
    x_T = np.stack(
        [jax.random.normal(jax.random.fold_in(k, 0), (8, 8, 3)) for k in keys]
    )
    label = made["labels"][:16]
    x_0 = samplers.sample(
        jax.tree_util.Partial(
            build.eps_of_label(module, ns), jax.device_get(weights[0])
        ),
        x_T,
        cond=label,
        null_cond=3,
        noise_schedule=ns,
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
    system = trained_system.of(tiny, jax.device_get(weights[0]), {})
    spec = specs.of(tiny, {"null": np.ones(4, np.float32)})
    made, order = samples(sampled), np.array([3, 39, 17, 0, 8, 21, 30, 5])
    labels = made["labels"][order]
    images = drawing.draw(system, spec, order, labels, sharding.mesh())
    assert_same_images(pictures.to_uint8(images), made["images"][order])


def test_another_batch_size_makes_the_same_images(tiny, trained, sampled, workdir_copy):
    workdir = workdir_copy(trained)
    tiny.sample.batch_size, tiny.sample.num_images = 24, 30
    sampling.generate(tiny, workdir)
    made, other = samples(workdir), samples(sampled)
    assert_same_images(made["images"], other["images"][:30])
    np.testing.assert_array_equal(made["labels"], other["labels"][:30])


def test_a_killed_run_goes_on_where_it_stopped(
    tiny, trained, sampled, workdir_copy, monkeypatch
):
    """Killed in the third batch: two parts stay as they are, the result is the same."""
    workdir, draw, calls = workdir_copy(trained), drawing.draw, []

    def failing(system, spec, index, *args, **kwargs):
        calls.append(int(index[0]))
        if len(calls) == 3:
            raise Killed
        return draw(system, spec, index, *args, **kwargs)

    monkeypatch.setattr(drawing, "draw", failing)
    with pytest.raises(Killed):
        sampling.generate(tiny, workdir)
    sampling.generate(tiny, workdir)
    assert calls == [0, 16, 32, 32]
    ours, theirs = samples(workdir), samples(sampled)
    for name in theirs:
        np.testing.assert_array_equal(ours[name], theirs[name], err_msg=name)


def test_labels_are_uniform_in_every_block():
    labels = label_order.balanced(np.arange(70), 7, seed=4)
    for block in labels.reshape(10, 7):
        assert sorted(block) == list(range(7))
    assert len({tuple(block) for block in labels.reshape(10, 7)}) > 5
    order = np.array([69, 3, 12])
    np.testing.assert_array_equal(label_order.balanced(order, 7, seed=4), labels[order])
    other = label_order.balanced(np.arange(70), 7, seed=5)
    assert not np.array_equal(other, labels)


def test_a_folder_of_other_samples_is_refused(tiny, sampled, workdir_copy):
    workdir = workdir_copy(sampled)
    tiny.sample.name = only_folder(sampled).name
    tiny.guidance.scale = 2.0
    with pytest.raises(ValueError, match="another spec.omega.null: .*sample.name=NAME"):
        sampling.generate(tiny, workdir)
    np.testing.assert_array_equal(
        samples(workdir)["images"], samples(sampled)["images"]
    )


def test_settings_that_change_images_get_a_folder_of_their_own(tiny, trained):
    """Rule, solver, reference and their settings too: old images never come back. And
    settings that do not change images share a folder."""
    run = sampling.load(tiny, trained)

    def name(**changes):
        config = tiny.copy_and_resolve_references()
        for key, value in changes.items():
            config.update_from_flattened_dict({key.replace("__", "."): value})
        made_by = sampling.made_by(run.system, sampling.make_spec(config, run), "")
        return sampling.sample_name(config, made_by)

    base = name()
    both = {"guidance__references": ("null", "self_guidance")}
    assert "_w1_null_self_guidance_ddim" in name(**both)
    unread = dict(sample__batch_size=8, guidance__interval__t_max=3, data__dir="x")
    assert name(**unread, guidance__apg__eta=0.5, sample__double_batch=True) == base
    others = [
        dict(sample__spacing="trailing"),
        dict(sample__offset=1),
        dict(sample__spacing="karras"),
        dict(sample__spacing="karras", sample__karras__rho=5.0),
        dict(guidance__projection="none"),
        dict(guidance__projection="dynamic_threshold"),
        dict(guidance__clip__bound=2.0),
        dict(sample__ddim__eta=0.001),
        dict(sample__solver="ddpm"),
        dict(sample__solver="euler"),
        dict(sample__solver="heun"),
        dict(sample__solver="heun", sample__heun__stage_omega="step"),
        dict(guidance__rule="apg"),
        dict(guidance__rule="apg", guidance__apg__eta=0.5),
        dict(guidance__references=("autoguidance",), guidance__autoguidance__step=4),
        dict(guidance__references=("autoguidance",), guidance__autoguidance__step=2),
        dict(guidance__schedule="pcs"),
        dict(guidance__schedule="pcs", guidance__pcs__power=2.0),
        dict(guidance__schedule="linear", guidance__normalize="train"),
        dict(sample__seed=7),
    ]
    names = [base, *(name(**changes) for changes in others)]
    assert len(set(names)) == len(names)


def test_autoguidance_by_an_earlier_checkpoint(tiny, trained, sampled, workdir_copy):
    """Away from step 4; against itself there is nothing to do, and that is said."""
    workdir = workdir_copy(trained)
    tiny.guidance.references, tiny.guidance.scale = ("autoguidance",), 3.0
    with pytest.raises(ValueError, match="set guidance.autoguidance.workdir or .step"):
        sampling.generate(tiny, workdir)
    tiny.guidance.autoguidance.step = 6
    with pytest.raises(ValueError, match="the guide is the network itself"):
        sampling.generate(tiny, workdir)
    tiny.guidance.autoguidance.step = 4
    sampling.generate(tiny, workdir)
    made, other = samples(workdir), samples(sampled)
    assert np.abs(made["images"].astype(int) - other["images"]).max() > 2
    (folder,) = (pathlib.Path(workdir) / "samples").iterdir()
    about = files.load_json(folder / "samples.json")["made_by"]["spec"]["references"]
    assert about["guide"]["guide"]["checkpoint"]["step"] == 4
    tiny.guidance.autoguidance.workdir = str(pathlib.Path(workdir) / "none")
    with pytest.raises(FileNotFoundError, match="autoguidance.workdir"):
        sampling.generate(tiny, workdir)


def test_heavy_tail_by_a_network_of_heavy_tailed_noise(
    tiny, trained, sampled, workdir_copy, tmp_path
):
    """Its guide must have been trained so; then the images are others, and the record
    says against what."""
    workdir = workdir_copy(trained)
    tiny.guidance.references, tiny.guidance.scale = ("heavy_tail",), 3.0
    tiny.guidance.heavy_tail.step = 4
    with pytest.raises(ValueError, match="was trained with train.noise 'gaussian'"):
        sampling.generate(tiny, workdir)
    guide = tiny.copy_and_resolve_references()
    guide.guidance.references, guide.guidance.heavy_tail.step = ("null",), 0
    guide.train.noise, guide.train.num_steps = "student_t", 2
    guide.model.name, guide.model.unet = "pix_film", base.get_config().model.unet
    guide.train.sample_every = 1
    training.train(guide, str(tmp_path / "guide"))
    tiny.guidance.heavy_tail.workdir = str(tmp_path / "guide")
    tiny.guidance.heavy_tail.step = 0
    sampling.generate(tiny, workdir)
    made, other = samples(workdir), samples(sampled)
    assert np.abs(made["images"].astype(int) - other["images"]).max() > 2
    (folder,) = (pathlib.Path(workdir) / "samples").iterdir()
    about = files.load_json(folder / "samples.json")["made_by"]["spec"]["references"]
    assert about["heavy_tail"]["guide"]["checkpoint"]["step"] == 2
    # and it is no guide for autoguidance, nor a model of Gaussian noise
    tiny.guidance.references = ("autoguidance",)
    tiny.guidance.autoguidance.workdir = str(tmp_path / "guide")
    with pytest.raises(ValueError, match="this needs 'gaussian': set"):
        sampling.generate(tiny, workdir)
    tiny.guidance.references, tiny.guidance.heavy_tail.workdir = ("null",), ""
    tiny.guidance.autoguidance.workdir, tiny.model = "", guide.model
    with pytest.raises(ValueError, match="train.noise: student_t -> gaussian"):
        sampling.generate(tiny, str(tmp_path / "guide"))
    for command in (sampling.generate, probing.probe):
        with pytest.raises(ValueError, match="it can only be the guide of another"):
            command(guide, str(tmp_path / "guide"))
    assert not (tmp_path / "guide" / "grids").exists()


def test_a_trace_says_what_guidance_did(tiny, trained, workdir_copy):
    """Zero on two of four steps: asked for is applied, one evaluation where it is 0."""
    workdir = workdir_copy(trained)
    tiny.guidance.schedule, tiny.guidance.scale = "interval", 2.0
    window = tiny.guidance.interval
    window.t_min, window.t_max = 5, 10  # the grid is 15, 10, 5, 0
    tiny.sample.trace, tiny.guidance.projection = True, "none"
    folder = sampling.generate(tiny, workdir)
    trace = files.load_npz(folder / "trace.npz")
    np.testing.assert_array_equal(trace["t"], [15, 10, 5, 0])
    np.testing.assert_array_equal(trace["null_omega"], [0, 2, 2, 0])
    np.testing.assert_allclose(trace["null_applied"], [0, 2, 2, 0], rtol=1e-3)
    np.testing.assert_array_equal(trace["evaluations"], [1, 2, 2, 1])
    assert np.isnan(trace["null_delta"]).tolist() == [True, False, False, True]
    assert np.all(trace["null_cosine"][1:3] > 0.5)
    assert len((folder / "trace.png").read_bytes()) > 5000
    before = (folder / "trace.npz").stat().mtime
    sampling.generate(tiny, workdir)
    assert (folder / "trace.npz").stat().mtime == before


@pytest.mark.slow
def test_a_trace_is_of_the_images_that_were_asked_for(tiny, trained, workdir_copy):
    """Two of them, though a batch holds 16: the mean of the first two alone."""
    workdir = workdir_copy(trained)
    tiny.sample.num_images, tiny.sample.trace = 2, True
    folder = sampling.generate(tiny, workdir)
    assert files.load_json(folder / "trace.json")["num_images"] == 2
    found = files.load_npz(folder / "trace.npz")
    run, index = sampling.load(tiny, workdir), np.arange(16)
    labels = sampling.labels_of(tiny, index)
    spec = sampling.make_spec(tiny, run)
    delta = drawing.trace(run.system, spec, index, labels, run.mesh).delta["null"]
    np.testing.assert_allclose(found["null_delta"], delta[:, :2].mean(1), rtol=1e-4)
    np.testing.assert_allclose(found["null_delta_std"], delta[:, :2].std(1), rtol=1e-3)
    assert np.all(np.abs(delta[:, :2].mean(1) / delta.mean(1) - 1) > 1e-3)


def test_a_guide_of_other_classes_is_refused(tiny, trained, tmp_path):
    """Label 2 of three classes would be the null condition of a guide of two."""
    guide = tiny.copy_and_resolve_references()
    guide.data.num_classes = 2
    (tmp_path / "config.json").write_text(config_lib.to_json(guide))
    tiny.guidance.references = ("autoguidance",)
    tiny.guidance.autoguidance.workdir = str(tmp_path)
    run = sampling.load(tiny, trained)
    with pytest.raises(ValueError, match="has 2 classes and the network 3: set") as e:
        sampling.make_spec(tiny, run)
    assert "\n" not in str(e.value)


def test_omega_zero_is_the_conditional_model(tiny, weights, sampled):
    """Against a DDIM loop in numpy with one forward a step and no guidance at all."""
    mesh, module = sharding.mesh(), build.network(tiny)
    ns, index, label = build.noise_schedule(tiny), np.arange(16), np.arange(16) % 3
    params = weights[0]
    system = trained_system.of(tiny, params, {})

    def draw(omega):
        spec = specs.of(tiny, {"null": np.full(4, omega, np.float32)})
        return drawing.draw(system, spec, index, label, mesh)

    got = draw(0)
    base_key = jax.random.key(tiny.sample.seed)
    x = np.stack(
        [
            jax.random.normal(
                jax.random.fold_in(jax.random.fold_in(base_key, i), 0), (8, 8, 3)
            )
            for i in index
        ]
    ).astype(np.float64)
    eps_fn = jax.jit(build.eps_of_label(module, ns))
    for t, s in ((15, 10), (10, 5), (5, 0), (0, None)):
        eps = np.asarray(eps_fn(params, np.float32(x), np.full(16, t), label))
        x0 = np.clip((x - ns.sigma[t] * eps) / ns.alpha[t], -1, 1)
        eps = (x - ns.alpha[t] * x0) / ns.sigma[t]
        x = x0 if s is None else ns.alpha[s] * x0 + ns.sigma[s] * eps
    np.testing.assert_allclose(got, x, atol=2e-4)
    assert np.abs(draw(5) - got).max() > 1e-3


def test_bad_input_ends_in_one_line_and_writes_nothing(
    tiny, trained, probed, workdir_copy, tmp_path
):
    def refused(config, workdir, error, words):
        with pytest.raises(error, match=words) as caught:
            sampling.generate(config, workdir)
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
    wide.model.unet.base_channels = 16
    refused(wide, trained, ValueError, "does not fit.*base_channels: 8 -> 16")
    # a curve of another run
    moved = workdir_copy(trained)
    steps = pathlib.Path(moved) / "checkpoints"
    shutil.rmtree(steps / "6")
    gn.guidance.gn.curve = probing.curve_path(probed)
    refused(gn, moved, ValueError, r"another checkpoint \(step 6; this one is step 4\)")
    long = tiny.copy_and_resolve_references()
    long.sample.num_steps = 21
    refused(long, trained, ValueError, "sample.num_steps is 21: use at most 20")


def test_samples_that_were_named_in_another_way_stay(tiny, sampled, workdir_copy):
    workdir = workdir_copy(sampled)
    folder = sampling.folder_of(tiny, workdir)
    there = folder.replace(folder.with_name(f"other_{folder.name}"))
    assert sampling.folder_of(tiny, workdir) == there


def no_drawing(monkeypatch):
    monkeypatch.setattr(drawing, "draw", lambda *args, **kwargs: 1 / 0)


def test_what_a_kill_after_the_samples_prevented_is_done(
    tiny, sampled, workdir_copy, monkeypatch
):
    """No grid stays missing, and no export of fewer images stays."""
    no_drawing(monkeypatch)
    workdir = workdir_copy(sampled)
    folder = only_folder(workdir)
    grid = (folder / "grid.png").read_bytes()
    (folder / "grid.png").unlink()
    files.save_npz(folder / "adm.npz", arr_0=np.zeros((2, 8, 8, 3), np.uint8))
    os.utime(folder / "adm.npz", (1, 1))
    sampling.generate(tiny, workdir)
    assert (folder / "grid.png").read_bytes() == grid
    assert len(files.load_npz(folder / "adm.npz")["arr_0"]) == 40


def test_a_record_that_is_lost_is_written_again(
    tiny, sampled, workdir_copy, monkeypatch, caplog
):
    """The name of the folder says what made its images: they stay."""
    no_drawing(monkeypatch)
    workdir = workdir_copy(sampled)
    record = only_folder(workdir) / "samples.json"
    before = files.load_json(record)
    record.write_text("")
    sampling.generate(tiny, workdir)
    assert files.load_json(record)["made_by"] == before["made_by"]
    assert [m for m in caplog.messages if "samples.json is damaged" in m]


def test_two_at_once_in_one_folder_are_told(tiny, sampled, workdir_copy, monkeypatch):
    monkeypatch.setattr(locking, "_SECONDS", 0.0)
    workdir = workdir_copy(sampled)
    folder = only_folder(workdir)
    with locking.hold(folder):
        with pytest.raises(ValueError, match=f"{folder.name} is being written by "):
            sampling.generate(tiny, workdir)
    sampling.generate(tiny, workdir)
