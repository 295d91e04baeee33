"""Classifiers of noisy images: trained from a config, and guiding by their gradient."""

import functools
import math
import types

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs import base, two_gaussians
from progguide_jax.analytic import gaussians
from progguide_jax.data import batches
from progguide_jax.diffusion import prediction, process
from progguide_jax.engine import probing, sampling, training
from progguide_jax.guidance import references
from progguide_jax.runtime import config as config_lib
from progguide_jax.runtime import sharding
from progguide_jax.systems import build, noisy_classifier, validation
from progguide_jax.systems import trained as trained_system


@pytest.fixture
def small(tiny):
    """The tiny config of a classifier."""
    tiny.model = base.get_config().model
    tiny.model.name, net = "encoder", tiny.model.encoder
    net.base_channels, net.channel_mult, net.attention_resolutions = 8, (1, 1), (4,)
    return tiny


class Linear(nn.Module):
    """Logits W x: linear, so that everything is known."""

    @nn.compact
    def __call__(self, x_t, level, train=False):
        weights = self.param("weights", nn.initializers.zeros, (3, 4))
        return x_t.reshape(len(x_t), -1) @ weights.T


def test_guidance_is_the_gradient_of_a_linear_classifier():
    """grad log softmax(W x)_c = W_c - sum_k p_k W_k, by hand."""
    rng = np.random.default_rng(0)
    W, x = rng.standard_normal((3, 4)), rng.standard_normal((5, 2, 2, 1))
    label = np.array([0, 1, 2, 2, 0])
    odds = np.exp(x.reshape(5, 4) @ W.T)
    p = odds / odds.sum(1, keepdims=True)
    gradient = (W[label] - p @ W).reshape(x.shape)
    fn = noisy_classifier.log_prob(Linear())
    log_prob = jax.tree_util.Partial(fn, {"weights": jnp.asarray(W, jnp.float32)})
    asked = jnp.asarray(x, jnp.float32), None, label
    np.testing.assert_allclose(log_prob(*asked), np.log(p)[range(5), label], rtol=1e-5)
    model = types.SimpleNamespace(
        branch=lambda cond: prediction.Branch(None, cond, "eps")
    )
    branch = references.REFERENCES["classifier"].make(model, label, log_prob=log_prob)
    level = process.Level(jnp.zeros(5), jnp.full(5, 0.8), jnp.full(5, 0.6))
    zero = jnp.zeros_like(asked[0])
    given = {"cond": prediction.Prediction(zero, zero)}
    eps = branch.fn(asked[0], level, label, given=given)
    np.testing.assert_allclose(eps, 0.6 * gradient, rtol=1e-4, atol=1e-6)


def test_a_fresh_one_says_that_all_classes_are_as_likely(small):
    """The loss of the first update is log K, in nats."""
    module, data = build.network(small), build.load_data(small)
    batch = batches.batch(data, 0, 0, 8, False)
    level = build.noise_schedule(small).level(jnp.arange(8))

    @functools.partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})
    def loss(image, label):
        params = build.init_params(module, (8, 8, 3), jax.random.key(0))
        return training.cross_entropy(module, params, image, level, label, image)

    loss = loss(batch["image"], batch["label"])
    np.testing.assert_allclose(loss, math.log(3), rtol=1e-6)


def test_it_is_trained_on_noisy_images_and_their_own_labels(small, monkeypatch):
    """x_t and level belong together, at all t; no label is dropped."""
    seen = {}

    def spy(module, params, x0, level, label, eps, **kwargs):
        seen.update(level=level, label=label, eps=eps)
        return jnp.zeros(len(x0)) * params["bias"]

    monkeypatch.setattr(training, "cross_entropy", spy)
    small.train.label_drop = 0.9
    params, optimizer = {"bias": jnp.zeros(())}, build.optimizer(small)
    state = build.TrainState(jnp.zeros((), int), params, params, optimizer.init(params))
    data = batches.batch(build.load_data(small), 0, 0, 64, False)
    batch = {k: jnp.asarray(data[k]) for k in ("image", "label")}
    training.train_step(state, batch, config=small, module=None, optimizer=optimizer)
    np.testing.assert_array_equal(seen["label"], data["label"])
    t = np.asarray(seen["level"].t)
    assert t.min() < 4 and t.max() > 15 and abs(np.std(seen["eps"]) - 1) < 0.05


def origin_of(config):
    """That of a network of this config, and its data and noise schedule."""
    plain = config.copy_and_resolve_references()
    plain.model.name = "unet"
    return trained_system.of(plain, {}, {"step": 1, "digest": "ab"})


@pytest.mark.parametrize(
    "values, words",
    [
        (
            {"noise.name": "cosine"},
            "has noise cosine and the one that it guides ddpm_linear",
        ),
        ({"noise.num_timesteps": 40}, "has noise_digest"),
        (
            {"data.num_classes": 2},
            "has data.num_classes 2 and the one that it guides 3",
        ),
        (
            {"data.image_size": 16},
            "has data.image_size 16 and the one that it guides 8",
        ),
        ({"data.name": "two_gaussians", "data.num_classes": 2}, "has data.name"),
    ],
)
def test_one_of_other_data_or_noise_is_refused(small, tmp_path, values, words):
    model = origin_of(small)
    small.update_from_flattened_dict(values)
    with pytest.raises(ValueError, match=words) as error:
        noisy_classifier.load(small, str(tmp_path), None, model)
    assert "set --config.guidance.classifier.workdir to" in str(error.value)


