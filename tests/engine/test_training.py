"""Training: its first step, its averages, and that nothing changes by stopping."""

import functools
import json
import math
import os
import pathlib
import shutil
import signal

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from scipy import stats

from configs import base
from progguide_jax.analytic import gaussians
from progguide_jax.data import batches
from progguide_jax.diffusion import process
from progguide_jax.engine import step_log, training
from progguide_jax.runtime import checkpoints, locking, sharding
from progguide_jax.systems import build, drawing


class Killed(Exception):
    """What stands for a kill -9 here."""


def host_batch(config, step, size=None):
    dataset = build.load_data(config)
    size = size or config.train.batch_size
    batch = batches.batch(dataset, config.seed, step, size, config.data.flip)
    return {"image": batch["image"], "label": batch["label"]}


def take_steps(config, count):
    """[(state, metrics)] of the first updates, on the devices there are."""
    mesh = sharding.mesh()
    step = training.compiled_step(config, mesh)
    current = fresh_state(config, mesh)
    result = []
    for i in range(count):
        batch = sharding.put(mesh, host_batch(config, i))
        current, metrics = step(current, batch)
        result.append(jax.device_get((current, metrics)))  # the next step donates it
    return result


def fresh_state(config, mesh):
    create = functools.partial(build.create, config, build.network(config))
    return jax.jit(
        create,
        out_shardings=sharding.replicated(mesh),
        compiler_options={"xla_backend_optimization_level": 0},
    )()


def fresh_params(config):
    return jax.device_get(fresh_state(config, sharding.mesh()).params)


def saved_state(config, workdir, step=None):
    abstract = jax.eval_shape(
        functools.partial(build.create, config, build.network(config))
    )
    with checkpoints.Checkpoints(build.checkpoint_dir(str(workdir))) as saved:
        return jax.device_get(saved.restore(abstract, step)[0])


def latest_step(workdir):
    with checkpoints.Checkpoints(build.checkpoint_dir(str(workdir))) as saved:
        return saved.latest_step()


def rows(workdir):
    lines = (pathlib.Path(workdir) / "metrics.jsonl").read_text().splitlines()
    return [json.loads(line) for line in lines]


def equal(a, b):
    return jax.tree.all(jax.tree.map(np.array_equal, a, b))


@pytest.fixture
def quick(tiny):
    """The tiny config of a network that compiles in no time."""
    tiny.model.name, tiny.model.unet = "pix_film", base.get_config().model.unet
    tiny.model.pix_film.width, tiny.model.pix_film.depth = 16, 1
    return tiny


def fail_at(monkeypatch, call):
    """The batch number `call` (from 0) of this process never reaches the devices."""
    calls, put = [], sharding.put

    def failing(*args):
        calls.append(args)
        if len(calls) > call:
            raise Killed
        return put(*args)

    monkeypatch.setattr(sharding, "put", failing)
    return calls


@pytest.fixture(scope="module")
def steps(make_tiny):
    """The tiny config, with a short average, and its first three updates."""
    config = make_tiny()
    config.train.ema_decay = 0.2
    return config, take_steps(config, 3)


def test_golden_first_steps(steps):
    """Measured once with jax 0.10.2. Update them when what a fresh run computes was
    changed on purpose: initial parameters, keys, the order of the batches, the network
    or the loss; never to make a refactoring pass."""
    _, history = steps
    loss = [float(m["loss"]) for _, m in history]
    norm = [float(m["grad_norm"]) for _, m in history]
    np.testing.assert_allclose(loss, [1.047142, 1.012383, 0.951559], rtol=1e-5)
    np.testing.assert_allclose(norm, [0.427326, 0.415981, 0.387105], rtol=1e-4)


def test_the_first_loss_is_the_variance_of_the_noise(steps):
    """A zero head predicts 0, so the loss is the mean of n squares of N(0, 1): 1 with
    a standard deviation of sqrt(2 / n)."""
    _, history = steps
    n = 16 * 8 * 8 * 3
    assert abs(history[0][1]["loss"] - 1) < 4 * math.sqrt(2 / n)
    assert int(history[2][0].step) == 3


