import jax
import jax.numpy as jnp
import numpy as np
import pytest

from progguide_jax.diffusion import levels, prediction, process, samplers, solvers
from progguide_jax.guidance import gradnorm, rules, schedules

NS = process.ddpm_linear()
# alpha = 0.8 then 0.6, sigma = 0.6 then 0.8: steps are exact on paper
PYTHAGORAS = process.NoiseSchedule("pythagoras", np.array([0.64, 0.36]))
KEY = jax.random.key(7)


def toy(x, t, label):
    """A network stand-in, elementwise and nonlinear: data near tanh of the label."""
    label = jnp.reshape(label.astype(x.dtype), (len(x),) + (1,) * (x.ndim - 1))
    alpha, sigma = (process.at(a, t, x) for a in (NS.alpha, NS.sigma))
    x0 = jnp.tanh(x + 0.4 * (label - 1))
    return sigma / (0.1 * alpha**2 + sigma**2) * (x - alpha * x0)


def constant(x, t, value):
    """eps = the condition itself."""
    return jnp.broadcast_to(jnp.reshape(value, (len(x), 1)), x.shape)


def noise(batch=6, shape=(4, 3), dtype=jnp.float32):
    keys = samplers.image_keys(jax.random.key(3), jnp.arange(batch))
    return samplers.initial_noise(keys, shape, dtype)


def run(omega, *, eps_fn=toy, x_T=None, steps=10, cond=None, null_cond=5, **kwargs):
    """`samplers.sample` in `steps` steps of DDPM's schedule, labels 0, 1, 2, 0 ..."""
    x_T = noise() if x_T is None else x_T
    cond = jnp.arange(len(x_T)) % 3 if cond is None else cond
    ts = samplers.timesteps(1000, steps)
    if np.ndim(omega) == 0:
        omega = np.full(steps, omega)
    return samplers.sample(
        eps_fn,
        x_T,
        cond=cond,
        null_cond=null_cond,
        noise_schedule=NS,
        timesteps=ts,
        omega=omega,
        **kwargs,
    )


def run_pythagoras(x_T, cond, omega=(0.0, 0.0), null_cond=0.0, **kwargs):
    """Two steps from scalars: eps is `cond`, unconditionally `null_cond`."""
    return samplers.sample(
        constant,
        jnp.full((1, 1), x_T),
        cond=jnp.full((1,), cond),
        null_cond=null_cond,
        noise_schedule=PYTHAGORAS,
        timesteps=np.array([1, 0]),
        omega=np.array(omega),
        **kwargs,
    )


def coefficients(solver, ns, ts):
    """Of x0, eps, x and z: [S] each."""
    (line,) = solver(levels.from_timesteps(ns, np.array(ts))).matrix.swapaxes(0, 1)
    return line.T


# --- solver steps ---
# x_T = 1, eps = 1/2, alpha_bar 0.36 -> 0.64: x0_hat = (1 - 0.8/2) / 0.6 = 1.
# eta = 1: variance (.36/.64)(1 - .36/.64) = .24609375, mean .8 + .3375/2 = .96875,
# which is also DDPM's .8 (.4375/.64) + .75 (.36/.64) with beta = .4375.


def test_ddim_step_by_hand():
    x_0, path = run_pythagoras(1.0, 0.5, trajectory=True)
    assert path[1].item() == pytest.approx(0.8 + 0.6 * 0.5, rel=1e-6)
    assert x_0.item() == pytest.approx((1.1 - 0.6 * 0.5) / 0.8, rel=1e-6)


