"""Functions that read arrays from around them: never stale, never compiled twice."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from progguide_jax.diffusion import (
    closures,
    levels,
    prediction,
    process,
    samplers,
    solvers,
)
from progguide_jax.guidance import rules

NS = process.ddpm_linear()
X_T = jax.random.normal(jax.random.key(0), (4, 3))
LABEL = np.arange(4) % 2
TS = samplers.timesteps(1000, 5)
PARAMS = {"w": jnp.full((1, 3), 0.5)}


def sample(eps_fn, **kwargs):
    return samplers.sample(
        eps_fn,
        X_T,
        cond=LABEL,
        null_cond=2,
        noise_schedule=NS,
        timesteps=TS,
        omega=np.full(5, 0.5),
        **kwargs,
    )


def network(params, x, t, label):
    return params["w"] * x + 0.1 * jnp.asarray(label, x.dtype)[:, None]


def compilations(run) -> int:
    before = samplers._jitted._cache_size()
    run()
    return samplers._jitted._cache_size() - before


def test_parameters_bound_anew_are_seen():
    """Of a jax array, of a numpy array changed in place, of a Python number, and of a
    dict whose entry was replaced; against the same parameters as an argument."""
    p, scale = {"w": jnp.full((1, 3), 0.5)}, 1.0
    own = np.full((1, 3), 0.25, np.float32)

    def eps_fn(x, t, label):
        return scale * network(p, x, t, label) + own * x

    def expected():
        return sample(
            lambda q, x, t, c: q[1] * network(q[0], x, t, c) + q[2] * x,
            params=(p, scale, own),
        )

    np.testing.assert_allclose(sample(eps_fn), expected(), rtol=1e-5)
    p = {"w": jnp.full((1, 3), 0.25)}
    np.testing.assert_allclose(sample(eps_fn), expected(), rtol=1e-5)
    p["w"] = jnp.full((1, 3), 0.125)
    np.testing.assert_allclose(sample(eps_fn), expected(), rtol=1e-5)
    own[0, 1] = 0.75
    np.testing.assert_allclose(sample(eps_fn), expected(), rtol=1e-5)
    scale = 0.5
    np.testing.assert_allclose(sample(eps_fn), expected(), rtol=1e-5)


def test_the_same_function_made_anew_is_not_compiled_again():
    p = {"w": jnp.full((1, 3), 0.3)}
    table = np.linspace(0, 1, 3)[None].astype(np.float32)

    def run():
        sample(lambda x, t, c: network(p, x, t, c) + table)

    assert compilations(run) == 1
    assert compilations(run) == 0
    p = {"w": jnp.full((1, 3), 0.3)}  # equal, but other arrays
    assert compilations(run) == 1


def test_other_parameters_as_an_argument_are_not_compiled_again():
    def run(w):
        return lambda: sample(network, params={"w": jnp.full((1, 3), w)})

    assert compilations(run(0.1)) == 1
    assert compilations(run(0.2)) == 0


def test_arrays_that_a_compiled_inner_function_reads_count_too():
    def key(p):
        inner = jax.jit(lambda x: p * x)
        return closures.by_trace(lambda x: inner(x) + 1, X_T)

    p = jnp.full((1, 3), 0.3)
    assert key(p) == key(p) and hash(key(p)) == hash(key(p))
    assert key(p) != key(jnp.full((1, 3), 0.3))


def test_a_rule_is_known_by_the_numbers_that_it_reads():
    """Against CFG at that weight; a rule made anew is not compiled again."""
    strength = 0.5

    def rule(evaluate, step, carry):
        c, u = evaluate("cond", "null")
        return step.mix(lambda c, u: c + strength * (c - u), c, u), carry

    def cfg():
        return samplers.sample(
            network, X_T, params=PARAMS, cond=LABEL, null_cond=2, noise_schedule=NS,
            timesteps=TS, omega=np.full(5, strength),
        )  # fmt: skip

    first = sample(network, params=PARAMS, rule=rule)
    np.testing.assert_allclose(first, cfg(), rtol=1e-5)
    strength = 0.25
    np.testing.assert_allclose(
        sample(network, params=PARAMS, rule=rule), cfg(), rtol=1e-5
    )

    def anew():
        def same(evaluate, step, carry):
            c, u = evaluate("cond", "null")
            return step.mix(lambda c, u: c + strength * (c - u), c, u), carry

        sample(network, params=PARAMS, rule=same)

    assert (compilations(anew), compilations(anew)) == (1, 0)


def test_a_changed_array_that_jax_has_copied_is_said():
    """Of float64 jax keeps a copy in float32 as long as a program has it."""
    own = np.full((1, 3), 0.25)

    def eps_fn(*args):
        return own * args[-3]

    sample(eps_fn)
    own[0, 1] = 0.75
    for given in ({}, {"params": PARAMS}):
        with pytest.raises(
            ValueError, match=r"float64\[1, 3\] .* was changed in place"
        ):
            sample(eps_fn, **given)
    own = own.copy()
    other = sample(lambda params, x, t, c: params * x, params=jnp.asarray(own))
    np.testing.assert_allclose(sample(eps_fn), other, rtol=1e-5)


scale, factors = jnp.float32(1.0), {"w": jnp.float32(1.0)}  # of a notebook's cell


def helper(x):
    return scale * factors["w"] * x


class Scaled(nn.Module):
    @nn.compact
    def __call__(self, x, t, label):
        return helper(nn.Dense(3)(x))


NET = Scaled()
WEIGHTS = NET.init(jax.random.key(0), X_T, None, None)


def solve(fn, weights):
    """By branches, whose function stands in a Partial."""
    network = jax.tree_util.Partial(fn, weights)
    branches = {k: prediction.Branch(network, LABEL) for k in ("cond", "null")}
    plan = solvers.ddim()(levels.from_timesteps(NS, TS))
    return samplers.solve(branches, X_T, plan, omega=np.full(5, 0.5))


def at_level(params, x, level, label):
    return NET.apply(params, x, level.t, label)


@pytest.mark.parametrize(
    "run",
    [
        lambda weights: sample(Scaled().apply, params=weights),
        lambda weights: sample(lambda *args: NET.apply(*args), params=weights),
        lambda weights: solve(at_level, weights),
        lambda weights: solve(functools.partial(at_level), weights),
    ],
    ids=["method", "lambda", "branch", "partial"],
)
def test_what_is_read_beside_the_parameters_is_never_stale(run, monkeypatch):
    """A global, or an entry of one, bound anew: half of the one is half of the other,
    and of the last layer's weights. The same function made anew is no new program."""
    halves = jax.tree.map(lambda w: w / 2, WEIGHTS)
    half, whole = run(halves), run(WEIGHTS)
    assert compilations(lambda: run(WEIGHTS)) == 0
    for variables, name in ((globals(), "scale"), (factors, "w")):
        monkeypatch.setitem(variables, name, jnp.float32(0.5))
        np.testing.assert_allclose(run(WEIGHTS), half, rtol=1e-5)
        monkeypatch.undo()
    np.testing.assert_array_equal(run(WEIGHTS), whole)
    assert np.abs(whole - half).max() > 1e-3