def test_the_first_update_is_adams(steps):
    """With zero moments Adam moves each parameter by the learning rate against the sign
    of its gradient: peak / warmup at step 0."""
    config, history = steps
    fresh = fresh_params(config)
    after = history[0][0].params
    moved = jax.tree.map(lambda a, b: np.abs(a - b).ravel(), fresh, after)
    moved = np.concatenate(jax.tree.leaves(moved))
    rate = 1e-2 / 4
    assert moved.max() < rate * 1.001
    # the head gets a gradient far above Adam's epsilon, and lets none pass: it is zero
    head = after["conv_out"]
    assert np.median(np.abs(head["kernel"])) == pytest.approx(rate, rel=1e-3)
    assert np.sum(moved > 0) == head["kernel"].size + head["bias"].size


def test_the_average_follows_its_recursion(steps):
    """ema <- d ema + (1 - d) params, d = min(decay, (1 + n) / (10 + n)): 0.1, 2/11, and
    then the decay itself, 0.2, being the smaller."""
    config, history = steps
    leaves = [jax.tree.leaves(s.params) for s, _ in history]
    average = jax.tree.leaves(fresh_params(config))
    average = [np.asarray(a, np.float64) for a in average]
    for params, decay in zip(leaves, (0.1, 2 / 11, 0.2), strict=True):
        average = [
            decay * a + (1 - decay) * p for a, p in zip(average, params, strict=True)
        ]
    got = jax.tree.leaves(history[2][0].ema_params)
    for a, b in zip(got, average, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-7)


def test_eight_devices_train_as_one_does(steps, one_device):
    config, eight = steps
    one = take_steps(config, 3)
    for (a, metrics_a), (b, metrics_b) in zip(eight, one, strict=True):
        for name in metrics_a:
            assert metrics_a[name] == pytest.approx(metrics_b[name], rel=1e-4), name
        error = jax.tree.map(lambda x, y: np.abs(x - y).ravel(), a.params, b.params)
        # Adam turns the rounding of a gradient near 0 into a step of up to 0.01, but
        # few gradients are that small
        assert np.mean(np.concatenate(jax.tree.leaves(error))) < 2e-5


MODEL = gaussians.TwoGaussians(0.5, 0.25, (8, 8, 1))
ZERO_SNR = process.zero_terminal_snr(process.ddpm_linear(100))


class Exact(nn.Module):
    """The exact answer times the parameter `gain`, which is best at 1."""

    predicts: str

    def embed_label(self, label):
        return label

    @nn.compact
    def __call__(self, x_t, level, label, train=False):
        x0 = MODEL.posterior_mean(ZERO_SNR, x_t, level.t, label)
        said = process.convert(level, x_t, x0, "x0", self.predicts)
        return self.param("gain", nn.initializers.ones, ()) * said


@pytest.mark.parametrize("t", [0, 30, 60, 99])
@pytest.mark.parametrize("predicts", process.PREDICTIONS)
def test_the_exact_model_is_at_the_floor_with_no_gradient(predicts, t):
    """Per pixel, with v = alpha^2 std^2 + sigma^2, the variance of x0 given x_t and the
    label is (sigma std)^2 / v; that of eps is (alpha / sigma)^2 of it and that of
    v-prediction 1 / sigma^2. At t = 99 alpha is 0."""
    label = jnp.arange(4096) % 2
    x0 = MODEL.sample(jax.random.key(0), label)
    eps = jax.random.normal(jax.random.key(1), x0.shape)
    level, module = ZERO_SNR.level(jnp.full(4096, t)), Exact(predicts)

    @jax.jit
    def losses(gain, label):
        params = {"gain": gain}
        return training.loss_per_example(module, params, x0, level, label, eps)

    alpha_bar, noise = ZERO_SNR.alpha_bar[t], 1 - ZERO_SNR.alpha_bar[t]
    variance = noise * 0.25**2 / (alpha_bar * 0.25**2 + noise)
    factor = {"eps": alpha_bar / noise, "x0": 1.0, "v": 1 / noise}[predicts]
    floors = [(label, factor * variance)]
    if alpha_bar > 0:  # without a label: the closed form is that of eps
        _, without = MODEL.bayes_mse(ZERO_SNR)
        null = jnp.full(4096, gaussians.NULL)
        floors.append((null, factor * noise / alpha_bar * without[t]))
    for condition, floor in floors:
        low, loss, high = (
            np.asarray(losses(gain, condition), np.float64) for gain in (0.9, 1.0, 1.1)
        )
        assert abs(loss.mean() - floor) <= 5 * loss.std() / 64 + 1e-6
        slope = (high - low) / 0.2  # exact: the loss is quadratic in the gain
        assert abs(slope.mean()) <= 5 * slope.std() / 64 + 1e-6
        assert low.mean() >= loss.mean() - 1e-6 <= high.mean()