@pytest.mark.parametrize(
    ("solver", "mean", "variance"),
    [
        (samplers.ddim(1.0), 0.96875, 0.24609375),
        (samplers.ddim(0.5), 0.8 + 0.5 * (0.36 - 0.0615234375) ** 0.5, 0.0615234375),
        (samplers.ddpm("small"), 0.96875, 0.24609375),
        (samplers.ddpm("large"), 0.96875, 0.4375),
    ],
)
def test_stochastic_step_by_hand(solver, mean, variance):
    a, b, c, d = coefficients(solver, PYTHAGORAS, [1, 0])
    assert a[0] * 1 + b[0] * 0.5 + c[0] * 1 == pytest.approx(mean, rel=1e-12)
    assert d[0] ** 2 == pytest.approx(variance, rel=1e-12)
    assert [a[1], b[1], c[1], d[1]] == pytest.approx([1, 0, 0, 0], abs=1e-12)
    x_0, path = run_pythagoras(1.0, 0.5, trajectory=True, solver=solver, key=KEY)
    assert path[1].item() != pytest.approx(mean, abs=1e-4)  # noise was added
    assert x_0.item() == pytest.approx((path[1].item() - 0.3) / 0.8, rel=1e-5)


def test_ddpm_is_equation_11_of_ddpm_on_the_full_grid():
    betas = np.linspace(1e-4, 0.02, 1000)[::-1]
    alpha_bar, ts = NS.alpha_bar[::-1], np.arange(1000)[::-1]
    following = np.append(alpha_bar[1:], 1.0)
    x, eps = np.random.default_rng(0).normal(size=(2, 1000))
    x0 = (x - np.sqrt(1 - alpha_bar) * eps) / np.sqrt(alpha_bar)
    expected = (x - betas / np.sqrt(1 - alpha_bar) * eps) / np.sqrt(1 - betas)
    tilde = (1 - following) / (1 - alpha_bar) * betas
    for variance, expected_variance in {"small": tilde, "large": betas}.items():
        a, b, c, d = coefficients(samplers.ddpm(variance), NS, ts)
        np.testing.assert_allclose(a * x0 + b * eps + c * x, expected, rtol=1e-9)
        np.testing.assert_allclose(d[:-1] ** 2, expected_variance[:-1], rtol=1e-9)
        assert d[-1] == 0


@pytest.mark.parametrize("eta", [0.0, 0.3, 1.0])
def test_ddim_preserves_the_marginals(eta):
    """With the true x0 and eps, x_s ~ N(alpha_s x0, sigma_s^2) whatever eta."""
    ts = samplers.timesteps(1000, 37, "trailing")
    following = np.append(NS.alpha_bar[ts][1:], 1.0)
    a, b, c, d = coefficients(samplers.ddim(eta), NS, ts)
    np.testing.assert_allclose(a, np.sqrt(following), rtol=1e-12)
    np.testing.assert_allclose(b**2 + d**2, 1 - following, rtol=1e-12)
    np.testing.assert_array_equal(c, 0)
    assert np.any(d > 0) == (eta > 0)


def test_ddim_of_one_gaussian_shrinks_as_the_product_of_its_steps(x64):
    """x0 ~ N(m, s^2), s = 1/4, m = 1/8: DDIM-50 is linear with slope .225558."""
    s, m = 0.25, 0.125

    def exact(x, t, _):
        alpha, sigma = (process.at(a, t, x) for a in (NS.alpha, NS.sigma))
        return sigma / (alpha**2 * s**2 + sigma**2) * (x - alpha * m)

    x_T = jnp.array([[0.0], [1.0]], jnp.float64)
    x_0 = np.asarray(run(0.0, eps_fn=exact, x_T=x_T, steps=50)).ravel()
    slope = x_0[1] - x_0[0]
    assert slope == pytest.approx(0.225558, abs=1e-6)
    assert x_0[0] == pytest.approx(m * (1 - slope * NS.alpha[980]), rel=1e-9)


