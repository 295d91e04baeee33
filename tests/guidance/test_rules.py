"""Rules by hand: one step, with predictions that are given."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from progguide_jax.diffusion import asking, levels, prediction, process, solvers
from progguide_jax.guidance import rules

NS = process.ddpm_linear()
ALPHA, SIGMA = 0.6, 0.8


def apply(rule, x, carry=None, omega=1.0, predicts="eps", **eps):
    """(Prediction, carry) of one step at alpha 0.6; eps: of each branch."""
    x = jnp.asarray(x)
    omega = jnp.asarray(omega, x.dtype)
    step = prediction.Step(
        x=x, t=500.0, alpha=ALPHA, sigma=SIGMA, alpha_next=0.8, sigma_next=0.6,
        weights={n: omega for n in eps if n != "cond"}, index=0, keys=None,
        predicts=predicts,
    )  # fmt: skip

    def evaluate(*names):
        return [step.from_eps(jnp.asarray(eps[name])) for name in names]

    return rule(evaluate, step, carry)


def draw(seed):
    """p_c, p_u and x_t, each [3,4,4,2]."""
    return np.random.default_rng(seed).normal(size=(3, 3, 4, 4, 2)).astype(np.float32)


@pytest.mark.parametrize("predicts", ["eps", "v"])
def test_cfg_by_hand(predicts):
    for omega, expected in {-1.0: 1.0, 0.5: 4.0, 2.0: 7.0}.items():
        found, _ = apply(
            rules.cfg(), [[1.0]], omega=omega, cond=[[3.0]], null=[[1.0]],
            predicts=predicts,
        )  # fmt: skip
        assert found.eps.item() == pytest.approx(expected, rel=1e-6)
        assert found.x0.item() == pytest.approx((1 - 0.8 * expected) / 0.6, rel=1e-5)


def test_cfg_against_two():
    found, _ = apply(
        rules.cfg(), [[1.0]], omega=2.0, cond=[[3.0]], null=[[1.0]], guide=[[2.5]]
    )
    assert found.eps.item() == pytest.approx(3 + 2 * (3 - 1) + 2 * (3 - 2.5), rel=1e-6)


def test_the_carry_passes_through_cfg():
    assert apply(rules.cfg(), [[1.0]], "mine", cond=[[3.0]], null=[[1.0]])[1] == "mine"


def test_apg_by_hand():
    """x = 0, so x0 = -4/3 eps. x0_c = (4, 0), x0_u = (1, -4): g = (3, 4), of norm 5.

    Cut to 2.5: (1.5, 2), along x0_c 1.5, across it (0, 2). omega 2, eta 0.5:
    (4, 0) + 2 ((0, 2) + 0.5 (1.5, 0)) = (5.5, 4).
    """
    eps = dict(cond=[[-3.0, 0.0]], null=[[-0.75, 3.0]])
    rule = rules.apg(momentum=-0.5, norm_threshold=2.5, eta=0.5)
    x, zero = [[0.0, 0.0]], jnp.zeros((1, 2))
    found, carry = apply(rule, x, zero, 2.0, **eps)
    np.testing.assert_allclose(found.x0, [[5.5, 4.0]], rtol=1e-5)
    np.testing.assert_allclose(found.eps, -0.75 * found.x0, rtol=1e-5)
    # what is remembered is g before it is cut
    np.testing.assert_allclose(carry, [[3.0, 4.0]], rtol=1e-5)
    # the next g is (3, 4) - 0.5 (3, 4), of norm 2.5: not cut
    found, carry = apply(rule, x, carry, 2.0, **eps)
    np.testing.assert_allclose(carry, [[1.5, 2.0]], rtol=1e-5)
    np.testing.assert_allclose(found.x0, [[5.5, 4.0]], rtol=1e-5)


def test_apg_removes_what_is_parallel():
    p_c, p_u, x = draw(0)
    rule = rules.apg(momentum=0.0, eta=0.0)
    found, _ = apply(rule, x, jnp.zeros_like(x), 1.7, cond=p_c, null=p_u)
    x0_c = (x - SIGMA * p_c) / ALPHA
    moved = np.asarray(found.x0) - x0_c
    across = np.sum(moved * x0_c, (1, 2, 3)) / np.sum(x0_c**2, (1, 2, 3))
    np.testing.assert_allclose(across, 0, atol=1e-5)
    assert np.abs(moved).max() > 0.1


def test_apg_of_equal_predictions_is_their_own():
    p_c, _, x = draw(1)
    found, _ = apply(rules.apg(), x, jnp.zeros_like(x), 3.0, cond=p_c, null=p_c)
    np.testing.assert_allclose(found.eps, p_c, atol=1e-5)
    nothing = np.zeros_like(p_c)
    found, _ = apply(rules.apg(), nothing, nothing, 3.0, cond=nothing, null=nothing)
    np.testing.assert_array_equal(found.x0, nothing)


def test_cfgpp_by_hand():
    """lambda = 0.6: x0 of eps_u + 0.6 (eps_c - eps_u) = 2.2, and eps = eps_u = 1."""
    found, _ = apply(rules.cfgpp(), [[1.0]], omega=-0.4, cond=[[3.0]], null=[[1.0]])
    assert found.x0.item() == pytest.approx((1 - 0.8 * 2.2) / 0.6, rel=1e-5)
    assert found.eps.item() == 1.0


def test_the_omega_of_cfgpp_at_one_step():
    """w = lambda a_s s_t / (a_s s_t - s_s a_t); on data lambda = w."""
    grid = levels.from_timesteps(NS, np.array([500, 200]))
    a_t, s_t, a_s, s_s = NS.alpha[500], NS.sigma[500], NS.alpha[200], NS.sigma[200]
    omega = rules.cfgpp_omega(grid, np.array([2.0, 2.0]))
    w = (1 + omega[0]) * a_s * s_t / (a_s * s_t - s_s * a_t)
    assert w == pytest.approx(3.0, rel=1e-12)
    assert omega[1] == pytest.approx(2.0, rel=1e-12)


def two_references(rule, carry=None):
    """eps of one step: 0.5 guided against 0.1 by 2 and against 0.3 by 3."""
    x = jnp.ones((1, 1))
    eps = {"cond": 0.5, "null": 0.1, "guide": 0.3}
    fn = jax.tree_util.Partial(lambda x, level, eps: eps * x)
    made = {name: prediction.Branch(fn, jnp.float32(e)) for name, e in eps.items()}
    step = prediction.Step(
        x=x, t=500.0, alpha=ALPHA, sigma=SIGMA, alpha_next=0.8, sigma_next=0.6,
        weights={"null": jnp.float32(2), "guide": jnp.float32(3)}, index=0, keys=None,
        predicts="eps",
    )  # fmt: skip
    level = process.Level(*(jnp.full(1, v) for v in (500.0, ALPHA, SIGMA)))
    evaluate = asking.Evaluate(asking.share(made), x, level, step, False)
    found, carry = jax.jit(lambda: rule(evaluate, step, carry))()
    return found.eps.item(), carry, evaluate


def test_a_rule_of_one_reference_sees_the_mean_of_several():
    """(2 x 0.1 + 3 x 0.3) / 5 = 0.22, with omega 5, in a rule that reads the reference
    itself; and in one that remembers the difference, each network asked once."""
    found, _, _ = two_references(rules.mambo_g(alpha=2.0, space="eps"))
    wanted = 0.5 + 5 * math.exp(-2 * 0.28 / 0.22) * 0.28
    assert found == pytest.approx(wanted, rel=1e-5)
    found, carry, evaluate = two_references(rules.apg(eta=1.0), jnp.zeros((1, 1)))
    assert found == pytest.approx(0.5 + 5 * 0.28, rel=1e-5)
    assert carry.item() == pytest.approx(-SIGMA * 0.28 / ALPHA, rel=1e-5)
    assert evaluate.count == 3


def test_adaptive_guides_by_the_rule_within_it():
    """Its result, and what it remembers; an image goes on while its cosine is low."""
    x = jnp.ones((2, 2))
    eps = {"cond": [[1.0, 0.0], [1.0, 0.0]], "null": [[0.0, 1.0], [2.0, 0.1]]}
    before = jnp.full((2, 2), 0.5)
    rule = rules.adaptive(threshold=0.5, rule=rules.apg(eta=0.2))

    @jax.jit
    def both():
        alone = apply(rules.apg(eta=0.2), x, before, **eps)
        return alone, apply(rule, x, (jnp.ones(2, bool), before), **eps)

    (wanted, remembered), (found, (guided, inner)) = both()
    np.testing.assert_array_equal(found.x0, wanted.x0)
    np.testing.assert_array_equal(inner, remembered)
    assert guided.tolist() == [True, False] == rule.active((guided, inner)).tolist()


def test_cfg_weighs_each_of_several():
    found, _, _ = two_references(rules.cfg())
    assert found == pytest.approx(0.5 + 2 * 0.4 + 3 * 0.2, rel=1e-6)


def test_weights_of_two_signs_have_no_mean():
    omega = [np.array([1.0, 2.0]), np.array([[0.0, 3.0], [0.0, -0.5]])]
    rules.cfg().check_signs(omega)
    rules.apg().check_signs([omega[0], -1 * np.array([0.0, 0.0])])
    with pytest.raises(
        ValueError, match="at step 1 omega is -0.5 of one .* 2 of anoth"
    ):
        rules.apg().check_signs(omega)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"norm_threshold": 0.0}, "norm_threshold must be positive"),
        ({"momentum": 1.0}, r"momentum must lie in \(-1, 1\)"),
        ({"eta": math.nan}, "eta be finite"),
    ],
)
def test_bad_settings_of_apg(settings, words):
    with pytest.raises(ValueError, match=words):
        rules.apg(**settings)


def test_cfgpp_goes_with_the_solvers_whose_every_step_uses_x0_and_eps():
    """Heun's second stage is made of eps alone, the others' steps of x0 alone."""
    grid = levels.from_timesteps(NS, np.array([800, 500, 200]))
    fit = {name: solvers.make(name)(grid).renoises for name in solvers.names()}
    assert [name for name, fits in fit.items() if fits] == ["ddim", "euler"]
    assert solvers.ddim()(levels.from_timesteps(NS, np.array([500]))).renoises