class Silent(nn.Module):
    """x_t times a parameter that starts at 0."""

    predicts: str
    num_classes: int = 3

    def embed_label(self, label):
        return label

    @nn.compact
    def __call__(self, x_t, level, label, train=False):
        return self.param("gain", nn.initializers.zeros, ()) * x_t


class SilentTwice(Silent):
    """An early exit answers 0 too, by a parameter of its own."""

    @nn.compact
    def __call__(self, x_t, level, label, train=False):
        early = self.param("early", nn.initializers.zeros, ())
        self.sow("exits", "exit", early * x_t)
        return self.param("gain", nn.initializers.zeros, ()) * x_t


def first_step(config, network=Silent):
    """(params, loss) of one step of gradient descent."""
    params = dict.fromkeys(("gain", "early"), jnp.zeros(()))
    optimizer = optax.sgd(0.1)
    blank = build.TrainState(jnp.int32(0), params, params, optimizer.init(params))
    module = network(config.train.predicts)
    step = functools.partial(
        training.train_step, config=config, module=module, optimizer=optimizer
    )
    moved, metrics = jax.jit(step)(blank, host_batch(config, 0))
    return moved.params, float(metrics["loss"])


def first_loss(config):
    return first_step(config)[1]


def test_the_first_loss_is_the_size_of_what_is_predicted(tiny):
    """To a network that answers 0: the mean square of the images for x0, and for v =
    alpha eps - sigma x0 alpha^2 and sigma^2 of theirs. T = 1 has one level, of alpha^2
    0.9999 and an SNR of 9999."""
    tiny.noise.num_timesteps, alpha_bar = 1, 1 - 1e-4
    size = np.mean(np.square(host_batch(tiny, 0)["image"], dtype=np.float64))
    tiny.train.predicts = "x0"
    assert first_loss(tiny) == pytest.approx(size, rel=1e-5)
    tiny.train.loss_weight, tiny.train.min_snr.gamma = "min_snr", 7.0
    assert first_loss(tiny) == pytest.approx(7 * size, rel=1e-5)
    tiny.train.predicts, tiny.train.loss_weight = "v", "uniform"
    expected = alpha_bar + (1 - alpha_bar) * size
    error = math.sqrt(2 / (16 * 8 * 8 * 3))
    assert abs(first_loss(tiny) - expected) < 4 * error
    tiny.train.loss_weight = "min_snr"  # 7 / 10,000
    assert abs(first_loss(tiny) / 7e-4 - expected) < 4 * error


@pytest.mark.parametrize("weight", [0.5, 3.0])
def test_an_early_exit_has_a_loss_of_its_own(tiny, weight):
    tiny.train.exit_weight, tiny.train.loss_weight = weight, "min_snr"
    (one, alone), (two, both) = first_step(tiny), first_step(tiny, SilentTwice)
    assert both == pytest.approx((1 + weight) * alone, rel=1e-6)
    assert one["early"] == 0 != one["gain"]
    assert float(two["early"]) == pytest.approx(weight * float(two["gain"]), rel=1e-5)


@pytest.mark.slow
def test_an_early_exit_learns(tiny, one_device):
    """Both heads, which begin at 0 as the answer of the network does."""
    tiny.model.unet.channel_mult, tiny.model.unet.exit = (1, 1), 4
    (_, _), (trained, _) = take_steps(tiny, 2)
    for head in ("conv_out", "conv_exit"):
        assert np.abs(trained.params[head]["kernel"]).max() > 1e-3