@pytest.mark.parametrize(("variance", "std"), [("small", 0.24628), ("large", 0.25094)])
def test_ddpm_1000_of_one_gaussian(variance, std):
    """The same Gaussian by ancestral sampling: recursion for mean and variance."""
    s, m = 0.25, 0.125
    alpha_bar = NS.alpha_bar[::-1]
    steps = coefficients(samplers.ddpm(variance), NS, np.arange(1000)[::-1])
    mean, var = 0.0, 1.0
    for ab, a, b, c, d in zip(alpha_bar, *steps, strict=True):
        alpha, sigma = ab**0.5, (1 - ab) ** 0.5
        k = sigma / (ab * s**2 + sigma**2)  # eps_hat = k (x - alpha m)
        slope = a * (1 - sigma * k) / alpha + b * k + c
        mean = slope * mean + a * sigma * k * m - b * k * alpha * m
        var = slope**2 * var + d**2
    assert var**0.5 == pytest.approx(std, abs=1e-5)
    assert mean == pytest.approx(0.1249997, abs=2e-7)


def test_ddim_eta_1_is_ddpm():
    ddim = run(0.5, solver=samplers.ddim(1.0), key=KEY)
    ddpm = run(0.5, solver=samplers.ddpm("small"), key=KEY)
    np.testing.assert_allclose(ddim, ddpm, atol=1e-5)


def test_solver_errors():
    for eta in (-0.1, 1.1, float("nan")):
        with pytest.raises(ValueError, match=r"eta must lie in \[0, 1\]"):
            samplers.ddim(eta)
    with pytest.raises(ValueError, match="did you mean 'small'"):
        samplers.ddpm("smal")


# --- noise ---


def test_step_noise_is_white_and_independent():
    """z recovered from a trajectory with eps = 0, where x_s = a x_t / alpha_t + d z."""
    alpha_bar = NS.alpha_bar[[800, 600, 400, 200]]
    a, _, _, d = coefficients(samplers.ddim(1.0), NS, [800, 600, 400, 200, 0])
    keys = samplers.image_keys(KEY, jnp.arange(3))
    _, path = run(
        0.0,
        eps_fn=lambda x, t, _: jnp.zeros_like(x),
        x_T=samplers.initial_noise(keys, (10_000,)),
        steps=5,
        solver=samplers.ddim(1.0),
        key=keys,
        trajectory=True,
    )
    x = np.asarray(path, np.float64)
    z = [x[0]]
    for k in range(4):
        z.append((x[k + 1] - a[k] * x[k] / alpha_bar[k] ** 0.5) / d[k])
    z = np.reshape(z, (15, -1))  # (x_T and 4 steps) x 3 images
    np.testing.assert_allclose(z.mean(1), 0, atol=0.05)
    np.testing.assert_allclose(np.cov(z), np.eye(15), atol=0.07)


def test_low_precision_noise_keeps_its_tails():
    """4e5 normal draws reach beyond 4; the uniforms of bfloat16 end below 3."""
    z = noise(4, (100_000,), jnp.bfloat16)
    assert z.dtype == jnp.bfloat16
    z = np.asarray(z, np.float64)
    assert 4 < np.abs(z).max() < 6
    assert z.mean() == pytest.approx(0, abs=0.006)
    assert z.std() == pytest.approx(1, abs=0.005)


def test_image_i_depends_on_its_own_key_alone():
    kwargs = {"solver": samplers.ddim(1.0), "steps": 6, "clip_x0": 1.0}
    keys = samplers.image_keys(KEY, jnp.arange(6))
    x_T, cond = noise(6), jnp.array([0, 1, 2, 2, 1, 0])
    whole = run(0.7, x_T=x_T, cond=cond, key=keys, **kwargs)
    parts = [
        run(0.7, x_T=x_T[s], cond=cond[s], key=keys[s], **kwargs)
        for s in (slice(0, 2), slice(2, 6))
    ]
    np.testing.assert_allclose(whole, np.concatenate(parts), atol=1e-6)
    np.testing.assert_allclose(noise(6)[:2], noise(2), atol=0)
    one_key = run(0.7, x_T=x_T, cond=cond, key=KEY, **kwargs)
    np.testing.assert_array_equal(one_key, whole)
    raw = run(0.7, x_T=x_T, cond=cond, key=jax.random.key_data(KEY), **kwargs)
    np.testing.assert_array_equal(raw, whole)