def test_another_kind_of_network_is_refused(small, tmp_path):
    """A denoiser as the classifier, and a classifier as the weaker network."""
    run = sampling.Run(None, origin_of(small), "")
    for name, model, words in (
        ("classifier", "unet", "is 'unet' and this needs a classifier"),
        ("autoguidance", "encoder", "is 'encoder' and this needs no classifier"),
    ):
        small.model.name = model
        (tmp_path / "config.json").write_text(config_lib.to_json(small))
        small.guidance.references = (name,)
        small.guidance[name].workdir = str(tmp_path)
        with pytest.raises(ValueError, match=words):
            sampling.guide_of(small, run, name)


def test_it_is_neither_sampled_nor_probed(small, tmp_path):
    for command in (sampling.generate, probing.probe):
        with pytest.raises(ValueError, match="'encoder', a classifier, which makes no"):
            command(small, str(tmp_path))


@pytest.mark.parametrize(
    "values, words",
    [
        ({"train.label_drop": 0.2}, "train.label_drop does nothing: model.name is"),
        ({"model.label_dim": 8}, "model.label_dim does nothing"),
        ({"train.sample_every": 9}, "train.sample_every does nothing"),
        ({"train.noise": "student_t"}, "a classifier: set train.noise=gaussian"),
        ({"train.loss_weight": "min_snr"}, "set train.loss_weight=uniform"),
        ({"model.encoder.base_channels": 18}, "model.encoder.base_channels 18 with"),
        ({"model.encoder.attention_resolutions": (5,)}, "no feature map is 5"),
        ({"model.unet.exit": 4}, "set model.name=unet"),
    ],
)
def test_what_it_does_not_read_is_refused(small, values, words):
    validation.check_training(small)
    small.update_from_flattened_dict(values)
    with pytest.raises(ValueError, match=words):
        validation.check_training(small, list(values))


@pytest.mark.slow
def test_train_stop_go_on_and_guide(small, trained, tmp_path):
    """Its checkpoints are those of any training, and the record of samples has them."""
    whole, parts = str(tmp_path / "whole"), str(tmp_path / "parts")
    training.train(small, whole)
    small.train.num_steps = 3
    training.train(small, parts)
    small.train.num_steps = 6
    training.train(small, parts)
    mesh = sharding.mesh()
    (a, made), (b, _) = (build.load_ema(small, w, mesh) for w in (whole, parts))
    assert jax.tree.all(jax.tree.map(np.array_equal, *jax.device_get((a, b))))
    config = config_lib.load(f"{trained}/config.json")
    config.guidance.references = ("classifier",)
    config.guidance.classifier.workdir = whole
    run = sampling.load(config, trained)
    about = sampling.make_spec(config, run).about["references"]["classifier"]
    assert about["guide"]["checkpoint"] == made


@pytest.mark.slow
def test_its_gradient_is_that_of_bayes():
    """Two Gaussians, whose posterior is known: 400 updates of a small encoder."""
    config = two_gaussians.get_config("smoke")
    config.model = base.get_config().model
    config.model.name, net = "encoder", config.model.encoder
    net.base_channels, net.channel_mult, net.attention_resolutions = 8, (1, 1), ()
    config.data.two_gaussians.mean, config.data.num_examples = 0.05, 4096
    config.train.num_steps, config.train.batch_size = 400, 128
    config.train.learning_rate, config.train.ema_decay = 3e-3, 0.98
    module, data = build.network(config), build.load_data(config)
    step = jax.jit(
        functools.partial(
            training.train_step,
            config=config,
            module=module,
            optimizer=build.optimizer(config),
        )  # fmt: skip
    )
    state = build.create(config, module)
    for i in range(400):
        batch = batches.batch(data, 0, i, 128, False)
        state, _ = step(state, {k: batch[k] for k in ("image", "label")})
    exact, ns = (
        gaussians.TwoGaussians(0.05, 0.25, (8, 8, 1)),
        build.noise_schedule(config),
    )
    label, t = jnp.arange(256) % 2, jnp.full(256, 150)
    x0 = exact.sample(jax.random.key(5), label)
    level = ns.level(t)
    x_t = process.diffuse(level, x0, jax.random.normal(jax.random.key(6), x0.shape))
    fn = functools.partial(noisy_classifier.log_prob(module), state.ema_params)
    ours = jax.grad(lambda x: jnp.sum(fn(x, level, label)))(x_t)
    theirs = exact.classifier_score(ns, x_t, t, label)
    ours, theirs = (np.asarray(g).reshape(256, -1) for g in (ours, theirs))
    assert np.mean(np.sign(ours.sum(1)) == np.sign(theirs.sum(1))) > 0.95
    slope = np.sum(ours * theirs) / np.sum(theirs**2)
    assert 0.6 < slope < 1.5


def test_what_was_trained_on_other_data_is_refused_by_its_digest():
    ours = {
        "data": {"name": "npz", "digest": "a", "num_examples": 9},
        "noise": "cosine",
    }
    fewer = {"data": {"name": "npz", "digest": "a", "num_examples": 5}}
    trained_system.check_same("autoguidance", "w", fewer, ours)
    other = {"data": fewer["data"] | {"digest": "b"}}
    words = (
        "autoguidance: the network in w has data.digest b and the one that it guides a"
    )
    with pytest.raises(ValueError, match=words):
        trained_system.check_same("autoguidance", "w", other, ours)