@pytest.mark.parametrize("predicts", ["x0", "v"])
def test_pure_noise_is_trained_on_by_x0_and_v(predicts, tiny, one_device):
    """With two timesteps half of the examples are at alpha = 0."""
    tiny.noise.num_timesteps, tiny.noise.zero_terminal_snr = 2, True
    tiny.model.name, tiny.model.width = "pix_film", 16
    tiny.train.predicts = predicts
    for trained, metrics in take_steps(tiny, 3):
        assert np.isfinite(metrics["loss"]) and np.isfinite(metrics["grad_norm"])
        for leaf in jax.tree.leaves(trained.params):
            assert np.all(np.isfinite(leaf))


def test_a_network_may_be_trained_on_another_noise(tiny, monkeypatch):
    """x_t is made with n, of length sqrt(d F(d, 4)), and eps is what is asked for."""
    tiny.train.noise, tiny.train.batch_size = "student_t", 512
    seen, d = {}, 8 * 8 * 3

    def spy(module, params, x0, level, label, eps, *, noise, **kwargs):
        seen.update(eps=eps, noise=noise)
        return params["w"] * jnp.ones(512)

    monkeypatch.setattr(training, "loss_per_example", spy)
    optimizer, params = optax.sgd(0.1), {"w": jnp.ones(())}
    training.train_step(
        build.TrainState(jnp.int32(0), params, params, optimizer.init(params)),
        {"image": jnp.zeros((512, 8, 8, 3)), "label": jnp.zeros(512, jnp.int32)},
        config=tiny, module=build.network(tiny), optimizer=optimizer,
    )  # fmt: skip
    square = np.square(np.asarray(seen["noise"], np.float64)).sum((1, 2, 3))
    assert stats.kstest(square / d, stats.f(d, 4).cdf).pvalue > 1e-3
    gain = ((4 + d) / (4 + square))[:, None, None, None]
    np.testing.assert_allclose(seen["eps"], gain * seen["noise"], rtol=1e-4)


def test_the_loss_of_another_noise_by_hand():
    """x_t = 0.6 x0 + 0.8 n; a network that says x_t itself errs by x_t - eps."""

    class Echo:
        predicts = "eps"

        def apply(self, params, x, *args, mutable=False, **kwargs):
            return (x, {}) if mutable else x  # as flax does

    level = process.Level(jnp.zeros(1), jnp.array([0.6]), jnp.array([0.8]))
    x0, n, eps = (jnp.full((1, 2, 2, 1), value) for value in (1.0, 2.0, 0.5))
    label = jnp.zeros(1, jnp.int32)
    loss = training.loss_per_example(Echo(), {}, x0, level, label, eps, noise=n)
    assert loss.item() == pytest.approx((0.6 + 1.6 - 0.5) ** 2)
    loss = training.loss_per_example(Echo(), {}, x0, level, label, eps)
    assert loss.item() == pytest.approx((0.6 + 0.4 - 0.5) ** 2)


def test_labels_and_timesteps_are_drawn_per_example(tiny, monkeypatch):
    """Counts over 100 batches of 256 against the binomial and the uniform law."""
    tiny.train.batch_size, tiny.train.label_drop = 256, 0.3
    module = build.network(tiny)
    labels = np.arange(256, dtype=np.int32) % 3

    def spy(module, params, x0, level, label, eps, **kwargs):
        seen["t"], seen["label"] = level.t, label
        return params["w"] * jnp.ones(256)

    monkeypatch.setattr(training, "loss_per_example", spy)
    optimizer = optax.sgd(0.1)
    params = {"w": jnp.ones(())}
    blank = build.TrainState(jnp.int32(0), params, params, optimizer.init(params))
    seen = {}

    @jax.jit
    def draw(step):
        training.train_step(
            blank.replace(step=step),
            {"image": jnp.zeros((256, 8, 8, 3)), "label": labels},
            config=tiny,
            module=module,
            optimizer=optimizer,
        )
        return seen["t"], seen["label"]

    draws = [jax.device_get(draw(step)) for step in range(100)]
    t, label = (np.stack(a) for a in zip(*draws, strict=True))
    dropped = label == 3
    assert np.all(dropped | (label == labels))
    n, p = dropped.size, 0.3
    assert abs(dropped.sum() - n * p) < 5 * math.sqrt(n * p * (1 - p))
    # independent within a batch: the variance of a batch's count is binomial too
    variance = np.var(dropped.sum(1), ddof=1) / (256 * p * (1 - p))
    assert 0.4 < variance < 1.8  # chi-square with 99 degrees: 5 sigma is +-0.7
    chi_square = np.sum((np.bincount(t.ravel(), minlength=20) - n / 20) ** 2) / (n / 20)
    assert chi_square < 19 + 5 * math.sqrt(2 * 19) and t.max() == 19
    assert not np.array_equal(t[0], t[1])


