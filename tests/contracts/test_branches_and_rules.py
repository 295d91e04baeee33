"""Branches that draw noise, that use others, and rules that stop guiding."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import worlds

from progguide_jax.diffusion import noise, prediction, samplers, solvers
from progguide_jax.guidance import rules

LABEL = jnp.arange(6) % 2


def branches(**others):
    return {"cond": worlds.model().branch(LABEL), **others}


def sample(given, omega, x_T=None, rule=None, **kwargs):
    plan = solvers.make(kwargs.pop("solver", "ddim"))(worlds.grid())
    x_T = worlds.start() if x_T is None else x_T
    return samplers.solve(
        given, x_T, plan, omega=omega, rule=rule, key=jax.random.key(0), **kwargs
    )


def noisy(size):
    """eps of the model plus noise that is another at each evaluation."""

    def fn(x, level, label, keys):
        z = noise.initial_noise(keys, x.shape[1:], x.dtype)
        return worlds.curved(x, level, label) + size * z

    return prediction.Branch(jax.tree_util.Partial(fn), LABEL, random=True)


def test_a_random_branch_has_the_noise_of_its_images():
    """Image 4 does not depend on its neighbours, and the noise is not the same twice:
    one with all its noise at the first step would differ by what eight draws give."""
    whole = sample(branches(null=noisy(1.0)), np.ones(8))
    given = {
        "cond": worlds.model().branch(LABEL[4:5]),
        "null": noisy(1.0),
    }
    given["null"] = prediction.Branch(given["null"].fn, LABEL[4:5], random=True)
    keys = samplers.image_keys(jax.random.key(0), jnp.arange(6))[4:5]
    plan = solvers.ddim()(worlds.grid())
    alone = samplers.solve(given, worlds.start()[4:5], plan, omega=np.ones(8), key=keys)
    np.testing.assert_allclose(whole[4:5], alone, atol=2e-5)
    assert not np.allclose(whole, sample(branches(null=noisy(0.0)), np.ones(8)))


def test_the_noise_is_new_at_each_evaluation_and_for_each_branch():
    seen = []

    def fn(x, level, label, keys):
        z = noise.initial_noise(keys, x.shape[1:], x.dtype)
        jax.debug.callback(lambda z: seen.append(np.asarray(z)), z)
        return worlds.curved(x, level, label) + z

    pair = {
        name: prediction.Branch(jax.tree_util.Partial(fn), LABEL, random=True)
        for name in ("null", "guide")
    }
    omega = {"null": np.ones(8), "guide": np.ones(8)}
    jax.block_until_ready(sample(branches(**pair), omega))
    jax.effects_barrier()
    assert len({z.tobytes() for z in seen}) == 16


@pytest.mark.parametrize("double", [False, True])
def test_a_branch_that_uses_another(double):
    """p_ref = p_c - d: omega adds omega d to eps, at every x it is asked for."""

    def fn(x, level, label, given):
        return given["cond"].eps - 0.1

    shifted = prediction.Branch(jax.tree_util.Partial(fn), LABEL, uses=("cond",))
    model = worlds.model(lambda x, level, label: worlds.curved(x, level, label) + 0.2)
    ours = sample(branches(null=shifted), np.full(8, 2.0), double_batch=double)
    given = {"cond": model.branch(LABEL), "null": model.branch(LABEL)}
    np.testing.assert_allclose(ours, sample(given, np.zeros(8)), atol=1e-4)


def test_a_branch_that_uses_one_that_is_not_there():
    lost = prediction.Branch(jax.tree_util.Partial(worlds.curved), LABEL, uses=("u",))
    with pytest.raises(ValueError, match="'null' uses the prediction of 'u': add"):
        sample(branches(null=lost), np.ones(8))


def test_a_rule_that_stops_guiding():
    """Three steps of CFG and then none, image by image: as an omega that is 0 there,
    and where no image is guided any more one evaluation a step."""

    def fn(evaluate, step, carry):
        c, u = evaluate("cond", "null")
        guided = step.mix(lambda c, u: c + step.omega * (c - u), c, u)
        return guided, carry - 1

    left = jnp.array([3, 3, 5, 3, 0, 3])
    rule = rules.Rule({}, fn, lambda x_T: left, active=lambda carry: carry > 0)
    null = worlds.model().branch(jnp.full(6, 2))
    ours, trace = sample(branches(null=null), np.ones(8), rule=rule, trace=True)
    steps = np.arange(8)[:, None] < np.asarray(left)
    wanted = sample(branches(null=null), 1.0 * steps)
    np.testing.assert_allclose(ours, wanted, atol=1e-6)
    np.testing.assert_array_equal(trace.evaluations, [2] * 5 + [1] * 3)
    np.testing.assert_allclose(trace.applied["null"], steps, atol=1e-4)


def test_a_memory_and_an_omega_of_two_signs(caplog):
    null = worlds.model().branch(jnp.full(6, 2))
    for omega in (np.ones(8), -0.5 * np.ones(8)):
        sample(branches(null=null), omega, rule=rules.apg())
    sample(branches(null=null), np.linspace(-0.5, 1, 8))
    sample(branches(null=null), np.linspace(-0.5, 1, 8), rule=rules.apg(momentum=0.0))
    assert not caplog.text
    sample(branches(null=null), np.linspace(-0.5, 1, 8), rule=rules.apg())
    assert "omega changes its sign and the rule remembers" in caplog.text
