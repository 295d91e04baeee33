"""A rule at one step whose predictions are given, and NumPy's words for them."""

import math

import jax.numpy as jnp
import numpy as np

from progguide_jax.diffusion import prediction

ALPHA, SIGMA = 0.6, 0.8
SHAPE = (6, 8, 3)


def apply(rule, x, eps_c, eps_u, omega, index=0, predicts="eps", t=500.0):
    """x0 of one step at alpha 0.6; omega: a number or one an image [B]."""
    x = jnp.asarray(x)
    omega = prediction.per_image(jnp.asarray(omega, x.dtype), x)
    step = prediction.Step(
        x=x, t=t, alpha=ALPHA, sigma=SIGMA, alpha_next=0.8, sigma_next=0.6,
        weights={"null": omega}, index=index, keys=None, predicts=predicts,
    )  # fmt: skip

    def evaluate(*names):
        eps = {"cond": eps_c, "null": eps_u}
        return [step.from_eps(jnp.asarray(eps[name])) for name in names]

    found, carry = rule(evaluate, step, None)
    assert carry is None
    faces = ALPHA * found.x0 + SIGMA * found.eps
    # both belong to the same x
    np.testing.assert_allclose(faces, x, atol=1e4 * np.finfo(x.dtype).eps)
    return np.asarray(found.x0)


def draw(seed=0, shape=SHAPE):
    """x, eps_c, eps_u [3,...]: the two predictions are near each other."""
    rng = np.random.default_rng(seed)
    x, c, d = rng.normal(size=(3, 3, *shape))
    return x, c, c + np.array([0.1, 0.5, 2.0]).reshape(3, *[1] * len(shape)) * d


def x0_of(x, eps):
    return (x - SIGMA * eps) / ALPHA


def v_of(x, eps):
    return ALPHA * eps - SIGMA * x0_of(x, eps)


def flow_of(x, eps):
    return eps - x0_of(x, eps)


def x0_of_v(x, v):
    return ALPHA * x - SIGMA * v


def x0_of_flow(x, f):
    """x = alpha x0 + sigma (f + x0)."""
    return (x - SIGMA * f) / (ALPHA + SIGMA)


SPACES = {  # name: (from eps, back to x0)
    "eps": (lambda x, eps: eps, x0_of),
    "x0": (x0_of, lambda x, x0: x0),
    "v": (v_of, x0_of_v),
    "flow": (flow_of, x0_of_flow),
}


def length(a):
    return math.sqrt(float((a * a).sum()))


def inner(a, b):
    return float((a * b).sum())