def test_eight_devices_equal_one():
    auto = (jax.sharding.AxisType.Auto,)
    mesh = jax.sharding.Mesh(np.array(jax.devices()), ("data",), axis_types=auto)
    split = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("data"))
    keys = samplers.image_keys(KEY, jnp.arange(8))
    args = {"x_T": noise(8), "cond": jnp.arange(8) % 3, "key": keys}
    one = run(0.7, solver=samplers.ddim(1.0), **args)
    eight = run(0.7, solver=samplers.ddim(1.0), **jax.device_put(args, split))
    assert len(eight.sharding.device_set) == 8
    np.testing.assert_allclose(one, eight, atol=1e-6)


# --- guidance ---


def test_omega_0_is_plain_conditional_sampling():
    def poison(evaluate, step, carry):
        return step.from_eps(jnp.nan * step.x), carry

    plain = run(0.0)
    # bit for bit: nothing of the other prediction can leak in
    np.testing.assert_array_equal(run(0.0, null_cond=2), plain)
    np.testing.assert_array_equal(run(np.zeros((10, 6))), plain)
    assert not np.allclose(run(0.1), plain, atol=1e-3)
    assert np.all(np.isnan(run(0.1, rule=poison)))

    # other programs, so XLA may round the last bit differently
    np.testing.assert_allclose(run(0.0, rule=poison), plain, atol=2e-6)
    ts = samplers.timesteps(1000, 10)
    x, cond = noise(), jnp.arange(6) % 3
    for t, s in zip(ts, [*ts[1:], None], strict=True):
        eps = toy(x, jnp.full((6,), t), cond)
        x0 = (x - NS.sigma[t] * eps) / NS.alpha[t]
        x = x0 if s is None else NS.alpha[s] * x0 + NS.sigma[s] * eps
    np.testing.assert_allclose(plain, x, atol=2e-6)


@pytest.mark.parametrize(
    ("omega", "double_batch", "calls", "rows"),
    [
        (np.zeros(10), False, 10, 60),
        (np.full(10, 0.2), False, 20, 120),
        (np.full(10, -1.0), False, 20, 120),
        (np.arange(10) >= 6, False, 14, 84),
        (np.eye(10, 6), False, 16, 96),  # [S,B]: one image at a time, then none
        (np.arange(10) >= 6, True, 10, 84),
    ],
)
def test_network_evaluations_at_run_time(omega, double_batch, calls, rows):
    seen = []

    def counting(x, t, label):
        jax.debug.callback(lambda: seen.append(len(x)))
        return toy(x, t, label)

    run(omega, eps_fn=counting, double_batch=double_batch)
    jax.effects_barrier()
    assert (len(seen), sum(seen)) == (calls, rows)


def test_one_compilation_for_every_curve_of_a_length():
    traces = []

    def traced(params, x, t, label):
        traces.append(x.shape)
        return toy(x, t, label)

    ts = samplers.timesteps(1000, 10)
    g = np.sin(np.pi * np.arange(1000) / 1000)
    results, counts = [], []
    for name, shape in {
        "static": {},
        "linear": {},
        "cosine": {},
        "gn": {"g": g},
        "interval": {"t_min": 200, "t_max": 500},
        "table": {"values": [1, 3]},
    }.items():
        omega = schedules.make(name, 0.3, ts, 1000, **shape)
        results.append(run(omega, eps_fn=traced, params=()))
        counts.append(len(traces))
    results.append(run(np.full(10, 0.3), eps_fn=traced, params=()))  # float64, host
    results.append(run(jnp.full(10, 0.3), eps_fn=traced, params=()))  # weakly typed
    counts.append(len(traces))
    assert counts[0] > 0 and set(counts) == {counts[0]}
    np.testing.assert_array_equal(results[0], results[-1])
    assert not np.allclose(results[0], results[1])


