"""Cells of an experiment: found again, remade when asked for, exact in the oracle."""

import pathlib
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs import base
from configs.paper import fig2
from progguide_jax.analytic import gaussians
from progguide_jax.diffusion import samplers
from progguide_jax.engine import training, weights
from progguide_jax.experiments.two_gaussians import run
from progguide_jax.metrics import pca, trajectories
from progguide_jax.runtime import files
from progguide_jax.systems import build, trained

MODEL = gaussians.TwoGaussians(0.5, 0.25, (8, 8, 1))


def _recipe(c):
    c.data.name, c.data.channels, c.data.num_classes = "two_gaussians", 1, 2
    c.data.two_gaussians.mean, c.data.flip, c.data.num_examples = 0.5, False, 2048
    c.noise.name = "cosine"  # reaches pure noise in 20 timesteps, the linear one no
    c.model = base.get_config().model  # without the settings of a U-Net
    c.model.name, c.model.label_dim = "pix_film", 16
    c.model.pix_film.width, c.model.pix_film.depth = 16, 1
    c.train.num_steps = 2
    c.guidance.projection, c.sample.num_steps = "none", 5
    c.experiment.name, c.experiment.schedules = "two_gaussians", ("static", "linear")
    c.experiment.scales = (0.0, 4.0)
    c.experiment.two_gaussians.num_images, c.experiment.two_gaussians.num_paths = 20, 6
    return c


@pytest.fixture
def recipe(tiny):
    return _recipe(tiny)


@pytest.fixture(scope="module")
def evaluated(make_tiny, tmp_path_factory):
    """A workdir with its four cells. Do not write to it: copy it."""
    workdir = str(tmp_path_factory.mktemp("evaluated") / "run")
    config = _recipe(make_tiny())
    training.train(config, workdir)
    run.run(config, workdir)
    return workdir


def results(workdir):
    """{path below experiment/: time of its last change}."""
    root = pathlib.Path(workdir) / "experiment"
    files_there = (p for p in root.rglob("*") if p.is_file())
    return {str(p.relative_to(root)): p.stat().st_mtime_ns for p in files_there}


def cell(workdir, name):
    """(row, arrays)."""
    path = pathlib.Path(workdir) / "experiment" / "cells" / f"{name}.json"
    return files.load_json(path), files.load_npz(path.with_suffix(".npz"))


def exact_paths(config, omega, count):
    """Trajectories [S+1,B,8,8,1] by a call of the sampler of one's own."""
    keys = [jax.random.fold_in(jax.random.key(config.sample.seed), i)
            for i in range(count)]  # fmt: skip
    x_T = jnp.stack(
        [jax.random.normal(jax.random.fold_in(k, 0), (8, 8, 1)) for k in keys]
    )
    ns = build.noise_schedule(config)
    _, path = samplers.sample(
        MODEL.eps(ns),
        x_T,
        cond=jnp.arange(count) % 2,
        null_cond=2,
        noise_schedule=ns,
        timesteps=np.array([16, 12, 8, 4, 0]),
        omega=omega,
        trajectory=True,
    )
    return np.asarray(path, np.float64)


def test_finished_cells_are_found_again(recipe, evaluated, workdir_copy):
    workdir = workdir_copy(evaluated)
    before = results(workdir)
    assert set(before) >= {"data.npz", "data.json", "closeness.npz", "closeness.json"}
    names = {"static_w0", "static_w4", "linear_w0", "linear_w4"}
    assert {p for p in before if p.startswith("cells/")} == {
        f"cells/{name}.{kind}" for name in names for kind in ("json", "npz")
    }
    run.run(recipe, workdir)
    assert results(workdir) == before
    # a lost cell is the only one to be made again, and comes out the same
    root = pathlib.Path(workdir) / "experiment" / "cells"
    (root / "linear_w4.json").unlink()
    run.run(recipe, workdir)
    after = results(workdir)
    changed = {name for name in before if after[name] != before[name]}
    assert changed == {"cells/linear_w4.json", "cells/linear_w4.npz"}
    for name, array in cell(evaluated, "linear_w4")[1].items():
        np.testing.assert_array_equal(cell(workdir, "linear_w4")[1][name], array)