def check_killed_at_step_5(config, straight, workdir, monkeypatch):
    """Its checkpoint being of step 4: bit for bit the same."""
    with monkeypatch.context() as patch:
        fail_at(patch, call=5)
        with pytest.raises(Killed):
            training.train(config, workdir)
    assert [row["step"] for row in rows(workdir)] == [1, 2, 3, 4, 5]
    assert latest_step(workdir) == 4
    training.train(config, workdir)
    assert [row["step"] for row in rows(workdir)] == [1, 2, 3, 4, 5, 6]
    for name in ("loss", "grad_norm"):
        ours, theirs = ([r[name] for r in rows(d)] for d in (workdir, straight))
        assert ours == theirs
    assert int(saved_state(config, straight).step) == 6
    assert equal(saved_state(config, workdir), saved_state(config, straight))


def test_a_killed_run_goes_on_as_if_it_had_not_been(quick, tmp_path, monkeypatch):
    straight = str(tmp_path / "straight")
    training.train(quick, straight)
    check_killed_at_step_5(quick, straight, str(tmp_path / "killed"), monkeypatch)


@pytest.mark.slow
def test_a_killed_run_of_a_unet_too(tiny, trained, tmp_path, monkeypatch):
    check_killed_at_step_5(tiny, trained, str(tmp_path), monkeypatch)


def test_a_finished_run_is_found_and_a_longer_one_goes_on(
    tiny, trained, workdir_copy, monkeypatch
):
    workdir = workdir_copy(trained)
    with monkeypatch.context() as patch:
        calls = fail_at(patch, call=0)
        training.train(tiny, workdir)
        assert not calls
    tiny.train.num_steps = 7  # allowed while the learning rate does not decay
    tiny.train.log_every, tiny.train.keep = 3, 1
    training.train(tiny, workdir)
    assert [row["step"] for row in rows(workdir)] == [1, 2, 3, 4, 5, 6, 7]
    assert int(saved_state(tiny, workdir).step) == 7


def test_a_signal_saves_the_step_it_is_at(quick, tmp_path, monkeypatch):
    stopped, straight = str(tmp_path / "stopped"), str(tmp_path / "straight")
    after = iter([False, False, True])
    monkeypatch.setattr(
        checkpoints.Checkpoints, "should_stop", lambda self: next(after)
    )
    with pytest.raises(InterruptedError, match="after step 3"):
        training.train(quick, stopped)
    monkeypatch.undo()
    assert latest_step(stopped) == 3
    for workdir in (stopped, straight):
        training.train(quick, workdir)
    assert equal(saved_state(quick, stopped), saved_state(quick, straight))


def test_a_changed_config_is_refused_with_its_difference(tiny, trained, workdir_copy):
    workdir = workdir_copy(trained)
    before = sorted(pathlib.Path(workdir).rglob("*"))
    tiny.train.batch_size, tiny.model.unet.dropout = 32, 0.25
    words = r"model.unet.dropout: 0.1 -> 0.25; train.batch_size: 16 -> 32"
    with pytest.raises(ValueError, match=words) as error:
        training.train(tiny, workdir)
    assert "\n" not in str(error.value)
    assert sorted(pathlib.Path(workdir).rglob("*")) == before
    # on purpose; this one compiles nothing anew
    tiny.train.batch_size, tiny.model.unet.dropout = 16, 0.1
    tiny.data.flip = not tiny.data.flip
    with pytest.raises(ValueError, match="data.flip: "):
        training.train(tiny, workdir)
    tiny.allow_config_change, tiny.train.num_steps = True, 7
    training.train(tiny, workdir)
    assert latest_step(workdir) == 7