def test_omega_per_image_equals_one_run_per_column():
    g = np.random.default_rng(0).random((3, 1000))
    ts = samplers.timesteps(1000, 10)
    table = gradnorm.omega(g**4, 0.8, ts)
    label = jnp.array([2, 0, 1, 1, 0, 2])
    omega = table[np.asarray(label)].T
    together = run(omega, cond=label)
    for i in range(6):
        alone = run(omega[:, i], cond=label)
        np.testing.assert_allclose(together[i], alone[i], atol=1e-6)


def test_guidance_acts_on_the_last_step_and_there_alone():
    # eps is 0.5 given the label and -0.5 without it; the last step is x0_hat at t = 0:
    # x0 = (x - 0.6 eps) / 0.8 and eps moves by omega (0.5 - -0.5)
    last = run_pythagoras(1.0, 0.5, (0.0, 2.0), -0.5)
    plain = run_pythagoras(1.0, 0.5, (0.0, 0.0), -0.5)
    assert (last - plain).item() == pytest.approx(-0.6 * 2.0 / 0.8, rel=1e-6)


def test_hand_computed_guided_trajectory():
    # omega = 2, then -1. eps_c = 0.5, eps_u = -0.5: eps = 2.5, then -0.5
    # x0 = (1 - 0.8 * 2.5) / 0.6 = -5/3; x = 0.8 * -5/3 + 0.6 * 2.5 = 1/6
    _, path = run_pythagoras(1.0, 0.5, (2.0, -1.0), -0.5, trajectory=True)
    expected = [1.0, 1 / 6, (1 / 6 + 0.3) / 0.8]
    np.testing.assert_allclose(path.ravel(), expected, rtol=1e-5)


def test_neutral_settings():
    same = {"cond": jnp.full(6, 2), "null_cond": 2}
    np.testing.assert_allclose(run(3.0, **same), run(0.0, **same), atol=1e-5)
    unconditional = run(0.0, cond=jnp.full(6, 5))
    np.testing.assert_allclose(run(-1.0), unconditional, atol=1e-4)
    assert not np.allclose(run(0.0), unconditional, atol=1e-2)


@pytest.mark.parametrize("omega", [0.0, 0.6])
def test_double_batch_equals_two_calls(omega):
    two, one = run(omega), run(omega, double_batch=True)
    np.testing.assert_allclose(one, two, atol=1e-6)


def test_clip_derives_eps_again():
    # eps = -1: x0 = (1 + 0.8) / 0.6 = 3 -> 1, eps = (1 - 0.6) / 0.8 = 1/2, x = 1.1
    # at t = 0: x0 = (1.1 + 0.6) / 0.8 -> 1; unclipped it would be 3
    x_0, path = run_pythagoras(1.0, -1.0, clip_x0=1.0, trajectory=True)
    np.testing.assert_allclose(path.ravel(), [1.0, 1.1, 1.0], rtol=1e-6)
    assert run_pythagoras(1.0, -1.0).item() == pytest.approx(3.0, rel=1e-5)
    negative = run_pythagoras(-1.0, 1.0, clip_x0=0.5)
    assert negative.item() == -0.5


def test_a_bound_never_reached_changes_nothing():
    free, bounded = run(0.3), run(0.3, clip_x0=1e4)
    np.testing.assert_allclose(free, bounded, atol=1e-4)


# --- interface ---


def test_trajectory_runs_from_x_T_to_x_0():
    x_T = noise()
    x_0, path = run(0.4, x_T=x_T, trajectory=True)
    assert path.shape == (11, 6, 4, 3)
    np.testing.assert_array_equal(path[0], x_T)
    np.testing.assert_array_equal(path[-1], x_0)
    ts = samplers.timesteps(1000, 10)
    rest = samplers.sample(
        toy,
        path[4],
        cond=jnp.arange(6) % 3,
        null_cond=5,
        noise_schedule=NS,
        timesteps=ts[4:],
        omega=np.full(6, 0.4),
    )
    np.testing.assert_allclose(rest, x_0, atol=1e-5)


