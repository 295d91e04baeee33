import jax.numpy as jnp
import numpy as np
import pytest

from progguide_jax.diffusion import process
from progguide_jax.guidance import rules

NS = process.ddpm_linear()


def draw(seed, dtype=np.float32):
    """p_c, p_u and x_t, each [3,4,4,2]."""
    arrays = np.random.default_rng(seed).normal(size=(3, 3, 4, 4, 2)).astype(dtype)
    return [jnp.asarray(a) for a in arrays]


def apply(p_c, p_u, x_t, omega, carry=None):
    t, step = jnp.int32(500), jnp.int32(0)
    context = rules.Context(x_t, t, jnp.asarray(omega, x_t.dtype), step)
    return rules.cfg()(rules.Predictions(p_c, p_u), context, carry)


def test_cfg_by_hand():
    p_c, p_u = jnp.array([[3.0]]), jnp.array([[1.0]])
    for omega, expected in {0.0: 3.0, -1.0: 1.0, 0.5: 4.0, 2.0: 7.0}.items():
        eps, _ = apply(p_c, p_u, p_c, omega)
        assert eps.item() == expected


def test_neutral_settings():
    p_c, p_u, x_t = draw(0)
    np.testing.assert_array_equal(apply(p_c, p_u, x_t, 0.0)[0], p_c)
    np.testing.assert_allclose(apply(p_c, p_u, x_t, -1.0)[0], p_u, atol=1e-6)
    np.testing.assert_array_equal(apply(p_c, p_c, x_t, 7.0)[0], p_c)


def test_a_halved_batch_gives_the_same_halves():
    p_c, p_u, x_t = draw(1)
    omega = jnp.array([0.1, 2.0, -0.5])[:, None, None, None]
    whole, _ = apply(p_c, p_u, x_t, omega)
    for s in (slice(0, 1), slice(1, 3)):
        part, _ = apply(p_c[s], p_u[s], x_t[s], omega[s])
        np.testing.assert_array_equal(part, whole[s])


@pytest.mark.parametrize("kind", ["x0", "v"])
def test_cfg_commutes_with_the_parametrisation(x64, kind):
    p_c, p_u, x_t = draw(2, np.float64)
    t = jnp.array([3, 400, 999])
    to = {"x0": process.to_x0, "v": process.to_v}[kind]
    there = apply(to(NS, x_t, t, p_c, "eps"), to(NS, x_t, t, p_u, "eps"), x_t, 1.7)[0]
    eps = process.to_eps(NS, x_t, t, there, kind)
    np.testing.assert_allclose(eps, apply(p_c, p_u, x_t, 1.7)[0], rtol=1e-9)


def test_the_carry_passes_through_and_the_rule_is_one_object():
    p_c, p_u, x_t = draw(3)
    assert apply(p_c, p_u, x_t, 1.0, "state")[1] == "state"
    assert rules.cfg() is rules.cfg()  # or every call of `sample` would compile