@pytest.mark.parametrize("name", ["loss", "grad_norm"])
def test_a_number_that_is_not_finite_stops_at_its_step(
    name, quick, tmp_path, monkeypatch
):
    """At a step that would be saved but not logged. The gradient counts too: it is in
    the state by then."""
    quick.train.checkpoint_every, quick.train.log_every = 2, 3
    compiled = training.compiled_step

    def poisoned(config, mesh):
        step = compiled(config, mesh)

        def run(train_state, batch):
            train_state, metrics = step(train_state, batch)
            bad = metrics[name] + jnp.where(train_state.step == 4, jnp.inf, 0.0)
            return train_state, metrics | {name: bad}

        return run

    monkeypatch.setattr(training, "compiled_step", poisoned)
    with pytest.raises(FloatingPointError, match=f"{name} is inf at step 4") as error:
        training.train(quick, str(tmp_path))
    assert "\n" not in str(error.value) and "allow_config_change" in str(error.value)
    assert latest_step(tmp_path) == 2 == int(saved_state(quick, tmp_path).step)
    assert [row["step"] for row in rows(tmp_path)] == [3]


def poisoned_batches(monkeypatch, *steps):
    """The images of these batches are NaN."""
    make = batches.batch

    def batch(dataset, seed, step, *rest):
        found = make(dataset, seed, step, *rest)
        return found | {
            "image": found["image"] * np.float32(step in steps and np.nan or 1)
        }

    monkeypatch.setattr(training.batches, "batch", batch)


def test_steps_that_are_not_finite_can_be_left_out(quick, tmp_path, monkeypatch):
    """As if their batches had not been there, but for the number of the step."""
    mesh, train = sharding.mesh(), quick.train
    step, state = training.compiled_step(quick, mesh), fresh_state(quick, mesh)
    train.num_steps, train.log_every = 6, 6
    for i in (0, 1, 4, 5):
        state = state.replace(step=jnp.full_like(state.step, i))
        state, _ = step(state, sharding.put(mesh, host_batch(quick, i)))
    expected = jax.device_get(state)

    poisoned_batches(monkeypatch, 2, 3)
    train.skip_nonfinite = 2
    training.train(quick, str(tmp_path / "left out"))
    found = saved_state(quick, tmp_path / "left out")
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6), found, expected
    )
    (row,) = rows(tmp_path / "left out")
    assert row["skipped_steps"] == 2 and np.isfinite(row["loss"])


def test_too_many_of_them_in_a_row_stop_the_training():
    bad, good = {"loss": np.nan}, {"loss": 1.0}
    window = step_log.Window(0, patience=2)
    window.sent = [(i + 1, m) for i, m in enumerate([bad, bad, good, bad, bad])]
    window.check()
    window.check()  # again: none is counted twice
    assert window.skipped == 4
    window.sent.append((6, bad))
    with pytest.raises(
        FloatingPointError, match="at step 6, the last of 3 in a row: lo"
    ):
        window.check()


def test_a_batch_that_the_devices_cannot_share(tiny, tmp_path):
    tiny.train.batch_size = 20
    words = "train.batch_size 20 is not divisible by the 8 devices: use 16 or 24"
    with pytest.raises(ValueError, match=words):
        training.train(tiny, str(tmp_path))
    tiny.train.batch_size, tiny.train.accumulate = 24, 2
    with pytest.raises(
        ValueError, match="devices times train.accumulate 2: use 16 or 32"
    ):
        training.train(tiny, str(tmp_path))
    assert not list(tmp_path.iterdir())


def test_a_grid_is_the_same_picture_for_the_same_weights(quick, tmp_path, caplog):
    """Drawn by the run itself at step 8, and by one that resumes at 6."""
    caplog.set_level("INFO")
    whole, resumed = str(tmp_path / "whole"), str(tmp_path / "resumed")
    training.train(quick, resumed)
    quick.train.num_steps = quick.train.sample_every = 8
    for workdir in (whole, resumed):
        training.train(quick, workdir)
    pictures = [
        (pathlib.Path(d) / "grids" / "step_00000008.png").read_bytes()
        for d in (whole, resumed)
    ]
    assert pictures[0] == pictures[1] and len(pictures[0]) > 500
    # ten of three classes, and as many more as eight devices share; it may take minutes
    assert "drawing the grid of step 8: 32 images of 4 steps" in caplog.text


