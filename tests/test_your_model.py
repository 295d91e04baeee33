"""docs/your_model.md: its blocks as they stand, and what they made."""

import pathlib
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from progguide_jax.diffusion import prediction, samplers, solvers, system
from progguide_jax.guidance import references, rules

DOC = pathlib.Path(__file__).parents[1] / "docs/your_model.md"
BLOCKS = re.findall(r"```python\n(.*?)```", DOC.read_text(), re.S)
# the one that takes longer than a default test should
(RATIO,) = [block for block in BLOCKS if "recfg_ratio" in block]


@pytest.fixture(scope="module")
def told():
    """What the blocks leave, run one after the other, without RATIO."""
    names: dict = {}
    for block in BLOCKS:
        if block != RATIO:
            exec(block, names)
    return names


def by_hand(told, cond, gain=0.5):
    """The branch of the document's network, told the nearest timestep."""

    def fn(params, x, level, label):
        return told["fn"](params, x, jnp.round(level.t), label)

    params = told["params"] | {"gain": gain}
    return prediction.Branch(jax.tree_util.Partial(fn, params), cond)


def test_every_reference_has_its_place(told):
    """It is sampled with, or the table says what it needs."""
    table = "".join(line for line in DOC.read_text().splitlines() if line[:1] == "|")
    for name in references.names():
        assert name in told["needs"] or re.search(rf"\b{name}\b", table), name


def test_the_system_is_the_network_asked_by_hand(told):
    """Against a weak one; all the others together end on images."""
    labels, x_T = told["labels"], told["x_T"]
    branches = {"cond": by_hand(told, labels), "weak": by_hand(told, labels, gain=0.4)}
    run = dict(omega=told["omega"], rule=rules.apg())
    found = samplers.solve(branches, x_T, solvers.heun()(told["grid"]), **run)
    np.testing.assert_allclose(told["x_0"], found, atol=1e-4)
    assert set(told["weights"]) == {
        references.REFERENCES[name].branch for name in told["needs"]
    }
    for images in (told["of_all"], told["noised"]):
        assert np.isfinite(images).all() and images.shape == x_T.shape


def test_the_gradient_norms(told):
    """This network is gain x + emb, so that the gradient of the absolute error counts
    the signs of a channel; omega follows the sums of g from t to the noisy end."""
    key, of_images = jax.random.split(jax.random.key(3))
    x0 = np.tanh(jax.random.normal(of_images, (1000, 8, 8, 3)))
    eps = np.asarray(jax.random.normal(key, x0.shape))
    ns, emb = told["ns"], np.asarray(told["params"]["class"])[3]
    alpha, sigma = (a.reshape(-1, 1, 1, 1) for a in (ns.alpha, ns.sigma))
    signs = np.sign(0.5 * (alpha * x0 + sigma * eps) + emb - eps).sum((1, 2))
    found = told["curve"].g[3]
    # a pixel whose error is nearly 0 may round to the other side
    assert np.mean(np.abs(found - np.linalg.norm(signs, axis=1)) > 1e-3) < 0.01
    mean = told["curve"].g.mean(0)
    left = np.interp(told["grid"].t[:-1], range(1000), mean[::-1].cumsum()[::-1])
    np.testing.assert_allclose(told["omega_gn"], 2 * left / left.mean(), rtol=1e-5)


@pytest.mark.slow
def test_the_ratio_that_is_measured(told):
    """This network is gain x + emb: E[eps_c eps_u] / E[eps_u^2] from the moments of the
    images, of 38400 pixels."""
    told = dict(told)
    exec(RATIO, told)
    x0, emb = np.asarray(told["images"]), np.asarray(told["params"]["class"])
    c, u = emb[told["of_classes"]][:, None, None], emb[10]
    for t in (0, 333, 999):
        alpha, sigma = told["ns"].alpha[t], told["ns"].sigma[t]
        mean = 0.5 * alpha * x0 + 0.1 * np.sin(t / 100)
        both = np.mean((mean + c) * (mean + u) + (0.5 * sigma) ** 2)
        alone = np.mean((mean + u) ** 2 + (0.5 * sigma) ** 2)
        np.testing.assert_allclose(told["ratio"][t], both / alone, rtol=0.03)
    assert np.ptp(told["ratio"][[0, 999]]) > 0.1
    assert told["recfg"].settings["ratio"].shape == (1000,)


def test_the_rule_that_remembers(told):
    """This network's difference is the same at every x and t, so that its mean, begun
    at 0, is a part 1 - 2^-n of it at the n-th step with an omega other than 0."""
    weights = told["omega"] * (1 - 0.5 ** np.arange(6))  # the first omega is 0
    branches = {k: by_hand(told, c) for k, c in
                (("cond", told["labels"]), ("null", np.full(4, 10)))}  # fmt: skip
    found = samplers.solve(
        branches, told["x_T"], solvers.ddim()(told["grid"]), omega=weights
    )
    np.testing.assert_allclose(told["smooth"], found, atol=1e-4)


def test_t_between_timesteps(told):
    """t = 1.75: the nearest one, or itself."""
    level = told["ns"].level(jnp.ones(2, int))._replace(t=jnp.full(2, 1.75))
    given = ({}, told["ns"], (3,))

    def asked(**kwargs):
        branch = system.of_network(
            lambda params, x, t, c: x + t[:, None], *given, num_classes=2, **kwargs
        ).branch(np.zeros(2))
        return branch.fn(jnp.zeros((2, 3)), level, branch.cond)

    np.testing.assert_array_equal(asked(), np.full((2, 3), 2.0))
    np.testing.assert_array_equal(asked(fractional_t=True), np.full((2, 3), 1.75))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"fn": lambda x, t, c: x}, r"fn\(x, t, c\) is called as fn\(params, x_t, t"),
        ({"predicts": "epsilon"}, "unknown prediction 'epsilon': did you mean 'eps'"),
        ({"num_classes": None}, "num_classes and null are both missing: pass num_cla"),
        ({"shape": 32}, r"shape is 32: pass that of one x, such as \(32, 32, 3\)"),
        ({"noise_schedule": None}, "noise_schedule is NoneType, no NoiseSchedule"),
    ],
)
def test_what_a_system_is_made_of(told, change, message):
    given = {"fn": told["fn"], "params": {}, "noise_schedule": told["ns"]}
    given |= {"shape": (8, 8, 3), "num_classes": 10}
    with pytest.raises(ValueError, match=message):
        system.of_network(**given | change)