def test_another_sample_setting_makes_every_cell_again(recipe, evaluated, workdir_copy):
    workdir = workdir_copy(evaluated)
    before = results(workdir)
    recipe.sample.ddim.eta = 0.5
    run.run(recipe, workdir)
    after = results(workdir)
    unchanged = {name for name in before if after[name] == before[name]}
    assert unchanged == {"data.npz", "data.json", "closeness.npz", "closeness.json"}
    old, new = (cell(d, "static_w4")[1]["oracle_axis"] for d in (evaluated, workdir))
    assert not np.array_equal(old, new)


def test_a_row_is_never_beside_the_arrays_of_another(
    recipe, evaluated, workdir_copy, monkeypatch
):
    """Killed between the two files of a new cell; the old command makes it again."""
    workdir, write, seed = workdir_copy(evaluated), files.write, recipe.sample.seed

    def killed(path, content):
        if pathlib.Path(path).name == "static_w0.json":
            raise KeyboardInterrupt
        write(path, content)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(files, "write", killed)
        recipe.sample.seed = 7
        run.run(recipe, workdir)
    recipe.sample.seed = seed
    run.run(recipe, workdir)
    for name, array in cell(evaluated, "static_w0")[1].items():
        np.testing.assert_array_equal(cell(workdir, "static_w0")[1][name], array)


@pytest.mark.parametrize(
    "name, omega", [("static_w4", [4] * 5), ("linear_w4", [1.6, 3.2, 4.8, 6.4, 8]),
                    ("linear_w0", [0] * 5)],
)  # fmt: skip
def test_the_oracle_is_an_independent_call_of_the_sampler(
    recipe, evaluated, name, omega
):
    """linear: 2 (1 - t / 20) at t = 16, 12, 8, 4, 0 is 0.4 ... 2; over its mean 1.2,
    times 4, is 4/3, 8/3, 4, 16/3, 20/3."""
    if name == "linear_w4":
        omega = [4 / 3, 8 / 3, 4, 16 / 3, 20 / 3]
    row, arrays = cell(evaluated, name)
    np.testing.assert_allclose(arrays["omega"], omega, rtol=1e-6)
    path = exact_paths(recipe, np.float32(omega), 20)
    axis = path.sum((2, 3, 4)) / 8
    np.testing.assert_allclose(arrays["oracle_axis"], axis, rtol=1e-4, atol=1e-4)
    data = files.load_npz(pathlib.Path(evaluated) / "experiment" / "data.npz")
    planar = np.tensordot(
        path - data["mean"], data["directions"], [[2, 3, 4], [1, 2, 3]]
    )
    np.testing.assert_allclose(arrays["oracle_paths"], planar[:, :6], atol=1e-3)
    np.testing.assert_allclose(arrays["oracle_plane"], planar[-1], atol=1e-3)
    sign = np.tile([-1, 1], 10)
    expected = trajectories.summary(trajectories.measure(planar, axis, sign))
    for measure in ("path_length", "final_mean", "final_std", "overshoot"):
        assert row["oracle"][measure] == pytest.approx(expected[measure], rel=1e-3)
    assert row["made_by"]["system"]["checkpoint"]["step"] == 2


def test_a_scale_of_zero_has_no_schedule(evaluated):
    for who in ("network", "oracle"):
        static, linear = (
            cell(evaluated, f"{name}_w0")[1][f"{who}_axis"]
            for name in ("static", "linear")
        )
        np.testing.assert_array_equal(static, linear)


def test_the_plane_is_that_of_the_data(recipe, evaluated):
    data = files.load_npz(pathlib.Path(evaluated) / "experiment" / "data.npz")
    images = build.load_data(recipe).images.reshape(2048, 64).astype(np.float64)
    _, spread, axes = np.linalg.svd(images - images.mean(0), full_matrices=False)
    got = data["directions"].reshape(2, -1)
    assert abs(got[0] @ axes[0]) == pytest.approx(1, abs=1e-6)
    share = spread[:2] ** 2 / np.sum(spread**2)
    np.testing.assert_allclose(data["explained"], share, rtol=1e-5)
    plane = pca.Plane(data["mean"], data["directions"], data["variances"])
    assert data["plane"].shape == (2000, 2) and set(data["labels"]) == {0, 1}
    # bright is on the right, the classes D = 8 apart
    side = [data["plane"][data["labels"] == c, 0].mean() for c in (0, 1)]
    assert side[1] - side[0] == pytest.approx(MODEL.separation, rel=0.02)
    assert plane.mean.shape == (8, 8, 1)