@pytest.mark.parametrize("partial", [False, True])
def test_parameters_are_arguments_of_the_program(partial):
    traces = []

    def network(params, x, t, label):
        traces.append(1)
        return params["w"] * toy(x, t, label)

    def sample(w):
        params = {"w": jnp.full((1, 1, 1), w)}
        if partial:
            return run(0.2, eps_fn=jax.tree_util.Partial(network, params))
        return run(0.2, eps_fn=network, params=params)

    first = sample(1.0)
    count = len(traces)
    second = sample(0.5)
    assert len(traces) == count
    np.testing.assert_allclose(first, run(0.2), atol=1e-6)
    half = run(0.2, eps_fn=lambda x, t, label: 0.5 * toy(x, t, label))
    np.testing.assert_allclose(second, half, atol=1e-6)


def test_dtype_follows_x_T_float64(x64):
    x_T = np.asarray(noise(), np.float64)
    x_0, path = run(0.3, x_T=x_T, trajectory=True, solver=samplers.ddim(0.5), key=KEY)
    assert x_0.dtype == path.dtype == jnp.float64
    # a float64 loop in numpy, without noise: agreement far below float32
    ts, x = samplers.timesteps(1000, 10), x_T
    label = (np.arange(6) % 3)[:, None, None]
    for t, s in zip(ts, [*ts[1:], None], strict=True):
        alpha, sigma = NS.alpha[t], NS.sigma[t]
        k = sigma / (0.1 * alpha**2 + sigma**2)
        p_c, p_u = (k * (x - alpha * np.tanh(x + 0.4 * (c - 1))) for c in (label, 5))
        eps = p_c + 0.25 * (p_c - p_u)
        x0 = (x - sigma * eps) / alpha
        x = x0 if s is None else NS.alpha[s] * x0 + NS.sigma[s] * eps
    np.testing.assert_allclose(run(0.25, x_T=x_T), x, rtol=1e-10)


def test_low_precision_networks_and_states():
    def bf16(x, t, label):
        return toy(x, t, label).astype(jnp.bfloat16)

    def float32_rule(evaluate, step, carry):
        c, u = (p.eps.astype(jnp.float32) for p in evaluate("cond", "null"))
        return step.from_eps(c + step.omega * (c - u)), carry

    x_0 = run(0.3, eps_fn=bf16)
    assert x_0.dtype == jnp.float32
    np.testing.assert_allclose(x_0, run(0.3), atol=0.1)
    x_T = noise(dtype=jnp.bfloat16)
    for rule in (rules.cfg(), float32_rule):
        assert run(0.3, x_T=x_T, rule=rule).dtype == jnp.bfloat16


def test_rule_with_state():
    """The carry counts guided steps: eps = p_c + omega count (p_c - p_u)."""

    def rule(evaluate, step, count):
        c, u = (p.eps for p in evaluate("cond", "null"))
        return step.from_eps(c + step.omega * count * (c - u)), count + 1

    rule.init = lambda x_T: jnp.ones((len(x_T), 1), x_T.dtype)
    # eps_c = 0.5, eps_u = -0.5. Count 1: eps = 0.5 + 2 = 2.5 -> x = 1/6 (see above).
    # Count 2: eps = 0.5 + 1 * 2 * 1 = 2.5, x0 = (1/6 - 0.6 * 2.5) / 0.8
    x_0 = run_pythagoras(1.0, 0.5, (2.0, 1.0), -0.5, rule=rule)
    assert x_0.item() == pytest.approx((1 / 6 - 1.5) / 0.8, rel=1e-5)
    # a step of omega 0 leaves the carry alone: x = 1.1 (plain), then count 1
    x_0 = run_pythagoras(1.0, 0.5, (0.0, 2.0), -0.5, rule=rule)
    assert x_0.item() == pytest.approx((1.1 - 0.6 * 2.5) / 0.8, rel=1e-5)


