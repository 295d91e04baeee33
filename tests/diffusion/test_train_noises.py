"""Student-t noise against its law, and what is learnt from it against quadrature."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from progguide_jax.diffusion import train_noises

NU, STD, SIGMA, RADIUS = 4.0, 0.3, 0.7, 2.5  # x = x0 + SIGMA n, x0 ~ N(0, STD^2 I)


def quadrature():
    """(score, naive) at RADIUS in d = 2, along the radius: x is a mixture over kappa of
    N(0, STD^2 + SIGMA^2 / kappa); naive is Tweedie's (E[x0 | x] - x) / SIGMA^2."""
    kappa = stats.chi2(NU).ppf((np.arange(20_000) + 0.5) / 20_000) / NU
    v = STD**2 + SIGMA**2 / kappa
    weight = np.exp(-(RADIUS**2) / (2 * v)) / v
    weight /= weight.sum()
    score = -np.sum(weight * RADIUS / v)
    x0 = np.sum(weight * RADIUS * STD**2 / v)
    return score, (x0 - RADIUS) / SIGMA**2


def test_the_score_that_is_aimed_at():
    assert quadrature() == pytest.approx((-1.867, -4.76), abs=3e-3)


@pytest.mark.parametrize(
    "count, limit", [(2**19, 0.03), pytest.param(2**22, 0.01, marks=pytest.mark.slow)]
)
def test_what_the_loss_makes_a_network_learn_is_the_score(count, limit):
    """The minimiser of a squared error is the mean given x: of the draws that come to
    lie near RADIUS, that of eps is -SIGMA times the score, and that of n, which a
    network of Gaussian noise learns, is far from it."""
    n, eps = map(np.asarray, train_noises.student_t(NU)(jax.random.key(0), (count, 2)))
    x0 = STD * np.random.default_rng(0).normal(size=n.shape)
    x = x0 + SIGMA * n
    r = np.linalg.norm(x, axis=1)
    near = np.abs(r - RADIUS) < 0.05
    score, naive = quadrature()
    for what, wanted in ((eps, score), (n, naive)):
        along = np.sum(what * x, 1)[near] / r[near]
        error = along.std() / np.sqrt(near.sum())
        assert error < limit
        assert abs(along.mean() + SIGMA * wanted) < 4 * error + 0.01


@pytest.mark.parametrize(("nu", "shape"), [(4.0, (4, 4, 3)), (1.0, (5,))])
def test_its_law(nu, shape):
    """|n|^2 / d is Fisher's F(d, nu); directions are even; eps follows from n."""
    n, eps = train_noises.make("student_t", degrees=nu)(
        jax.random.key(1), (4000, *shape)
    )
    assert n.shape == eps.shape == (4000, *shape)
    n, eps = (np.asarray(a, np.float64).reshape(4000, -1) for a in (n, eps))
    d = n.shape[1]
    square = np.square(n).sum(1)
    assert stats.kstest(square / d, stats.f(d, nu).cdf).pvalue > 1e-3
    u = n / np.sqrt(square)[:, None]
    assert np.abs(u.mean(0)).max() < 4.5 / np.sqrt(4000 * d)
    np.testing.assert_allclose(eps, ((nu + d) / (nu + square))[:, None] * n, rtol=1e-5)


def test_gaussian_noise_is_what_it_was():
    n, eps = train_noises.make("gaussian")(jax.random.key(2), (3, 4))
    np.testing.assert_array_equal(n, jax.random.normal(jax.random.key(2), (3, 4)))
    assert eps is n
    many = train_noises.student_t(1e6)(jax.random.key(2), (3, 4))
    np.testing.assert_allclose(many, jnp.stack([n, n]), rtol=2e-2)


@pytest.mark.parametrize("degrees", [0.0, -1.0, float("inf"), float("nan")])
def test_degrees_that_make_no_sense(degrees):
    with pytest.raises(ValueError, match="degrees must be finite and positive"):
        train_noises.student_t(degrees)