def fail_drawing(patch):
    def killed(*args, **kwargs):
        raise Killed

    patch.setattr(drawing, "draw", killed)


def test_a_kill_while_the_last_grid_is_drawn_loses_no_step(
    quick, tmp_path, monkeypatch
):
    """The step is saved by then; the same command draws the grid, and only that."""
    quick.train.sample_every, quick.train.checkpoint_every = 50, 50
    with monkeypatch.context() as patch:
        fail_drawing(patch)
        with pytest.raises(Killed):
            training.train(quick, str(tmp_path))
    assert latest_step(tmp_path) == 6 == int(saved_state(quick, tmp_path).step)
    before = (tmp_path / "metrics.jsonl").read_text()
    training.train(quick, str(tmp_path))
    assert (tmp_path / "grids" / "step_00000006.png").exists()
    assert (tmp_path / "metrics.jsonl").read_text() == before
    fail_drawing(monkeypatch)
    training.train(quick, str(tmp_path))  # all is there


def test_a_grid_that_a_kill_prevented_is_drawn_on_the_way(quick, tmp_path, monkeypatch):
    quick.train.sample_every = quick.train.checkpoint_every = 3
    with monkeypatch.context() as patch:
        fail_drawing(patch)
        with pytest.raises(Killed):
            training.train(quick, str(tmp_path / "killed"))
    assert latest_step(tmp_path / "killed") == 3
    for name in ("killed", "whole"):
        training.train(quick, str(tmp_path / name))
    for name in ("step_00000003.png", "step_00000006.png"):
        ours, theirs = (
            (tmp_path / run / "grids" / name).read_bytes()
            for run in ("killed", "whole")
        )
        assert ours == theirs


def test_a_signal_in_the_last_grid_ends_an_experiment_too(quick, tmp_path, monkeypatch):
    """Not only the training: what follows it would not know of the signal."""
    quick.train.sample_every, draw = 50, drawing.draw

    def interrupted(*args, **kwargs):
        os.kill(os.getpid(), signal.SIGINT)
        return draw(*args, **kwargs)

    monkeypatch.setattr(drawing, "draw", interrupted)
    with pytest.raises(InterruptedError, match="after step 6, saved"):
        training.train(quick, str(tmp_path))
    assert latest_step(tmp_path) == 6
    assert (tmp_path / "grids" / "step_00000006.png").exists()


def test_a_finished_run_whose_end_is_damaged_is_not_called_trained(
    tiny, trained, workdir_copy, monkeypatch
):
    workdir, seen = workdir_copy(trained), []
    newest = pathlib.Path(workdir) / "checkpoints" / "6"
    shutil.rmtree(newest / "state")
    monkeypatch.setattr(training, "_train_from", lambda *args: seen.append(args[4]))
    training.train(tiny, workdir)
    assert [int(train_state.step) for train_state in seen] == [4]
    assert newest.with_name("6.damaged").is_dir() and not newest.exists()


@pytest.mark.slow
@pytest.mark.parametrize("item", ["state", None])
def test_a_finished_run_whose_end_is_damaged_makes_it_again(
    item, tiny, trained, workdir_copy, monkeypatch, caplog
):
    """Half of the checkpoint is gone, or it all: what is trained again is bit for bit
    what was there. Nothing is compiled: the step is that of the run, looked up."""
    workdir = workdir_copy(trained)
    newest = pathlib.Path(workdir) / "checkpoints" / "6"
    ends = {int(s.step): s for s in (saved_state(tiny, trained, n) for n in (4, 6))}
    shutil.rmtree(newest / item if item else newest)
    taken = []

    def lookup(config, mesh):
        def step(train_state, batch):
            taken.append(int(train_state.step))
            assert taken[-1] > 4 or equal(jax.device_get(train_state), ends[4])
            result = ends[6].replace(step=train_state.step + 1)
            return jax.device_put(result), {"loss": 1.0, "grad_norm": 1.0}

        return step

    monkeypatch.setattr(training, "compiled_step", lookup)
    training.train(tiny, workdir)
    assert taken == [4, 5]
    if item:
        assert "going back to step 4: step 6: " in caplog.text
        assert newest.with_name("6.damaged").is_dir()
    assert equal(saved_state(tiny, workdir), ends[6])
    training.train(tiny, workdir)
    assert taken == [4, 5]