def test_rule_sees_the_step():
    """Index, t and both levels: all known on the host."""

    def rule(evaluate, step, carry):
        assert step.x.shape == (1, 1) and step.reference == "null"
        (c,) = evaluate("cond")
        eps = c.eps + step.index + 10 * step.t
        return step.from_eps(eps + step.alpha_next - step.sigma_next), carry

    # step 0 at t = 1 leads to (0.8, 0.6): eps = 10.7; step 1 at t = 0 to (1, 0): 2.5
    x = 0.8 * (1 - 0.8 * 10.7) / 0.6 + 0.6 * 10.7
    x_0 = run_pythagoras(1.0, 0.5, (1.0, 1.0), rule=rule)
    assert x_0.item() == pytest.approx((x - 0.6 * 2.5) / 0.8, rel=1e-5)


def test_a_rule_may_evaluate_elsewhere():
    """evaluate(..., x=): eps = x itself makes it visible which x was asked for."""

    def rule(evaluate, step, carry):
        (there,) = evaluate("null", x=2 * step.x)
        return step.from_eps(there.eps), carry

    def eps_fn(x, t, cond):
        return x

    ts = np.array([1, 0])
    x_0 = samplers.sample(
        eps_fn, jnp.ones((1, 1)), cond=jnp.zeros(1), null_cond=0.0,
        noise_schedule=PYTHAGORAS, timesteps=ts, omega=np.array([1.0, 0.0]), rule=rule,
    )  # fmt: skip
    # eps = 2: x0 = (1 - 1.6) / 0.6 = -1, x = -0.8 + 1.2 = 0.4; then eps = x
    assert x_0.item() == pytest.approx(0.4 * (1 - 0.6) / 0.8, rel=1e-5)


@pytest.mark.parametrize(
    ("rule", "message"),
    [
        (lambda evaluate, step, carry: step.x, "must return .Prediction.x0, eps., c"),
        (lambda evaluate, step, carry: (step.x, carry), "must return .Prediction"),
        (
            rules.Rule({}, lambda e, step, carry: (e("cond")[0], None), jnp.zeros_like),
            "carry in the form in which it got it",
        ),
        (
            lambda evaluate, step, carry: (evaluate("guide")[0], carry),
            "asks for the branch 'guide' and there are cond, null",
        ),
    ],
)
def test_a_rule_that_returns_something_else(rule, message):
    with pytest.raises(ValueError, match=message):
        run(0.3, rule=rule)


def test_the_carry_belongs_to_images():
    def rule(evaluate, step, carry):
        return evaluate("cond")[0], carry

    rule.init = lambda x_T: jnp.zeros(())
    with pytest.raises(ValueError, match="first axis must be the batch, 6"):
        run(0.3, rule=rule)


def test_condition_may_be_any_pytree():
    def eps_fn(x, t, cond):
        assert cond["weights"].shape == (len(x), 3)
        total = jnp.sum(cond["weights"] * jnp.arange(3.0)[None], axis=1)
        return toy(x, t, cond["label"] + total)

    weights = jnp.zeros((6, 3)).at[:, 1].set(1.0)  # adds 1 to the label
    cond = {"label": jnp.arange(6) % 3 - 1, "weights": weights}
    for null_weights in (jnp.array([0.0, 1.0, 0.0]), weights):
        null_cond = {"label": 4, "weights": null_weights}
        x_0 = run(0.5, eps_fn=eps_fn, cond=cond, null_cond=null_cond)
        np.testing.assert_allclose(x_0, run(0.5), atol=1e-6)


