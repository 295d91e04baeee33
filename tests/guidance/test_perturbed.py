"""Self-attention guidance by hand, on a model whose attention is a given map."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import toy_system
from toy_system import LABEL, NS, T, X

from progguide_jax.diffusion import prediction, process
from progguide_jax.guidance import references
from progguide_jax.guidance.references import perturbed

# attention that the pixels of a layer of 2 x 2 get: mean 1
SEEN = np.array(
    [[[2.0, 0.5], [0.4, 1.1]], [[1.0, 1.0], [1.0, 1.0]], [[0.0, 0.0], [4.0, 0.0]]]
)


def eps_of(np_, x, sigma, label):
    """Each pixel looks at its left neighbour too, and at the label; 2 is null."""
    label = np_.asarray(label).reshape(-1, 1, 1, 1)
    return sigma * np_.tanh(x + 0.5 * np_.roll(x, 1, axis=2)) + 0.3 * (label - 1)


def model(kind="eps", seen=SEEN):
    def disturbed(cond, way, layers):
        assert way == "attended" and layers == ("middle",)
        fn = jax.tree_util.Partial(lambda x, level, label: jnp.asarray(seen, x.dtype))
        return prediction.Branch(fn, cond)

    eps = functools.partial(eps_of, jnp)
    return toy_system.of(eps, kind, lambda branch: disturbed)


def both(label):
    """(x0, eps) of X in float64, and alpha and sigma."""
    alpha, sigma = (v[T].reshape(-1, 1, 1, 1) for v in (NS.alpha, NS.sigma))
    eps = eps_of(np, X.astype(np.float64), sigma, label)
    return (X - sigma * eps) / alpha, eps, alpha, sigma


def blurred(image):
    """By a kernel of 7 x 7 pixels, half of the image, and sigma 1; reflected."""
    kernel = np.exp(-0.5 * np.arange(-3, 4) ** 2.0)
    kernel /= kernel.sum()
    image = np.pad(image, [(0, 0), (3, 3), (3, 3), (0, 0)], "reflect")
    image = sum(w * image[:, i : i + 6] for i, w in enumerate(kernel))
    return sum(w * image[:, :, i : i + 6] for i, w in enumerate(kernel))


def ask(kind, conditional=False, seen=SEEN, **settings):
    """eps of the reference."""
    settings = {"conditional": conditional} | settings
    needs = {"null": {}, "sag": settings}
    made = references.branches(model(kind, seen), jnp.asarray(LABEL), needs)
    level = NS.level(T)
    alpha, sigma = (prediction.per_image(v, X) for v in level[1:])

    def said(branch, **given):
        raw = branch.fn(X, level, branch.cond, **given)
        return prediction.of_raw(raw, X, alpha, sigma, branch.predicts)

    given = {name: said(made[name]) for name in ("cond", "null")}
    return np.asarray(said(made["sag"], given=given).eps)


@pytest.mark.parametrize("conditional", [False, True])
@pytest.mark.parametrize("kind", process.PREDICTIONS)
def test_by_hand(kind, conditional):
    """p_ref = p_c - p_u(x) + p_u(x'), whatever the network predicts: the map of 2 x 2
    is one square of 3 x 3 pixels each, blurred where it is above 1."""
    label = LABEL if conditional else np.full(3, 2)
    x0, eps, alpha, sigma = both(label)
    mask = np.kron(SEEN > 1, np.ones((3, 3)))[..., None] > 0
    worse = alpha * np.where(mask, blurred(x0), x0) + sigma * eps
    ours = both(LABEL)[1]
    wanted = ours - eps + eps_of(np, worse, sigma, label)
    found = ask(kind, conditional)
    np.testing.assert_allclose(found, wanted, atol=2e-4)
    assert np.abs(found - ours)[[0, 2]].max(axis=(1, 2, 3)).min() > 0.01


@pytest.mark.parametrize("conditional", [False, True])
@pytest.mark.parametrize("change", [dict(threshold=5.0), dict(blur_sigma=0.0)])
def test_nothing_degraded_is_the_conditional_prediction(conditional, change):
    """p_u(x') is p_u(x) then, and no guidance is left."""
    found = ask("eps", conditional, **change)
    np.testing.assert_allclose(found, both(LABEL)[1], atol=1e-5)


def test_it_needs_null_unless_it_is_conditional():
    def uses(**settings):
        made = references.branches(model(), jnp.asarray(LABEL), {"sag": settings})
        return made["sag"].uses

    assert uses() == ("cond", "null") and uses(conditional=True) == ("cond",)


INSIDE = [name for name, e in references.REFERENCES.items() if e.inside]


@pytest.mark.parametrize("name", INSIDE)
def test_a_model_without_a_network_is_an_error(name):
    without = model()._replace(perturbed=None)
    with pytest.raises(ValueError, match=f"^{name}: this model has no network"):
        references.branches(without, jnp.asarray(LABEL), {"null": {}, name: {}})


@pytest.mark.parametrize(
    "settings, words",
    [
        (dict(sigma=-1.0), "sigma is -1.0: use 0 ... inf"),
        (dict(sigma=float("nan")), "sigma is nan"),
        (dict(rate=1.5), "rate is 1.5: use 0 ... 1"),
        (dict(blur_sigma=-0.1), "blur_sigma is -0.1"),
        (dict(threshold=-0.1), "threshold is -0.1"),
        (dict(layers=()), "layers is empty: use all"),
    ],
)
def test_settings_that_no_network_could_have(settings, words):
    with pytest.raises(ValueError, match=words):
        perturbed.check(**settings)