def test_a_config_json_that_was_cut_is_written_again(
    tiny, trained, workdir_copy, caplog
):
    """By a finished run too, and only where the command line has the config."""
    workdir = workdir_copy(trained)
    path = pathlib.Path(workdir) / "config.json"
    before = path.read_bytes()
    path.write_bytes(before[:100])
    training.train(tiny, workdir)
    assert path.read_bytes() == before
    assert path.with_name("config.json.damaged").read_bytes() == before[:100]
    (line,) = [m for m in caplog.messages if "config.json is damaged" in m]


def test_two_trainings_in_one_workdir_are_told(quick, tmp_path, monkeypatch):
    monkeypatch.setattr(locking, "_SECONDS", 0.0)
    folder = build.checkpoint_dir(str(tmp_path))
    with locking.hold(folder):
        with pytest.raises(ValueError, match="checkpoints is being written by"):
            training.train(quick, str(tmp_path))


def test_the_workdir_says_what_was_run(tiny, trained):
    folder = pathlib.Path(trained)
    assert json.loads((folder / "config.json").read_text())["train"]["batch_size"] == 16
    assert "jax" in json.loads((folder / "env.json").read_text())["versions"]
    assert "label_table/table" in (folder / "parameters.txt").read_text()
    assert set(rows(folder)[-1]) == {
        "step", "time", "loss", "grad_norm", "averaged_steps", "images_per_second",
    }  # fmt: skip


def test_training_comes_close_to_the_exact_answer(tiny, one_device):
    """On two Gaussians the excess of the loss over the Bayes floor is E (eps_hat -
    eps*)^2, eps* in closed form: 300 steps remove most of it, for both labels and none.
    """
    tiny.data.name, tiny.data.channels, tiny.data.num_classes = "two_gaussians", 1, 2
    tiny.data.two_gaussians.mean = 0.5
    tiny.data.num_examples, tiny.data.flip = 2048, False
    tiny.noise.num_timesteps = 100
    tiny.model.name = "pix_film"
    tiny.model.pix_film.width, tiny.model.pix_film.depth = 64, 2
    tiny.train.batch_size, tiny.train.learning_rate = 128, 5e-3
    model = gaussians.TwoGaussians(0.5, 0.25, (8, 8, 1))
    module, ns = build.network(tiny), build.noise_schedule(tiny)
    dataset = build.load_data(tiny)
    step = training.compiled_step(tiny, sharding.mesh())

    @jax.jit
    def excess(params):
        keys = jax.random.split(jax.random.key(5), 3)
        label = jnp.arange(1024) % 2
        x0 = model.sample(keys[0], label)
        t = jax.random.randint(keys[1], (1024,), 0, 100)
        x_t = process.add_noise(ns, x0, t, jax.random.normal(keys[2], x0.shape))
        return jnp.stack(
            [
                jnp.mean(jnp.square(
                    build.eps_of_label(module, ns)(params, x_t, t, c)
                    - model.eps(ns)(x_t, t, c)
                ))
                for c in (label, jnp.full_like(label, gaussians.NULL))
            ]
        )  # fmt: skip

    current = fresh_state(tiny, sharding.mesh())
    before, losses = excess(current.params), []
    for i in range(300):
        batch = batches.batch(dataset, 0, i, 128, False)
        batch = {k: batch[k] for k in ("image", "label")}
        current, metrics = step(current, batch)
        losses.append(float(metrics["loss"]))  # waits: the CPU cannot queue many
    after = excess(current.ema_params)
    assert np.all(after < 0.1 * before), (before, after)
    # nobody beats the floor: no label, no noise leaks into what the network sees
    with_label, without = model.bayes_mse(ns)
    floor = np.mean(0.9 * with_label + 0.1 * without)
    tail = np.array(losses[-100:])
    assert tail.mean() > floor - 3 * tail.std() / 10
