"""What every reference of the registry owes, and several at once."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import worlds

from progguide_jax.diffusion import levels, prediction, process, samplers, solvers
from progguide_jax.guidance import references, rules

LABEL = jnp.arange(6) % 2


def weak(x, level, label):
    return 0.8 * worlds.curved(x, level, label)


def log_prob(x, level, label):
    return -jnp.sum(jnp.square(x - label[:, None, None]), (1, 2)) / 10


# what each reference asks for besides the model
# those that look inside a network are in test_every_disturbance.py
EVERY = [name for name, entry in references.REFERENCES.items() if not entry.inside]
NEEDS = {name: {} for name in EVERY if not references.needs(name)} | {
    "autoguidance": {"guide": worlds.model(weak)},
    "heavy_tail": {"guide": worlds.model(weak)},
    "classifier": {"log_prob": log_prob},
}
# settings at which a reference does nothing
INERT = {
    "autoguidance": {"guide": worlds.model()},
    "heavy_tail": {"guide": worlds.model()},
    "sigma_scale": {"factor": 1.0},
    "self_guidance": {"delta": 0.0},
    "tsg": {"noise_scale": 0.0},
    "cads": {"tau1": 1.0, "tau2": 1.0},
    "classifier": {"log_prob": lambda x, level, label: 0.0 * label},
}


def branch_of(name):
    return references.REFERENCES[name].branch


def sample(needs, omega, model=None, x_T=None, label=LABEL, **kwargs):
    x_T = worlds.start() if x_T is None else x_T
    branches = references.branches(model or worlds.model(), label, needs)
    plan = solvers.ddim()(worlds.grid())
    key = kwargs.pop("key", jax.random.key(4))
    return samplers.solve(branches, x_T, plan, omega=omega, key=key, **kwargs)


def whole(name, **changes):
    """The needs of a reference, and null where it gives nothing to guide against."""
    beside = {"null": {}} if branch_of(name) == "cond" else {}
    return {name: NEEDS[name] | changes} | beside


def test_every_reference_is_here():
    assert set(NEEDS) == set(EVERY)


@pytest.mark.parametrize("name", EVERY)
def test_it_acts_and_omega_0_is_plain(name):
    needs = whole(name)
    plain, guided = sample(needs, np.zeros(8)), sample(needs, np.ones(8))
    as_null = np.allclose(plain, sample({"null": {}}, np.zeros(8)), atol=1e-6)
    assert as_null == (branch_of(name) != "cond")
    assert not np.allclose(plain, guided, atol=1e-2)


@pytest.mark.parametrize("name", INERT)
def test_its_neutral_setting(name):
    """As the conditional model, or as without it where it changes that."""
    changes = NEEDS[name] | INERT[name]
    cond = branch_of(name) == "cond"
    wanted = sample({"null": {}}, np.full(8, 2.0 if cond else 0.0))
    got = sample(whole(name, **changes), np.full(8, 2.0))
    np.testing.assert_allclose(got, wanted, atol=1e-4)


@pytest.mark.parametrize("name", EVERY)
def test_an_image_does_not_depend_on_its_neighbours(name):
    keys = samplers.image_keys(jax.random.key(4), jnp.arange(6))
    everyone = sample(whole(name), np.ones(8), key=keys)
    alone = sample(
        whole(name), np.ones(8), x_T=worlds.start()[4:5], label=LABEL[4:5],
        key=keys[4:5],
    )  # fmt: skip
    np.testing.assert_allclose(everyone[4:5], alone, atol=2e-5)


@pytest.mark.slow
@pytest.mark.parametrize("name", EVERY)
def test_double_batch_is_two_calls(name):
    """With null beside it, whose function the conditional branch has too."""
    needs = whole(name) | {"null": {}}
    against = {references.REFERENCES[n].branch for n in needs} - {"cond"}
    omega = dict.fromkeys(against, np.ones(8))
    once = sample(needs, omega, double_batch=True)
    np.testing.assert_allclose(once, sample(needs, omega), atol=2e-5)


@pytest.mark.parametrize("name", EVERY)
def test_the_prediction_of_the_network_does_not_matter(name, x64):
    x_T = worlds.start(dtype=jnp.float64)
    eps, v = (
        sample(whole(name), np.ones(8), worlds.model(kind=kind), x_T)
        for kind in ("eps", "v")
    )
    np.testing.assert_allclose(v, eps, atol=1e-8)


@pytest.mark.slow
@pytest.mark.parametrize("name", EVERY)
def test_an_x0_network_from_pure_noise(name):
    """At alpha = 0 eps says nothing, and everything stays finite."""

    def seen(x, level, label):
        return jnp.tanh(x + 0.3 * prediction.per_image(1.0 * label, x))

    fn = jax.tree_util.Partial(seen)
    emb = jax.tree_util.Partial(lambda x, level, emb: seen(x, level, emb[:, 0]))
    made = worlds.model()._replace(
        noise_schedule=process.zero_terminal_snr(worlds.NS),
        branch=lambda cond: prediction.Branch(fn, cond, "x0"),
        branch_of_embedding=lambda e: prediction.Branch(emb, e, "x0"),
    )
    needs = whole(name)
    if references.REFERENCES[name].guide == "guide":
        needs[name] = {"guide": made}
    branches = references.branches(made, LABEL, needs)
    grid = levels.from_timesteps(made.noise_schedule, [999, 800, 500, 200])
    assert grid.alpha[0] == 0
    x_0 = samplers.solve(
        branches, worlds.start(), solvers.ddim()(grid), omega=np.ones(4),
        key=jax.random.key(0),
    )  # fmt: skip
    assert np.isfinite(x_0).all()


@pytest.mark.slow
@pytest.mark.parametrize("name", EVERY)
def test_other_conditions_and_settings_share_a_program(name):
    traces = []

    def counted(x, level, label):
        traces.append(x.shape)
        return worlds.curved(x, level, label)

    made = worlds.model(counted)
    settings = {
        k: v * 0.9 for k, v in references.settings(name).items() if type(v) is float
    }
    if "factor" in settings:
        settings["factor"] = 1.1
    sample(whole(name), np.ones(8), made)
    first = len(traces)
    for label in (LABEL, 1 - LABEL):
        sample(whole(name, **settings), np.ones(8), made, label=label)
    assert len(traces) == first


def test_omega_minus_1_is_the_guide_alone():
    needs = {"autoguidance": NEEDS["autoguidance"]}
    alone = sample({"null": {}}, np.zeros(8), worlds.model(weak))
    np.testing.assert_allclose(sample(needs, -np.ones(8)), alone, atol=1e-4)


def test_the_model_as_its_own_guide_is_inert():
    needs = {"autoguidance": {"guide": worlds.model()}}
    plain = sample(needs, np.zeros(8))
    np.testing.assert_allclose(sample(needs, np.full(8, 3.0)), plain, atol=1e-4)


def test_two_references_add():
    """omega by branch; where one is 0 throughout, the other is as if alone."""
    both = {"null": {}, "autoguidance": NEEDS["autoguidance"]}
    curve = np.linspace(0, 2, 8)
    for branch, name in (("null", "null"), ("guide", "autoguidance")):
        omega = {"null": 0 * curve, "guide": 0 * curve} | {branch: curve}
        alone = sample({name: NEEDS[name]}, curve)
        np.testing.assert_allclose(sample(both, omega), alone, atol=1e-5)
    together = sample(both, {"null": curve, "guide": curve})
    assert not np.allclose(together, alone, atol=1e-2)


def test_two_references_by_hand():
    """One step of eps: 0.5 + 2 (0.5 - 0.1) + 3 (0.5 - 0.3) = 1.9."""

    def constant(value):
        return lambda x, level, label: (
            jnp.where(label == 2, 0.1, value)[:, None] + 0 * x
        )

    model = worlds.model(constant(0.5), (1,))
    needs = {"null": {}, "autoguidance": {"guide": worlds.model(constant(0.3), (1,))}}
    branches = references.branches(model, jnp.zeros(1, int), needs)
    plan = solvers.ddim()(worlds.grid(1))
    omega = {"null": np.array([2.0]), "guide": np.array([3.0])}
    x_0 = samplers.solve(branches, jnp.ones((1, 1)), plan, omega=omega)
    alpha, sigma = worlds.NS.alpha[0], worlds.NS.sigma[0]
    assert x_0.item() == pytest.approx((1 - sigma * 1.9) / alpha, rel=1e-6)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (dict(shape=(8, 8)), r"guide makes \(8, 8\) and the model \(4, 3\)"),
        (dict(noise_schedule=process.cosine()), "noise schedule cosine and the model"),
    ],
)
def test_a_guide_that_does_not_fit(change, words):
    guide = worlds.model()._replace(**change)
    with pytest.raises(ValueError, match=words):
        references.branches(worlds.model(), LABEL, {"autoguidance": {"guide": guide}})


def test_weights_that_do_not_fit():
    both = {"null": {}, "autoguidance": NEEDS["autoguidance"]}
    with pytest.raises(ValueError, match="several references .* as a dict by branch"):
        sample(both, np.ones(8))
    signs = {"null": np.ones(8), "guide": -np.ones(8)}
    with pytest.raises(ValueError, match="omega is -1 of one reference and 1 of anoth"):
        sample(both, signs, rule=rules.apg())
    with pytest.raises(ValueError, match="omega is for null and the references are"):
        sample(both, {"null": np.ones(8)})
    with pytest.raises(ValueError, match="unknown reference 'nul': did you mean"):
        sample({"nul": {}}, np.ones(8))