def test_the_exact_model_as_network_is_at_no_distance(
    recipe, evaluated, workdir_copy, monkeypatch
):
    workdir = workdir_copy(evaluated)
    shutil.rmtree(pathlib.Path(workdir) / "experiment")

    load = trained.load

    def exact(*args):
        system = MODEL.system(build.noise_schedule(recipe))
        return system._replace(origin=load(*args).origin)

    monkeypatch.setattr(trained, "load", exact)
    recipe.experiment.schedules, recipe.experiment.scales = ("static",), (4.0,)
    run.run(recipe, workdir)
    folder = pathlib.Path(workdir) / "experiment"
    closeness = files.load_npz(folder / "closeness.npz")
    for name in ("excess_cond", "excess_uncond", "delta_error"):
        np.testing.assert_allclose(closeness[name], 0, atol=1e-10, err_msg=name)
    with_label, without = MODEL.bayes_mse(build.noise_schedule(recipe))
    np.testing.assert_allclose(closeness["bayes_cond"], with_label[closeness["t"]])
    np.testing.assert_allclose(closeness["bayes_uncond"], without[closeness["t"]])
    # eps_c - eps_u on the class axis: E of its square is what the label takes off the
    # floor, for one pixel times 64 pixels that all move together
    signal = np.sqrt(64 * (without - with_label)[closeness["t"]])
    often = signal > 0.5  # below, it is the mean of rare large values
    assert often.sum() > 5
    np.testing.assert_allclose(
        closeness["delta_signal"][often], signal[often], rtol=0.1
    )
    row, arrays = cell(workdir, "static_w4")
    np.testing.assert_allclose(
        arrays["network_axis"], arrays["oracle_axis"], rtol=1e-5, atol=1e-5
    )
    assert row["network"]["final_mean"] == pytest.approx(row["oracle"]["final_mean"])


def test_a_network_hardly_trained_is_at_a_distance(recipe, evaluated):
    """sigma_t x_t with nothing learned: its excess at the middle is far above 0."""
    closeness = files.load_npz(pathlib.Path(evaluated) / "experiment/closeness.npz")
    assert closeness["excess_cond"].max() > 0.01
    assert closeness["delta_error"].max() > 0.1


def test_what_has_no_exact_model_or_no_checkpoint_is_refused(
    recipe, tiny, trained, tmp_path
):
    with pytest.raises(FileNotFoundError, match="run train.py first"):
        run.run(recipe, str(tmp_path))
    tiny.data.name = "synthetic"
    with pytest.raises(ValueError, match="only two_gaussians has an exact model"):
        run.oracle(tiny)


def test_gn_needs_a_curve_and_gn_all_is_not_for_this(recipe, evaluated, workdir_copy):
    workdir = workdir_copy(evaluated)
    recipe.experiment.schedules = ("gn",)
    with pytest.raises(FileNotFoundError, match="no gradient-norm curve"):
        run.run(recipe, workdir)


@pytest.mark.parametrize(
    "changes, words",
    [
        ({"schedules": ()}, "must not be empty"),
        ({"schedules": ("gn_all",)}, "a curve for each class"),
        ({"schedules": ("table",)}, "set guidance.table"),
        ({"scales": (10.0, 10.0000001)}, "two cells have the name"),
    ],
)
def test_an_experiment_that_cannot_end_is_refused_at_the_start(changes, words):
    config = fig2.get_config("smoke")
    run.check(config)
    config.experiment.update(changes)
    with pytest.raises(ValueError, match=words):
        run.check(config)


def test_a_table_for_each_class_is_no_experiment(tmp_path):
    config = fig2.get_config("smoke")
    np.save(tmp_path / "table.npy", np.ones((2, 1000)))
    config.guidance.schedule = "table"
    config.guidance.table.file = str(tmp_path / "table.npy")
    omega = weights.make(config, str(tmp_path), {"step": 1})
    with pytest.raises(ValueError, match="table.npy has a row for each class"):
        run.check_one_curve(config, omega)
