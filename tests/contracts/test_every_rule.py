"""What every rule of the registry owes: a new one is covered by its line."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import worlds

from progguide_jax.diffusion import levels, prediction, process, samplers, solvers
from progguide_jax.guidance import projections, references, rules, schedules

EVERY, SOLVERS = rules.names(), solvers.names()
SHAPES = {"fdg": (6, 8, 2)}  # of one x; what is not here takes any
HEIGHTS = {"mambo_g": 9.0}  # of omega, for those that damp it


def omega_of(name, steps=8):
    """A curve that varies, within the scales that the rule takes."""
    low, high = rules.RULES[name].scales
    curve = HEIGHTS.get(name, 1.0) * np.linspace(0.2, 1.0, steps)
    return curve if high > 0 else curve * max(low, -1) * 0.8


def start(name, dtype=jnp.float32):
    return worlds.start(shape=SHAPES.get(name, (4, 3)), dtype=dtype)


def sample(rule, omega, x_T, label=None, solver="ddim", kind="eps", **kwargs):
    label = jnp.arange(len(x_T)) % 2 if label is None else label
    model = worlds.model(kind=kind, shape=x_T.shape[1:])
    branches = references.branches(model, label, {"null": {}})
    plan = solvers.make(solver)(worlds.grid())
    key = jax.random.key(1)
    return samplers.solve(
        branches, x_T, plan, omega=omega, rule=rule, key=key, **kwargs
    )


@pytest.mark.parametrize("name", EVERY)
def test_its_neutral_setting_its_space_and_its_neighbours(name, x64):
    """One program for what does not change it; one more for a network of v."""
    entry, x_T = rules.RULES[name], start(name, jnp.float64)
    assert entry.as_cfg is not None or entry.as_cond is not None
    if entry.as_cfg is not None:
        omega = np.linspace(-0.3, 0.6 if entry.scales[1] > 0 else 0.0, 8)
        settings, same = entry.as_cfg(worlds.grid(), omega)
        ours = sample(rules.make(name, **settings), same, x_T)
        np.testing.assert_allclose(ours, sample(rules.cfg(), omega, x_T), atol=1e-9)
        assert not np.allclose(ours, sample(rules.cfg(), omega + 0.1, x_T), atol=1e-3)
    rule, omega = rules.make(name), omega_of(name)
    if entry.as_cond is not None:
        ours = sample(rules.make(name, **entry.as_cond), omega, x_T)
        plain = sample(rules.cfg(), 0 * omega, x_T)
        np.testing.assert_allclose(ours, plain, atol=1e-9)
    eps, v = (sample(rule, omega, x_T, kind=kind) for kind in ("eps", "v"))
    np.testing.assert_allclose(v, eps, atol=1e-9)
    # the first three images beside others
    others = jnp.concatenate([x_T[:3], -2 * x_T[3:]])
    beside = sample(rule, omega, others, jnp.array([0, 1, 0, 0, 1, 1]))
    np.testing.assert_allclose(beside[:3], eps[:3], atol=1e-12)
    assert not np.allclose(beside[3:], eps[3:], atol=1e-3)


OF_ONE = [name for name in EVERY if rules.make(name).references == "one"]


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in EVERY if name not in OF_ONE])
def test_several_references(name, x64):
    """At its neutral setting it is cfg, which weighs each by its own; and one reference
    that comes twice is that one, with the sum of the weights."""
    x_T, entry = start(name, jnp.float64), rules.RULES[name]
    label, plan = jnp.arange(6) % 2, solvers.ddim()(worlds.grid())
    model = worlds.model(shape=x_T.shape[1:])
    made = {"cond": model.branch(label), "null": model.branch(0 * label + 2)}

    def run(rule, other, one, two):
        given, omega = (
            made | {"other": model.branch(other)},
            {"null": one, "other": two},
        )
        return samplers.solve(given, x_T, plan, omega=omega, rule=rule)

    omega = 0.5 * omega_of(name)
    if entry.as_cfg is not None and name != "cfg":
        neutral = entry.make(**entry.as_cfg(worlds.grid(), omega)[0])
        both = [run(rule, 1 - label, omega, 0.3 - 0.03 * np.arange(8))
                for rule in (neutral, rules.cfg())]  # fmt: skip
        np.testing.assert_allclose(*both, atol=1e-9)
    twice = run(rules.make(name), 0 * label + 2, 0.4 * omega, 0.6 * omega)
    np.testing.assert_allclose(twice, sample(rules.make(name), omega, x_T), atol=1e-9)


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in EVERY if name != "adaptive"])
def test_within_adaptive(name, x64):
    """Of a cosine that is never reached it is itself, and of one that is always above
    the threshold it guides once: as with an omega that is 0 afterwards."""
    x_T, omega, rule = start(name, jnp.float64), omega_of(name), rules.make(name)
    for threshold, shown in ((np.inf, 8), (-0.999, 1)):
        found, trace = sample(rules.adaptive(threshold, rule), omega, x_T, trace=True)
        wanted = sample(rule, omega * (np.arange(8) < shown), x_T)
        np.testing.assert_allclose(found, wanted, atol=1e-9)
        np.testing.assert_array_equal(trace.evaluations[shown:], np.ones(8 - shown))


@pytest.mark.parametrize("name", OF_ONE)
def test_a_rule_of_one_reference_refuses_two(name):
    branch = worlds.model().branch(jnp.zeros(6, int))
    given = dict.fromkeys(("cond", "null", "guide"), branch)
    omega = dict.fromkeys(("null", "guide"), omega_of(name))
    plan = solvers.ddim()(worlds.grid())
    with pytest.raises(
        ValueError, match=r"one reference and there are 2 \(null, guide"
    ):
        samplers.solve(given, worlds.start(), plan, omega=omega, rule=rules.make(name))


@pytest.mark.slow
@pytest.mark.parametrize("name", EVERY)
def test_a_batch_is_its_halves(name):
    rule, omega = rules.make(name), omega_of(name)
    x_T, label = start(name), jnp.array([0, 1, 1, 0, 0, 1])
    whole = sample(rule, omega, x_T, label)
    halves = [sample(rule, omega, x_T[s], label[s]) for s in (slice(2), slice(2, 6))]
    np.testing.assert_allclose(whole, np.concatenate(halves), atol=2e-5)


@pytest.mark.parametrize(
    "solver", ["ddim", pytest.param("heun", marks=pytest.mark.slow)]
)
@pytest.mark.parametrize("name", EVERY)
def test_an_image_of_omega_0_is_the_plain_one_bit_for_bit(name, solver):
    """Beside guided images as beside plain ones, also where omega is 0 on some steps
    only; on one program, which is that of every curve, setting and eta too."""
    entry, rule, omega = rules.RULES[name], rules.make(name), omega_of(name)
    if not (rule.consistent or solvers.make(solver)(worlds.grid()).renoises):
        solver = "euler"
    traces = []

    def counted(x, level, label):
        traces.append(x.shape)
        return worlds.curved(x, level, label)

    x_T, clip = start(name), projections.clip(1.0)
    label = jnp.arange(6) % 2
    system = worlds.model(counted, x_T.shape[1:])
    branches = references.branches(system, label, {"null": {}})

    def run(omega, rule=rule, **settings):
        plan = solvers.make(solver, **settings)(worlds.grid())
        key = jax.random.key(1)
        x_0 = samplers.solve(
            branches, x_T, plan, omega=omega, rule=rule, projection=clip, key=key
        )
        return np.asarray(x_0)

    mixed = np.stack([omega, 0 * omega, omega, 0 * omega, omega * (omega > 0.5)], 1)
    mixed = np.concatenate([mixed, np.zeros((8, 1))], 1)
    beside, plain = run(mixed), run(np.zeros((8, 6)))
    np.testing.assert_array_equal(beside[[1, 3, 5]], plain[[1, 3, 5]])
    moved = np.abs(beside - plain).reshape(6, -1).max(1)
    assert np.all(moved[[0, 2]] > 1e-3)
    neutral = entry.as_cond or entry.as_cfg(worlds.grid(), np.ones(8))[0]
    run(mixed[::-1], entry.make(**neutral))
    if solver == "ddim":
        assert not np.allclose(run(mixed, eta=1.0), beside, atol=1e-3)
    # one call of the network for each place in the program
    assert len(traces) <= 3 + entry.calls
    # and a plain image is no other under cfg
    cfg = sample(rules.cfg(), np.zeros((8, 6)), x_T, label, solver, projection=clip)
    np.testing.assert_allclose(plain, cfg, atol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("name", EVERY)
def test_one_trace_for_every_schedule(name):
    traces = []

    def counted(x, level, label):
        traces.append(x.shape)
        return worlds.curved(x, level, label)

    system = worlds.model(counted, SHAPES.get(name, (4, 3)))
    branches = references.branches(system, jnp.arange(6) % 2, {"null": {}})
    grid, entry = worlds.grid(), rules.RULES[name]
    g = np.sin(np.arange(1000) / 400)
    curves = [
        schedules.make(s, 0.5, np.arange(8)[::-1] * 125, 1000, **shape)
        for s, shape in (("static", {}), ("linear", {}), ("gn", {"g": g}))
    ]
    results = [
        samplers.solve(
            branches, start(name), solvers.ddim(eta)(grid), key=jax.random.key(0),
            omega=curve if entry.scales[1] > 0 else -curve, rule=entry.make(),
        )
        for curve in curves
        for eta in (0.0, 1.0)
    ]  # fmt: skip
    assert len(traces) <= 3 + entry.calls
    assert len({np.asarray(r).tobytes() for r in results}) == len(results)


@pytest.mark.slow
@pytest.mark.parametrize("name", EVERY)
def test_a_network_of_x0(name, x64):
    rule, omega = rules.make(name), omega_of(name)
    x_T = start(name, jnp.float64)
    eps, x0 = (sample(rule, omega, x_T, kind=kind) for kind in ("eps", "x0"))
    np.testing.assert_allclose(x0, eps, atol=1e-9)


REMEMBER = [name for name in EVERY if rules.make(name).init is not None]


@pytest.mark.parametrize(
    ("name", "solver"),
    [(name, "heun") for name in REMEMBER]
    + [
        pytest.param(name, solver, marks=pytest.mark.slow)
        for name in EVERY
        for solver in SOLVERS
        if (name, solver) not in [(name, "heun") for name in REMEMBER]
    ],
)
def test_any_solver_or_one_line_that_says_why_not(name, solver):
    plan = solvers.make(solver)(worlds.grid())
    rule, x_T = rules.make(name), start(name)
    if not (rule.consistent or plan.renoises):
        with pytest.raises(
            ValueError, match="the noise of another.*: use ddim or euler"
        ):
            sample(rule, omega_of(name), x_T, solver=solver)
        return
    x_0 = sample(rule, omega_of(name), x_T, solver=solver)
    plain = sample(rule, 0 * omega_of(name), x_T, solver=solver)
    assert np.all(np.isfinite(x_0)) and not np.allclose(x_0, plain, atol=1e-3)


@pytest.mark.slow
@pytest.mark.parametrize("name", EVERY)
def test_a_grid_may_start_at_pure_noise(name):
    """With a v-network, at whose first level eps says nothing of x0."""
    x_T = start(name)
    fn = jax.tree_util.Partial(worlds.curved_v)
    branches = {
        branch: prediction.Branch(fn, jnp.full(6, label), "v")
        for branch, label in (("cond", 1), ("null", 2))
    }
    levelled = process.zero_terminal_snr(worlds.NS)
    grid = levels.from_timesteps(levelled, levels.timesteps(1000, 8, "trailing"))
    assert grid.alpha[0] == 0
    x_0 = [
        samplers.solve(branches, x_T, solvers.ddim()(grid), omega=omega, rule=rule)
        for omega in (omega_of(name), 0 * omega_of(name))
        for rule in [rules.make(name)]
    ]
    assert np.all(np.isfinite(x_0[0])) and not np.allclose(*x_0, atol=1e-3)


@pytest.mark.slow
@pytest.mark.parametrize("name", EVERY)
def test_double_batch_is_two_calls(name, x64):
    rule, omega, x_T = rules.make(name), omega_of(name), start(name, jnp.float64)
    once = sample(rule, omega, x_T, double_batch=True)
    np.testing.assert_allclose(once, sample(rule, omega, x_T), atol=1e-9)


def test_an_unknown_rule_or_setting():
    with pytest.raises(ValueError, match="unknown rule 'apgg': did you mean 'apg'"):
        rules.make("apgg")
    with pytest.raises(
        ValueError,
        match="rule 'apg' has no setting 'etta': did you mean 'eta'. it has mom",
    ):
        rules.make("apg", etta=1.0)