def test_a_rule_with_settings_and_a_projection_are_not_stale(monkeypatch):
    def guided(evaluate, step, carry, strength):
        c, u = evaluate("cond", "null")
        return step.mix(lambda c, u: c + strength * scale * (c - u), c, u), carry

    def halved(x0, step):
        return scale * x0

    own = dict(rule=rules.Rule({"strength": 0.5}, guided), projection=halved)
    sample(network, params=PARAMS, **own)
    monkeypatch.setitem(globals(), "scale", jnp.float32(0.5))
    found = sample(network, params=PARAMS, **own)

    def quarter(evaluate, step, carry):
        c, u = evaluate("cond", "null")
        return step.mix(lambda c, u: c + 0.25 * (c - u), c, u), carry

    by_hand = dict(rule=quarter, projection=lambda x0, step: 0.5 * x0)
    np.testing.assert_allclose(
        found, sample(network, params=PARAMS, **by_hand), rtol=1e-5
    )


def test_any_container_is_read():
    """One that holds itself, one whose keys have no order, one that has no hash."""
    held = {1: [0.5], "a": {2.0}, None: (np.ones(2), print)}
    held["itself"] = held

    def key():
        return closures.by_variables(lambda x: (x, held), objects=True)

    for _ in range(1200):  # nothing is left of each, such as a depth of recursion
        assert key() == key()
    before = key()
    held[1][0] = 0.25
    assert key() != before


def test_what_a_trace_itself_changes_is_not_part_of_a_function():
    seen, count = [], 0

    def eps_fn(params, x, t, label):
        nonlocal count
        count += 1
        seen.append(x.shape)
        return network(params, x, t, label)

    def run():
        sample(eps_fn, params=PARAMS)

    assert compilations(run) == 1
    assert compilations(run) == 0


def test_what_is_no_function_is_no_rule():
    with pytest.raises(ValueError, match="a rule is a function .* got str"):
        sample(network, params=PARAMS, rule="cfg")


class Halver:
    """A rule that is an object."""

    strength = 0.5

    def __call__(self, evaluate, step, carry):
        c, u = evaluate("cond", "null")
        return step.mix(lambda c, u: c + self.strength * (c - u), c, u), carry


def test_a_rule_that_reads_an_object_or_another_function_is_not_stale():
    def at(strength):
        omega = np.full(5, strength)
        run = dict(cond=LABEL, null_cond=2, noise_schedule=NS, timesteps=TS)
        return samplers.sample(network, X_T, params=PARAMS, omega=omega, **run)

    strength = 0.5

    def helper():
        return strength

    def calls_another(evaluate, step, carry):
        c, u = evaluate("cond", "null")
        return step.mix(lambda c, u: c + helper() * (c - u), c, u), carry

    halver = Halver()
    for strength in (0.5, 0.25):
        halver.strength = strength
        for rule in (halver, halver.__call__, calls_another):
            guided = sample(network, params=PARAMS, rule=rule)
            np.testing.assert_allclose(guided, at(strength), rtol=1e-5)


strength = 0.5  # of a notebook's cell


def of_a_notebook(evaluate, step, carry):
    c, u = evaluate("cond", "null")
    return step.mix(lambda c, u: c + strength * (c - u), c, u), carry


def test_a_global_that_only_an_inner_function_of_a_rule_names_is_seen(monkeypatch):
    def guided():
        return np.asarray(sample(network, params=PARAMS, rule=of_a_notebook))

    first = guided()
    monkeypatch.setitem(globals(), "strength", 0.25)
    second = guided()
    run = dict(cond=LABEL, null_cond=2, noise_schedule=NS, timesteps=TS, params=PARAMS)
    for weight, found in ((0.5, first), (0.25, second)):
        cfg = samplers.sample(network, X_T, omega=np.full(5, weight), **run)
        np.testing.assert_allclose(found, cfg, rtol=1e-5)
