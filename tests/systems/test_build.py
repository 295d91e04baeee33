"""From a config to its parts."""

import functools
import pathlib
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from progguide_jax.diffusion import process
from progguide_jax.runtime import sharding
from progguide_jax.systems import build


def test_learning_rate_warms_up_to_a_constant(tiny):
    """From peak / warmup in a straight line: count n uses peak (1 + 3 n / 4) / 4."""
    tiny.train.learning_rate, tiny.train.warmup_steps = 0.8, 4
    got = [float(build.learning_rate(tiny)(n)) for n in (0, 1, 2, 3, 4, 5, 1000)]
    np.testing.assert_allclose(got, [0.2, 0.35, 0.5, 0.65, 0.8, 0.8, 0.8], rtol=1e-6)


def test_learning_rate_falls_as_a_cosine_to_zero_at_the_end(tiny):
    """cos^2 of 0, 22.5, 45, 67.5 and 90 degrees over the 8 steps after the warm-up."""
    tiny.train.learning_rate, tiny.train.warmup_steps = 0.8, 4
    tiny.train.decay, tiny.train.num_steps = "cosine", 12
    got = [float(build.learning_rate(tiny)(n)) for n in (0, 2, 4, 6, 8, 10, 12)]
    squares = np.array([1, 0.8535534, 0.5, 0.1464466, 0])
    np.testing.assert_allclose(got, [0.2, 0.5, *(0.8 * squares)], atol=1e-6)


def test_a_warm_up_longer_than_the_run_is_a_tenth_of_it(tiny):
    """A few steps of a recipe for many: --config.train.num_steps=20 works alone."""
    tiny.train.learning_rate, tiny.train.warmup_steps = 0.8, 200
    tiny.train.decay, tiny.train.num_steps = "cosine", 20
    got = [float(build.learning_rate(tiny)(n)) for n in (0, 1, 2, 20)]
    np.testing.assert_allclose(got, [0.4, 0.6, 0.8, 0], atol=1e-6)


@pytest.mark.parametrize("decay", ["constant", "cosine"])
def test_learning_rate_without_a_warm_up_starts_at_its_peak(tiny, decay):
    tiny.train.warmup_steps, tiny.train.decay = 0, decay
    assert float(build.learning_rate(tiny)(0)) == pytest.approx(1e-2)


def test_gradients_are_clipped_by_their_global_norm(tiny):
    """Adam's first moment after one update is 0.1 of the clipped gradient."""
    tiny.train.grad_clip = 1.0
    optimizer = build.optimizer(tiny)
    params = {"a": jnp.zeros(2), "b": jnp.zeros(1)}
    grads = {"a": jnp.array([3.0, 0.0]), "b": jnp.array([4.0])}
    _, opt_state = optimizer.update(grads, optimizer.init(params), params)
    (mu,) = [s.mu for s in jax.tree.leaves(opt_state, is_leaf=_is_adam) if _is_adam(s)]
    np.testing.assert_allclose(mu["a"], [0.06, 0], rtol=1e-6)
    np.testing.assert_allclose(mu["b"], [0.08], rtol=1e-6)


def _is_adam(node):
    return hasattr(node, "mu")


def test_noise_schedules_by_name(tiny):
    tiny.noise.num_timesteps = 50
    expected = {
        "ddpm_linear": process.ddpm_linear(50),
        "cosine": process.cosine(50),
        "scaled_linear": process.scaled_linear(50, 0.001, 0.02),
    }
    betas = tiny.noise.scaled_linear
    betas.beta_start, betas.beta_end = 0.001, 0.02
    for name, schedule in expected.items():
        tiny.noise.name, tiny.noise.zero_terminal_snr = name, False
        assert build.noise_schedule(tiny) == schedule
        tiny.noise.zero_terminal_snr = True
        assert build.noise_schedule(tiny) == process.zero_terminal_snr(schedule)


def test_zero_terminal_snr_ends_in_pure_noise(tiny):
    tiny.noise.zero_terminal_snr = True
    assert build.noise_schedule(tiny).alpha[-1] == 0