def test_works_inside_jit_and_grad():
    def loss(scale):
        return jnp.sum(run(jnp.full((10,), 1.0) * scale))

    slope = jax.jit(jax.grad(loss))(0.3)
    h = 1e-2
    finite = (loss(0.3 + h) - loss(0.3 - h)) / (2 * h)
    assert slope == pytest.approx(float(finite), rel=1e-2)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"omega": np.ones(9)}, r"shape \(9,\): expected \[S\] = \(10,\)"),
        ({"omega": np.ones((6, 10))}, r"\[S,B\] = \(10, 6\)"),
        ({"solver": samplers.ddpm()}, "adds noise: pass key="),
        ({"solver": samplers.ddim(0.1)}, "adds noise: pass key="),
        ({"solver": samplers.ddpm(), "key": jax.random.split(KEY, 5)}, r"\(6,\)"),
        ({"clip_x0": 0.0}, "clip_x0 .* positive"),
        ({"timesteps": np.arange(10)}, "fall strictly within 999 ... 0"),
        ({"timesteps": np.arange(10)[::-1] - 1}, "fall strictly within"),
        ({"timesteps": np.arange(10)[::-1] + 991}, "fall strictly within"),
        ({"timesteps": np.arange(10.0)[::-1]}, "must be integers"),
        ({"timesteps": np.arange(1001)[::-1]}, "1001 sampling steps on 1000"),
    ],
)
def test_bad_arguments(change, message):
    arguments = {
        "cond": jnp.zeros(6, int),
        "null_cond": 5,
        "noise_schedule": NS,
        "timesteps": samplers.timesteps(1000, 10),
        "omega": np.ones(10),
    }
    with pytest.raises(ValueError, match=message):
        samplers.sample(toy, noise(), **(arguments | change))


def test_integer_noise_is_refused():
    with pytest.raises(ValueError, match="int32: pass floating-point noise"):
        run(0.3, x_T=jnp.zeros((6, 2), jnp.int32))


def test_levels_between_timesteps_are_refused_for_an_int_t():
    with pytest.raises(ValueError, match="levels between the timesteps .* use solve"):
        run(0.5, solver=solvers.euler(churn=3.0), key=KEY)


def test_no_network_of_eps_starts_from_pure_noise():
    """A guide that predicts eps beside a network that predicts v."""
    grid = levels.from_timesteps(process.zero_terminal_snr(NS), np.array([999, 500]))
    itself = jax.tree_util.Partial(lambda x, level, c: x)
    branches = {
        "cond": prediction.Branch(itself, jnp.zeros(6), "v"),
        "guide": prediction.Branch(itself, jnp.zeros(6), "eps"),
    }
    with pytest.raises(ValueError, match="pure noise .* an eps-network cannot start"):
        samplers.solve(branches, noise(), solvers.ddim()(grid), omega=np.ones(2))


def test_a_table_for_each_class_is_read_by_label():
    table = np.random.default_rng(0).uniform(0, 1, (3, 10)).astype(np.float32)
    labels = np.array([0, 2, 1, 2, 0, 1])
    found = run(table, labels=labels, cond=jnp.asarray(labels))
    np.testing.assert_array_equal(
        found, run(np.stack([table[k] for k in labels], 1), cond=jnp.asarray(labels))
    )
    with pytest.raises(ValueError, match=r"a table \[K,S\] pass table\[labels\].T"):
        run(table)
    with pytest.raises(ValueError, match="with labels it is a table"):
        run(table[0], labels=labels)
    with pytest.raises(ValueError, match=r"labels are 0 \.\.\. 2 and omega has 2 rows"):
        run(table[:2], labels=labels)


@pytest.mark.parametrize("wrong", [
    lambda eps: eps[..., :1], lambda eps: eps[:1], lambda eps: eps[0],
    lambda eps: eps.astype(int), lambda eps: (eps, eps), lambda eps: 0.0,
])  # fmt: skip
def test_a_model_that_returns_something_else_is_told(wrong):
    with pytest.raises(ValueError, match="the model returned .* for x of float32"):
        run(0.5, eps_fn=lambda x, t, label: wrong(toy(x, t, label)))


def test_factories_must_be_called_and_weights_be_finite():
    with pytest.raises(ValueError, match=r"factory rules.cfg: call it, rules.cfg\(\)"):
        run(0.5, rule=rules.cfg)
    with pytest.raises(ValueError, match=r"factory ddim: call it, ddim\(\)"):
        run(0.5, solver=samplers.ddim)
    with pytest.raises(ValueError, match="omega has entries that are not finite"):
        run(np.nan)
