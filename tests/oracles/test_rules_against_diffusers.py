"""Rules beside the guiders of diffusers, which take what a network predicts."""

import jax.numpy as jnp
import numpy as np
import pytest

from progguide_jax.diffusion import prediction
from progguide_jax.guidance import rules
from progguide_jax.guidance.rules import spaces

pytestmark = pytest.mark.slow
ALPHA, SIGMA, W = 0.6, 0.8, 7.5
GUIDERS = {  # rule: (settings of ours, the guider, its settings)
    "cfg_zero": (
        {}, "ClassifierFreeZeroStarGuidance", {"zero_init_steps": 0}),
    "tcfg": ({}, "TangentialClassifierFreeGuidance", {}),
    "mambo_g": ({"alpha": 0.7}, "MagnitudeAwareGuidance", {"alpha": 0.7}),
    "rescale": ({"phi": 0.6}, "ClassifierFreeGuidance", {"guidance_rescale": 0.6}),
}  # fmt: skip


def step_of(x, space):
    return prediction.Step(
        x=x, t=500.0, alpha=ALPHA, sigma=SIGMA, alpha_next=0.8, sigma_next=0.6,
        weights={"null": jnp.asarray(W - 1)}, index=0, keys=None,
        predicts="eps" if space == "flow" else space,
    )  # fmt: skip


def ours(rule, space, x, c, u):
    """The result of a rule on these predictions of a network, as it says them."""
    step = step_of(jnp.asarray(x), space)

    def evaluate(*names):
        raw = {"cond": c, "null": u}
        return [spaces.back(step, jnp.asarray(raw[name]), space) for name in names]

    return spaces.of(step, rule(evaluate, step, None)[0], space)


def theirs(guider, settings, c, u):
    torch = pytest.importorskip("torch")
    guiders = pytest.importorskip("diffusers.guiders")
    made = getattr(guiders, guider)(**settings)
    made.set_state(step=0, num_inference_steps=10, timestep=torch.tensor(500))
    return made.forward(torch.tensor(c), torch.tensor(u)).pred.numpy()


@pytest.fixture
def images(x64):
    """x, p_c, p_u [4,8,8,3], near each other as predictions are."""
    x, c, d = np.random.default_rng(0).normal(size=(3, 4, 8, 8, 3))
    return x, c, c + 0.3 * d


@pytest.mark.parametrize("space", ["flow", "eps"])
@pytest.mark.parametrize("name", list(GUIDERS))
def test_a_rule_is_its_guider(name, space, images):
    settings, guider, others = GUIDERS[name]
    rule = rules.make(name, space=space, **settings)
    # as tokens: one of them knows no norm over the three axes of an image
    tokens = (a.reshape(4, 64, 3) for a in images[1:])
    expected = theirs(guider, {"guidance_scale": W} | others, *tokens)
    expected = expected.reshape(4, 8, 8, 3)
    found = ours(rule, space, *images)
    np.testing.assert_allclose(found, expected, rtol=2e-5, atol=2e-5)
    assert (
        np.abs(expected - (images[1] + (W - 1) * (images[1] - images[2]))).max() > 0.01
    )


def test_apg_is_its_guider(images):
    """Counted from x0_c, as here; a second step, which has a momentum."""
    torch = pytest.importorskip("torch")
    guiders = pytest.importorskip("diffusers.guiders")
    made = guiders.AdaptiveProjectedGuidance(
        guidance_scale=W - 1, adaptive_projected_guidance_momentum=-0.5,
        adaptive_projected_guidance_rescale=2.5, eta=0.3, use_original_formulation=True,
    )  # fmt: skip
    # as it does itself when it takes the inputs of the first step
    made.momentum_buffer = guiders.adaptive_projected_guidance.MomentumBuffer(-0.5)
    x, first_c, first_u = images
    rule = rules.apg(momentum=-0.5, norm_threshold=2.5, eta=0.3)
    step, carry = step_of(jnp.asarray(x), "x0"), rule.init(jnp.asarray(x))
    pairs = [(first_c, first_u), (first_c + x, first_u - 0.1 * x)]
    for k, (c, u) in enumerate(pairs):
        made.set_state(step=k, num_inference_steps=10, timestep=torch.tensor(500 - k))
        expected = made.forward(torch.tensor(c), torch.tensor(u)).pred.numpy()
        pair = [step.from_x0(jnp.asarray(a)) for a in (c, u)]
        found, carry = rule(lambda *_, pair=pair: pair, step, carry)
        np.testing.assert_allclose(found.x0, expected, rtol=2e-5, atol=2e-5)


@pytest.mark.parametrize("parallel", [1.0, 0.4])
def test_fdg_is_its_guider(parallel, images):
    """Counted from x0_c, as here: its other form counts from x0_u."""
    pytest.importorskip("kornia")
    settings = {
        "guidance_scales": [9.0, 4.0],
        "parallel_weights": [parallel] * 2,
        "use_original_formulation": True,
    }
    first = (np.moveaxis(a, -1, 1).copy() for a in images[1:])
    expected = theirs("FrequencyDecoupledGuidance", settings, *first)
    rule = rules.fdg(high=9 / (W - 1), low=4 / (W - 1), parallel=parallel)
    found = np.moveaxis(ours(rule, "x0", *images), -1, 1)
    np.testing.assert_allclose(found, expected, rtol=2e-5, atol=2e-5)