def test_a_fresh_state_is_a_function_of_the_seed(tiny):
    def make():
        create = functools.partial(build.create, tiny, build.network(tiny))
        quick = {"xla_backend_optimization_level": 0}
        return jax.jit(create, compiler_options=quick)()

    first = make()
    assert int(first.step) == 0
    assert jax.tree.all(jax.tree.map(np.array_equal, first.params, first.ema_params))
    assert jax.tree.all(jax.tree.map(np.array_equal, first, make()))
    tiny.seed = 1
    other = make()
    table = "label_table"
    assert not np.array_equal(
        first.params[table]["table"], other.params[table]["table"]
    )


def test_network_takes_the_settings_it_has_and_a_dtype_for_probing(tiny):
    tiny.model.unet.dtype = "bfloat16"
    assert build.network(tiny).dtype == "bfloat16"
    assert build.network(tiny, dtype="float32").dtype == "float32"
    assert build.network(tiny).num_classes == 3
    tiny.model.name, tiny.model.pix_film.width = "pix_film", 17
    assert build.network(tiny).width == 17
    assert build.network(tiny, dtype="float32").width == 17  # it has no dtype
    assert build.network(tiny).predicts == "eps"
    # equal configs share one function object, hence one compilation
    again = tiny.copy_and_resolve_references()
    assert build.raw_of_label(build.network(tiny)) is build.raw_of_label(
        build.network(again)
    )
    again.train.predicts = "v"
    assert build.network(again).predicts == "v"
    assert build.raw_of_label(build.network(tiny)) is not build.raw_of_label(
        build.network(again)
    )


def test_loss_weights_by_name_with_their_settings(tiny):
    level = process.Level(jnp.zeros(1), jnp.full(1, 0.8), jnp.full(1, 0.6))
    assert build.loss_weight(tiny)(level, "x0") == 1
    tiny.train.loss_weight, tiny.train.min_snr.gamma = "min_snr", 1.25
    assert build.loss_weight(tiny)(level, "x0") == 1.25  # the SNR is 16/9


@pytest.mark.parametrize("predicts", process.PREDICTIONS)
def test_eps_of_any_network_is_that_of_its_raw_answer(tiny, predicts):
    """A fresh PixFiLM answers sigma x, alpha x or 0: all say that eps is sigma x."""
    tiny.model.name, tiny.model.width, tiny.train.predicts = "pix_film", 8, predicts
    module, ns = build.network(tiny), build.noise_schedule(tiny)
    init = functools.partial(build.init_params, module, (8, 8, 3))
    params = jax.jit(init)(jax.random.key(0))
    x_t = jax.random.normal(jax.random.key(1), (3, 8, 8, 3))
    t, label = jnp.array([2, 7, 19]), jnp.array([0, 1, 3])
    exact = np.reshape(ns.sigma[np.asarray(t)], (3, 1, 1, 1)) * x_t
    emb = build.embed_label(module, params, label)
    for eps in (
        build.eps_of_label(module, ns)(params, x_t, t, label),
        build.eps_of_embedding(module, ns)(params, x_t, t, emb),
    ):
        np.testing.assert_allclose(eps, exact, rtol=1e-3)


def test_what_is_said_of_data_finds_earlier_results_again(tiny):
    """Of data without a digest, the keys that every record of theirs has."""
    assert build.data_about(tiny) == {
        "name": "synthetic",
        "image_size": 8,
        "channels": 3,
        "num_classes": 3,
        "num_examples": 96,
    }


def test_averaged_weights_come_back_with_their_origin(trained, tiny):
    params, origin = build.load_ema(tiny, trained, sharding.mesh())
    assert origin["step"] == 6 and len(origin["digest"]) == 16
    again, same = build.load_ema(tiny, trained, sharding.mesh())
    assert same == origin
    assert jax.tree.all(jax.tree.map(np.array_equal, params, again))
    assert all(len(x.sharding.device_set) == 8 for x in jax.tree.leaves(params))


