"""What every reference of the registry owes, and several at once."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import worlds

from progguide_jax.diffusion import process, samplers, solvers
from progguide_jax.guidance import references
from progguide_jax.systems import build, trained

LABEL = jnp.arange(6) % 2


def weak(x, level, label):
    return 0.8 * worlds.curved(x, level, label)


# what each reference asks for besides the model
NEEDS = {"null": {}, "autoguidance": {"guide": worlds.model(weak)}}
INSIDE = [name for name, entry in references.REFERENCES.items() if entry.inside]
NEEDS |= {name: {} for name in INSIDE}
# what stands beside it, with omega 0
BESIDE = {"sag": ["null"]}


def sample(needs, omega, model=None, **kwargs):
    model = model or worlds.model()
    branches = references.branches(model, LABEL, needs)
    plan, x_T = solvers.ddim()(worlds.grid()), worlds.start(shape=model.shape)
    key = jax.random.key(0)
    return samplers.solve(branches, x_T, plan, omega=omega, key=key, **kwargs)


@pytest.fixture(scope="module")
def unet(make_tiny):
    """A U-Net of 8 x 8 pixels that has all that can be disturbed, none of it 0."""
    config = make_tiny()
    config.noise.num_timesteps, config.data.num_classes = 1000, 2
    config.model.unet.update(
        channel_mult=(1, 2), attention_resolutions=(4,), exit=4, sigma_skip=True
    )
    init = jax.jit(
        functools.partial(build.init_params, build.network(config)), static_argnums=0
    )
    draws = np.random.default_rng(1)
    moved = jax.tree.map(
        lambda x: (x + 0.2 * draws.normal(size=x.shape)).astype(x.dtype),
        init((8, 8, 3), jax.random.key(0)),
    )
    return trained.of(config, moved, {})


def test_every_reference_is_here():
    assert set(NEEDS) == set(references.names())


@pytest.mark.parametrize("name", references.names())
def test_it_acts_and_omega_0_is_plain(name, unet):
    model = unet if name in INSIDE else None
    needs = {n: NEEDS[n] for n in (*BESIDE.get(name, ()), name)}

    def run(scale):
        omega = {references.REFERENCES[n].branch: np.zeros(8) for n in needs}
        omega[references.REFERENCES[name].branch] += scale
        return sample(needs, omega, model)

    plain, guided = run(0), run(1)
    wanted = sample({"null": {}}, np.zeros(8), model)
    np.testing.assert_allclose(plain, wanted, atol=1e-6)
    assert not np.allclose(plain, guided, atol=1e-2)
    assert np.isfinite(guided).all()


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
    with pytest.raises(ValueError, match="omega is for null and the references are"):
        sample(both, {"null": np.ones(8)})
    with pytest.raises(ValueError, match="unknown reference 'nul': did you mean"):
        sample({"nul": {}}, np.ones(8))
