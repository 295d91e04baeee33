"""Other conditions and noised ones: by hand and by their laws."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from progguide_jax.analytic import gaussians
from progguide_jax.diffusion import (
    levels,
    noise,
    prediction,
    process,
    samplers,
    solvers,
    system,
)
from progguide_jax.guidance import references

NS = process.ddpm_linear()
MODEL = gaussians.TwoGaussians(0.5, 0.25, (3, 2))
LABEL = jnp.array([0, 1, 1, 0])


def keys(n, seed=0):
    return noise.image_keys(jax.random.key(seed), jnp.arange(n))


@pytest.mark.parametrize("label", [2, 5])
def test_another_label_is_one_of_the_others(label):
    """6,000 draws of five classes against equal shares; 5 is the null label."""
    drawn = system.other_labels(5)(keys(6000), jnp.full(6000, label, jnp.int32))
    assert drawn.dtype == jnp.int32
    counts = np.bincount(drawn, minlength=5)
    others = np.arange(5) != label
    assert len(counts) == 5 and counts[~others].sum() == 0
    share = 6000 / others.sum()
    assert np.all(np.abs(counts[others] - share) < 4 * np.sqrt(share))


def test_of_two_labels_icg_is_guided_against_the_other_one():
    """Which is plain CFG with the other label for the null one."""
    model, plan = MODEL.system(NS), solvers.ddim()(levels.make("leading", NS, 10))
    x_T = samplers.initial_noise(keys(4), MODEL.shape)
    given = references.branches(model, LABEL, {"icg": {}})
    ours = samplers.solve(
        given, x_T, plan, omega=np.full(10, 1.5), key=jax.random.key(0)
    )
    pair = {"cond": model.branch(LABEL), "null": model.branch(1 - LABEL)}
    wanted = samplers.solve(pair, x_T, plan, omega=np.full(10, 1.5))
    np.testing.assert_allclose(ours, wanted, atol=1e-5)


@pytest.mark.parametrize(
    ("name", "field"),
    [("icg", "other"), ("cads", "embed"), ("cads", "branch_of_embedding")],
)
def test_a_model_that_lacks_what_a_reference_needs(name, field):
    model = MODEL.system(NS)._replace(**{field: None})
    words = f"^{name} needs System.{field}, which this model lacks: give it, or use"
    with pytest.raises(ValueError, match=words):
        references.branches(model, LABEL, {name: {}})
    assert system.other_labels(1) is None


def echo(width):
    """A model whose prediction is the embedding that it is given."""
    rows = np.random.default_rng(0).normal(1.0, 2.0, (3, width)).astype(np.float32)
    fn = jax.tree_util.Partial(lambda x, level, emb: emb + 0 * x)
    return system.System(
        branch=lambda label: prediction.Branch(fn, jnp.asarray(rows)[label]),
        noise_schedule=NS,
        shape=(width,),
        condition=np.asarray,
        null=2,
        decode=lambda x: x,
        origin={},
        embed=lambda label: jnp.asarray(rows)[label],
        branch_of_embedding=lambda emb: prediction.Branch(fn, emb),
    ), rows


def seen_by(width, t, **settings):
    """The embeddings that the network gets at t [B], those of its labels, the noise."""
    model, rows = echo(width)
    label = np.arange(len(t)) % 2
    branch = references.branches(model, jnp.asarray(label), {"cads": settings})["cond"]
    level = NS.level(jnp.asarray(t))
    own = keys(len(t), 7)
    x = jnp.zeros((len(t), width))
    found = jax.jit(branch.fn)(x, level, branch.cond, keys=own)
    n = noise.initial_noise(own, (width,))
    return np.asarray(found), rows[label], np.asarray(n, np.float64)


def test_cads_by_hand():
    """gamma of tau = 0.5, 0.6, 0.7, 0.8, 0.9 and 0.95 is 1, 1, 2/3, 1/3, 0 and 0."""
    t = np.array([500, 600, 700, 800, 900, 950])
    got, y, n = seen_by(8, t, tau1=0.6, tau2=0.9, noise_scale=0.4, mix=0.75)
    gamma = np.array([1, 1, 2 / 3, 1 / 3, 0, 0])[:, None]
    noised = np.sqrt(gamma) * y + 0.4 * np.sqrt(1 - gamma) * n
    mean, std = (getattr(noised, m)(1, keepdims=True) for m in ("mean", "std"))
    scaled = (noised - mean) / std * y.std(1, keepdims=True) + y.mean(1, keepdims=True)
    np.testing.assert_allclose(got, 0.75 * scaled + 0.25 * noised, atol=2e-5)
    np.testing.assert_array_equal(got[0], y[0])


def test_cads_keeps_mean_and_spread_of_every_embedding():
    got, y, _ = seen_by(16, np.array([650, 850, 950]), noise_scale=3.0)
    np.testing.assert_allclose(got.mean(1), y.mean(1), atol=1e-5)
    np.testing.assert_allclose(got.std(1), y.std(1), rtol=1e-5)
    assert np.abs(got - y).max() > 0.1


def test_cads_does_not_rescale_one_number():
    got, y, n = seen_by(1, np.array([750, 950]), noise_scale=0.4)
    gamma = np.array([[0.5], [0.0]])
    wanted = np.sqrt(gamma) * y + 0.4 * np.sqrt(1 - gamma) * n
    np.testing.assert_allclose(got, wanted, atol=1e-5)


def test_cads_with_a_step():
    """tau1 = tau2: all of the condition up to there, none of it above."""
    got, y, n = seen_by(8, np.array([500, 501]), tau1=0.5, tau2=0.5, mix=0.0)
    np.testing.assert_allclose(got, [y[0], 0.25 * n[1]], atol=1e-5)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"tau1": 0.9, "tau2": 0.6}, "tau1 is 0.9 and tau2 0.6: use 0 <= tau1 <= tau2"),
        ({"noise_scale": -1.0}, "noise_scale is -1.0"),
        ({"mix": 2.0}, r"mix is 2.0: it must lie in \[0, 1\]"),
    ],
)
def test_settings_that_make_no_sense(settings, words):
    with pytest.raises(ValueError, match=words):
        references.branches(MODEL.system(NS), LABEL, {"cads": settings})


def test_priors_are_exact_models():
    """log p of the mixture with these priors, differentiated in float64 by hand: eps =
    -sigma grad log p; a label, no label and a pair that does not add to 1."""
    alpha, sigma = NS.alpha[400], NS.sigma[400]
    v = (alpha * MODEL.std) ** 2 + sigma**2
    x = np.random.default_rng(1).normal(size=(4, 3, 2)).astype(np.float32) * 0.3
    priors = np.array([[1, 0], [0.5, 0.5], [0.6, 0.2], [-1, -2]])
    made = MODEL.system(NS).branch_of_embedding(jnp.asarray(priors, jnp.float32))
    got = made.fn(x, NS.level(jnp.full(4, 400)), made.cond)
    weights = np.array([[1, 0], [0.5, 0.5], [0.75, 0.25], [0.5, 0.5]])
    centres = alpha * MODEL.mean * np.array([-1, 1])
    away = x[:, None] - centres[:, None, None]
    log_p = -np.square(away).sum((2, 3)) / (2 * v)
    post = weights * np.exp(log_p)
    post /= post.sum(1, keepdims=True)
    wanted = sigma / v * (post[:, :, None, None] * away).sum(1)
    np.testing.assert_allclose(got, wanted, atol=1e-5)
    label = jnp.arange(3)
    table = MODEL.system(NS).embed(label)
    np.testing.assert_array_equal(table, [[1, 0], [0, 1], [0.5, 0.5]])