def test_the_step_of_the_checkpoint_can_be_chosen(trained, tiny):
    newest = build.load_ema(tiny, trained, sharding.mesh())[1]
    tiny.checkpoint.step = 4
    earlier = build.load_ema(tiny, trained, sharding.mesh())[1]
    assert earlier["step"] == 4 and earlier["digest"] != newest["digest"]
    tiny.checkpoint.step = 5
    with pytest.raises(
        FileNotFoundError, match=r"no checkpoint of step 5 .*\[6, 4, 2\]"
    ):
        build.load_ema(tiny, trained, sharding.mesh())


def test_a_split_of_the_data_has_the_settings_of_its_section(tiny):
    tiny.data.name, tiny.data.num_classes = "two_gaussians", 2
    tiny.data.two_gaussians.mean, tiny.data.two_gaussians.std = 3.0, 0.5
    images = build.load_data(tiny).images
    assert images[1::2].mean() == pytest.approx(
        3, abs=5 * 0.5 / images[1::2].size ** 0.5
    )
    assert images.shape == (96, 8, 8, 3)
    assert not np.array_equal(images, build.load_data(tiny, "test").images)


def test_a_workdir_without_a_checkpoint_says_train_first(tiny, tmp_path):
    for folder in (tmp_path / "none", tmp_path):
        with pytest.raises(FileNotFoundError, match="no checkpoint in .*: .*train"):
            build.load_ema(tiny, str(folder), sharding.mesh())
        (tmp_path / "checkpoints").mkdir(exist_ok=True)


def test_a_checkpoint_that_does_not_fit_names_the_first_difference(
    trained, tiny, workdir_copy
):
    tiny.model.label_dim = 32  # as wide as the hidden layer
    with pytest.raises(ValueError, match="does not fit.*model.label_dim: 16 -> 32"):
        build.load_ema(tiny, trained, sharding.mesh())
    workdir = workdir_copy(trained)  # where nothing says what it was trained with
    (pathlib.Path(workdir) / "config.json").unlink()
    with pytest.raises(ValueError, match=r"does not fit: label_\w+/\w+ is") as error:
        build.load_ema(tiny, workdir, sharding.mesh())
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "key, value, fits",
    [
        ("model.unet.sigma_skip", True, False),
        ("noise.name", "cosine", False),
        ("noise.num_timesteps", 40, False),
        ("noise.zero_terminal_snr", True, False),
        ("train.predicts", "v", False),
        ("train.loss_weight", "min_snr", True),
        ("model.unet.dtype", "bfloat16", True),
        ("model.unet.dropout", 0.0, True),
        ("train.label_drop", 0.5, True),
    ],
)
def test_a_checkpoint_of_another_function_is_refused(trained, tiny, key, value, fits):
    """All of these have the same parameters, so no shape could tell."""
    tiny.lock().update_from_flattened_dict({key: value})
    if fits:
        assert build.load_ema(tiny, trained, sharding.mesh())[1]["step"] == 6
    else:
        with pytest.raises(ValueError, match=f"does not fit.*{key}: .* -> {value}"):
            build.load_ema(tiny, trained, sharding.mesh())


def test_a_training_that_has_not_ended_is_told(trained, tiny, workdir_copy):
    """By what its config.json asks for, whatever the config at hand says."""
    workdir = workdir_copy(trained)
    shutil.rmtree(pathlib.Path(workdir) / "checkpoints" / "6")
    tiny.train.num_steps = 4
    step = build.load_ema(tiny, workdir, sharding.mesh())[1]["step"]
    assert build.progress(tiny, workdir, step) == "step 4 of 6"
    with pytest.raises(ValueError, match="is at step 4 of 6: run train.py") as error:
        build.check_finished(tiny, workdir, step)
    assert "--config.checkpoint.step=4" in str(error.value)
    assert build.progress(tiny, workdir, 6) == build.progress(tiny, workdir, 8) == ""
    tiny.checkpoint.step = 4
    build.check_finished(tiny, workdir, step)
