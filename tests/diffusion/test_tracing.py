"""What a trace says against float64 arithmetic on the paths of an exact model."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from progguide_jax.analytic import gaussians
from progguide_jax.diffusion import levels, process, samplers, solvers
from progguide_jax.guidance import rules

NS = process.ddpm_linear()
ZERO_SNR = process.zero_terminal_snr(NS)
MODEL = gaussians.TwoGaussians(0.1, 0.25, (3, 4))  # classes that overlap
LABEL = np.array([0, 1, 0, 1])
NULL = np.full(4, gaussians.NULL)


def run(rule, omega, ns=NS, kind="eps", **others):
    """(plan, x at the levels [S+1,B,...], trace) of six trailing steps."""
    grid = levels.from_timesteps(ns, levels.timesteps(1000, 6, "trailing"))
    plan = solvers.ddim()(grid)
    labels = {"cond": LABEL, "null": NULL, **others}
    model = MODEL.system(ns, kind)
    branches = {name: model.branch(jnp.asarray(k)) for name, k in labels.items()}
    x_T = jax.random.normal(jax.random.key(0), (4, 3, 4), jnp.float64)
    _, path, trace = samplers.solve(
        branches, x_T, plan, omega=omega, rule=rule, trajectory=True, trace=True
    )
    return plan, np.asarray(path), jax.device_get(trace)


def flat(a):
    return np.asarray(a).reshape(len(a), -1)


@pytest.mark.parametrize("rule", [rules.cfg(), rules.cfgpp()])
@pytest.mark.parametrize(("ns", "kind"), [(NS, "eps"), (ZERO_SNR, "v")])
def test_the_weight_applied_is_the_one_asked_for(rule, ns, kind, x64):
    """Of CFG++ too, which returns the guided x0 and an unguided eps; and at pure noise,
    where every eps is x itself and only x0 shows what guidance did."""
    omega = -np.array([0.9, 0.7, 0.5, 0.3, 0.2, 0.1])
    _, _, trace = run(rule, omega, ns, kind)
    for row in (trace.omega["null"], trace.applied["null"]):
        np.testing.assert_allclose(row, np.repeat(omega[:, None], 4, 1), atol=1e-9)


@pytest.mark.parametrize(("ns", "kind"), [(NS, "eps"), (ZERO_SNR, "v"), (NS, "x0")])
def test_size_and_angle_are_of_what_the_network_predicts(ns, kind, x64):
    plan, path, trace = run(rules.cfg(), np.full(6, 0.5), ns, kind)
    for n, (x, t) in enumerate(zip(path, plan.t, strict=False)):
        level = ns.level(jnp.full(4, int(t)), jnp.float64)
        model = MODEL.system(ns, kind)
        c, u = (flat(model.branch(k).fn(x, level, k)) for k in (LABEL, NULL))
        norm = np.linalg.norm
        np.testing.assert_allclose(trace.delta["null"][n], norm(c - u, axis=1), 1e-7)
        with np.errstate(invalid="ignore"):  # v of the mixture is 0 at pure noise
            cosine = np.sum(c * u, 1) / norm(c, axis=1) / norm(u, axis=1)
        np.testing.assert_allclose(trace.cosine["null"][n], cosine, 1e-7)
        assert trace.t[n] == t and trace.evaluations[n] == 2


def test_a_step_without_guidance_has_one_evaluation_and_no_difference(x64):
    omega = np.array([0, 0, 1, 1, 0, 1.0])
    _, _, trace = run(rules.cfg(), omega)
    np.testing.assert_array_equal(trace.evaluations, [1, 1, 2, 2, 1, 2])
    off = omega == 0
    assert np.all(trace.applied["null"][off] == 0)
    assert np.all(np.isnan(trace.delta["null"][off]))
    assert np.all(np.isnan(trace.cosine["null"]) == off[:, None])


def test_an_image_without_guidance_among_others_has_applied_none(x64):
    omega = np.zeros((6, 4))
    omega[:, 1] = 2
    _, _, trace = run(rules.cfg(), omega)
    np.testing.assert_allclose(trace.applied["null"], omega, atol=1e-9)


@pytest.mark.slow
def test_of_several_references_of_which_only_the_mean_is_remembered(x64):
    omega = {"null": np.full(6, 0.5), "guide": np.full(6, 0.25)}
    _, _, trace = run(rules.cfg_cache(every=2), omega, guide=1 - LABEL)
    for name, values in omega.items():
        wanted = np.repeat(values[:, None], 4, 1)
        np.testing.assert_allclose(trace.applied[name], wanted, rtol=1e-6)
    np.testing.assert_array_equal(trace.evaluations, [3, 1] * 3)


def test_several_references_are_told_apart(x64):
    omega = {"null": np.full(6, 0.5), "guide": np.full(6, 0.25)}
    _, _, trace = run(rules.cfg(), omega, guide=1 - LABEL)
    total = 0.5 * trace.delta["null"] + 0.25 * trace.delta["guide"]
    sizes = (trace.delta[name] * trace.applied[name] for name in omega)
    # both differences lie on the class axis: only their sum is determined
    np.testing.assert_allclose(sum(sizes), total, rtol=1e-6)
