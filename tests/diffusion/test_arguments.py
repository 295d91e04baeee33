"""What users hand to the samplers: a mistake is one line that says what to do."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from linear_network import CURVE, GRID, LABELS, NS, TS, X_T, net

from progguide_jax.diffusion import (
    levels,
    prediction,
    process,
    samplers,
    solvers,
)
from progguide_jax.guidance import projections, rules, schedules


class Flax(nn.Module):
    @nn.compact
    def __call__(self, x, t, label):
        return nn.Dense(3)(x) + nn.Embed(4, 3)(label)[:, None, None, :]


def sample(eps_fn=net, x_T=X_T, **kwargs):
    given = {
        "params": jnp.float32(0.5),
        "cond": jnp.array(LABELS),
        "null_cond": 3,
        "noise_schedule": NS,
        "timesteps": TS,
        "omega": CURVE,
    }
    return samplers.sample(eps_fn, x_T, **(given | kwargs))


def rule_of(found):
    """A rule that returns what `found` says of the conditional prediction."""
    return lambda evaluate, step, carry: (found(evaluate("cond")[0]), carry)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"cond": None}, "cond is None: pass the conditions, .* leading axis B"),
        (
            {"cond": ["a cat"] * 8},
            "cond holds 'a cat', which is no array: pass numbers",
        ),
        ({"null_cond": None}, "null_cond and cond do not go together: pass the same"),
        ({"null_cond": np.arange(3)}, "null_cond and cond do not go together"),
        ({"x_T": X_T[0]}, r"shape \(4, 4, 3\) and cond an array of shape \(8,\): both"),
        ({"x_T": X_T[:6]}, r"x_T has shape \(6, .*both must begin with the batch"),
        ({"x_T": 0.5}, "x_T is one number: pass noise"),
        ({"timesteps": 50}, r"timesteps is 50: .* samplers.timesteps\(1000, 50\)"),
        ({"timesteps": levels.karras}, r"timesteps is a grid .* use samplers.solve"),
        (
            {"timesteps": levels.karras(NS, 6)},
            r"pass int \[S\], such as samplers.timesteps\(1000, 50\), or use",
        ),
        (
            {"rule": rules.Rule({"strength": "a"}, lambda e, s, c, strength: None)},
            "the settings of a Rule hold 'a': pass numbers or arrays",
        ),
        ({"timesteps": None}, r"timesteps is None: .*samplers.timesteps\(1000, 50\)"),
        (
            {"noise_schedule": process.scaled_linear},
            r"noise_schedule is scaled_linear, .* process.scaled_linear\(num_timest",
        ),
        (
            {"noise_schedule": NS.alpha_bar},
            "is ndarray, no NoiseSchedule: pass process",
        ),
        ({"omega": "linear"}, r"omega is 'linear': .* schedules.make\('linear', scale"),
        ({"omega": None}, r"omega is None: pass the weights \[S\], such as sched"),
        ({"omega": 1j * CURVE}, "omega holds complex numbers: pass real weights"),
        ({"cond": np.full(8, -1)}, "holds the label -1: use 0 or more .* or 3 for non"),
        ({"omega": schedules.linear}, "omega is <function linear.*: pass the weights"),
        (
            {"omega": "gn_all", "labels": np.array(LABELS)},
            r"omega is 'gn_all': .* schedules.make\('gn_all'",
        ),
        ({"omega": {"null": CURVE}, "labels": LABELS}, "omega is a dict: with labels"),
        ({"omega": np.ones((3, 6)), "labels": LABELS[:6]}, r"labels are int64 \(6,\)"),
        ({"key": 1}, r"key is 1: pass jax.random.key\(1\)"),
        ({"key": "1"}, r"key is '1': pass jax.random.key\(seed\)"),
        ({"params": None}, r"\(params, x, t, cond\) is called as eps_fn\(x_t, t, cond"),
        ({"eps_fn": Flax().apply, "params": None}, "without params=: pass params="),
        ({"eps_fn": Flax()}, "eps_fn is a Flax: pass a function .* net.apply"),
        ({"eps_fn": "net"}, "eps_fn is a str: pass a function"),
        ({"eps_fn": lambda x, t, c: x}, r"eps_fn\(x, t, c\) is called .* four argum"),
        (
            {"rule": lambda evaluate, step, carry: (evaluate("cond").eps, carry)},
            r"gives a list, also for one branch: .* \(c,\) = evaluate\(\"cond\"\)",
        ),
        (
            {"rule": lambda e, step, carry: (step.mix(lambda c: c, e("cond")), carry)},
            "gives a list, also for one branch",
        ),
        (
            {"rule": lambda evaluate, step, carry: (evaluate("cond"), carry)},
            r"must return \(Prediction\(x0, eps\), carry\).* got Predictions, None",
        ),
        (
            {"rule": rule_of(lambda c: c._replace(x0=c.x0[:1]))},
            r"x0 of shape \(1, 4, 4, 3\) and eps of shape \(8, 4, 4, 3\) for x of",
        ),
        (
            {"rule": rules.cfgpp()},
            r"omega is 0.1 ... 0.6 and this rule takes -1 ... 0: scale it into that",
        ),
        ({"rule": rules.cfgpp(), "omega": -2 * CURVE}, "-1.2 ... -0.2 and this rule"),
        ({"rule": rule_of(lambda c: c._replace(eps=0.0))}, r"eps of shape \(\) for x"),
        (
            {"rule": lambda e, step, carry: (e("cond")[0], 0.0)},
            "set its attribute init",
        ),
        (
            {"solver": solvers.ddim()(GRID)},
            r"solver is a plan, .*: pass the solver alone, such as solvers.ddim\(\)",
        ),
    ],
)
def test_one_line_says_what_to_do(change, message):
    with pytest.raises(ValueError, match=message) as caught:
        sample(**change)
    assert "\n" not in str(caught.value)


def test_a_carry_keeps_its_shape():
    def rule(evaluate, step, carry):
        return evaluate("cond")[0], carry[:, :1]

    rule.init = lambda x_T: jnp.zeros((8, 2))
    with pytest.raises(ValueError, match=r"a carry of shape \(8, 1\) and got one of"):
        sample(rule=rule)


def test_lists_of_numbers_are_arrays():
    """Labels, embeddings and one-hot rows as they are typed; tuples of arrays stay."""
    expected = sample()
    for cond, null_cond in (
        (LABELS, 3),
        (tuple(LABELS), [3] * 8),
        ([np.int64(k) for k in LABELS], 3),
    ):
        found = sample(cond=cond, null_cond=null_cond)
        np.testing.assert_array_equal(found, expected)

    def of_tree(params, x, t, cond):
        rows, (label, other) = cond["rows"], cond["pair"]
        assert rows.shape == (len(x), 2) and other.shape == label.shape == (len(x),)
        return net(params, x, t, rows[:, 0] + label)

    cond = {"rows": [[float(k), 9.0] for k in LABELS], "pair": (np.zeros(8), [1.0] * 8)}
    null_cond = {"rows": np.array([3.0, 9.0]), "pair": (0, 1)}
    found = sample(of_tree, cond=cond, null_cond=null_cond)
    np.testing.assert_allclose(found, expected, atol=1e-6)


def test_predictions_are_a_list_and_a_tree():
    """What a rule may do with a list it may do with these."""

    def rule(evaluate, step, carry):
        both = evaluate("cond", "null")
        assert both == list(both) and len(both + []) == 2
        doubled = jax.tree.map(lambda a: 2 * a, both)
        c, u = jax.tree.map(lambda a: a / 2, doubled)
        return step.from_eps(c.eps + step.omega * (c.eps - u.eps)), carry

    np.testing.assert_allclose(sample(rule=rule), sample(), atol=1e-6)


def test_a_square_omega_is_one_curve_an_image_and_this_is_said(caplog):
    """S = B = K = 6: one curve an image by columns, one curve a class by rows."""
    omega = np.random.default_rng(0).uniform(0, 1, (6, 6)).astype(np.float32)
    x_T, labels = X_T[:6], np.array([2, 0, 1, 5, 4, 3])
    for_six = dict(x_T=x_T, cond=labels)
    by_image = sample(omega={"null": omega}, **for_six)
    assert not caplog.text
    np.testing.assert_array_equal(sample(omega=omega, **for_six), by_image)
    assert "is taken as [S,B], a column an image: pass a table [K,S] with labels=" in (
        caplog.text
    )
    caplog.clear()
    by_class = sample(omega=omega, labels=labels, **for_six)
    for i in range(6):
        one = dict(x_T=x_T[i : i + 1], cond=labels[i : i + 1])
        column, row = omega[:, i], omega[labels[i]]
        np.testing.assert_allclose(
            by_image[i], sample(omega=column, **one)[0], atol=1e-5
        )
        np.testing.assert_allclose(by_class[i], sample(omega=row, **one)[0], atol=1e-5)
    sample(omega=omega[:, :5], x_T=x_T[:5], cond=labels[:5])  # [S,B], S > B
    sample(omega=np.ones((1, 1)), timesteps=TS[:1], x_T=x_T[:1], cond=labels[:1])
    assert not caplog.text


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"plan": solvers.ddim()}, r"plan is a function: pass solver\(levels\), such"),
        ({"cond": "net"}, "the branch 'cond' is a str: pass prediction.Branch"),
        (
            {"cond": prediction.Branch(lambda x, level, c: x, np.zeros(8))},
            "the branch 'cond' has a plain function: wrap it .*Partial",
        ),
        (
            {"null": prediction.Branch(jax.tree_util.Partial(net, 1.0), np.zeros(7))},
            r"the branch 'null' an array of shape \(7,\): both must begin",
        ),
    ],
)
def test_what_solve_is_told(change, message):
    branch = prediction.Branch(jax.tree_util.Partial(net, 1.0), np.zeros(8))
    plan = solvers.ddim()(levels.from_timesteps(NS, TS))
    given = {"cond": branch, "null": branch, "plan": plan} | change
    plan = given.pop("plan")
    with pytest.raises(ValueError, match=message):
        samplers.solve(given, X_T, plan, omega=CURVE)
    with pytest.raises(ValueError, match="noise_schedule is cosine, no NoiseSchedule"):
        levels.karras(process.cosine, 20)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"solver": "ddim"}, r"solver is 'ddim': pass solvers.make\('ddim'\)"),
        ({"projection": "clip"}, r"projection is 'clip': pass what a factory gives"),
        ({"projection": projections.clip}, "projection is .*: pass what a factory"),
        ({"clip_x0": True}, "clip_x0 is a bound on .* and must be positive: True"),
        ({"clip_x0": "1"}, "clip_x0 is a bound on"),
    ],
)
def test_a_name_or_a_factory_in_the_place_of_what_it_makes(change, message):
    with pytest.raises(ValueError, match=message):
        sample(**change)


@pytest.mark.parametrize("name", ("cond", "null"))
def test_nan_of_a_network_is_named_by_step_and_branch(name, caplog):
    def fn(x, level, cond):
        lost = (level.t[0] < 500) & (cond == 2)
        return x + jnp.where(lost, jnp.nan, 0.0)[:, None]

    conds = {"cond": np.zeros(3), "null": np.zeros(3)}
    conds[name] = np.array([0, 2, 0])
    branches = {
        k: prediction.Branch(jax.tree_util.Partial(fn), c, "eps")
        for k, c in conds.items()
    }
    plan = samplers.ddim()(levels.make("leading", NS, 6))
    samplers.solve(branches, jnp.ones((3, 2)), plan, omega=np.ones(len(plan.t)))
    k = int(np.flatnonzero(plan.t < 500)[0])
    assert (
        "x_0 is not finite in 1 of 3 images, the first one after evaluation "
        f"{k + 1} of {len(plan.t)} (t = {plan.t[k]:g}): the prediction of the branch "
        f"{name!r} is not finite there"
    ) in caplog.text


def test_images_that_are_not_finite_are_counted(caplog):
    sample()
    jax.jit(lambda x_T: sample(x_T=x_T))(X_T * jnp.nan)
    assert not caplog.text
    x_T = X_T.at[np.array([1, 5]), 0].set(jnp.nan)
    found = np.isfinite(sample(x_T=x_T)).all((1, 2, 3))
    np.testing.assert_array_equal(np.flatnonzero(~found), [1, 5])
    assert "x_0 is not finite in 2 of 8 images, the first one in x_T" in caplog.text
