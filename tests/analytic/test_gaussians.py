"""The two-Gaussians oracle and, with it, the sampler, the guidance and the probe.

All in float64. The oracles are closed forms, scipy, brute force, and the independent
integration in tests/golden/make_two_gaussians.py.
"""

import itertools
import json
import math
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.integrate
import scipy.special
import scipy.stats

from progguide_jax.analytic import gaussians
from progguide_jax.diffusion import prediction, process, samplers
from progguide_jax.guidance import gradnorm, rules, schedules

pytestmark = pytest.mark.usefixtures("x64")
GOLDEN = json.loads(
    (pathlib.Path(__file__).parents[1] / "golden" / "two_gaussians.json").read_text()
)
NS = process.ddpm_linear()
SHAPE = (4, 4, 1)
TWO = gaussians.TwoGaussians(1.0, 0.25, SHAPE)  # D = 8, as in the golden file
CLOSE = gaussians.TwoGaussians(0.2, 0.5, SHAPE)  # classes that overlap: D = 1.6
INCREASING = ("static", "linear", "cosine")
CURVES = (*INCREASING, "invlinear", "sine", "sine_bump", "lambda", "vshape", "pcs")


def noise(seed, *shape):
    return np.random.default_rng(seed).standard_normal(shape)


def points(model, seed=0):
    """x_t where both classes are, with t over the whole range, for 32 images."""
    t = np.linspace(0, 999, 32).astype(np.int32)
    label = np.arange(32) % 2
    centre = process.at(NS.alpha, t, jnp.zeros((32, 1, 1, 1))) * model.mean
    x = centre * (2 * label - 1).reshape(-1, 1, 1, 1) + noise(seed, 32, *model.shape)
    return jnp.asarray(x), jnp.asarray(t), jnp.asarray(label)


def guide(model, x_T, label, omega, ts, ns=NS, **options):
    return samplers.sample(
        model.eps(ns),
        jnp.asarray(x_T),
        cond=jnp.asarray(label),
        null_cond=gaussians.NULL,
        noise_schedule=ns,
        timesteps=ts,
        omega=omega,
        **options,
    )


def along_axis(model, y):
    """Images [B,*shape] with class axis y [B] and nothing beside it."""
    y = np.asarray(y, np.float64).reshape(-1, *(1,) * len(model.shape))
    return np.broadcast_to(y / math.sqrt(model.dim), (len(y), *model.shape))


# The model


@pytest.mark.parametrize("label", [0, 1])
def test_density_of_a_class_is_the_normal_of_scipy(label):
    x, t, _ = points(CLOSE)
    actual = CLOSE.log_density(NS, x, t, jnp.full(32, label))
    a, s = NS.alpha[t], NS.sigma[t]
    mean = (2 * label - 1) * a * CLOSE.mean
    scale = np.sqrt(a**2 * CLOSE.std**2 + s**2)
    expected = scipy.stats.norm.logpdf(np.asarray(x).reshape(32, -1).T, mean, scale)
    np.testing.assert_allclose(actual, expected.sum(0), rtol=1e-12)


def test_mixture_density_and_classifier_obey_the_rule_of_bayes():
    x, t, _ = points(CLOSE)
    joint = [CLOSE.log_density(NS, x, t, k) - math.log(2) for k in (0, 1)]
    total = CLOSE.log_density(NS, x, t, gaussians.NULL)
    np.testing.assert_allclose(total, scipy.special.logsumexp(joint, 0), rtol=1e-12)
    for k in (0, 1):
        posterior = CLOSE.log_classifier(NS, x, t, k)
        np.testing.assert_allclose(posterior, joint[k] - total, atol=1e-10)


@pytest.mark.parametrize("label", [0, 1, 2])
def test_eps_is_minus_sigma_times_the_score(label):
    x, t, _ = points(CLOSE)

    def log_density(x):
        return jnp.sum(CLOSE.log_density(NS, x, t, label))

    expected = -process.at(NS.sigma, t, x) * jax.grad(log_density)(x)
    actual = CLOSE.eps(NS)(x, t, jnp.full(32, label))
    np.testing.assert_allclose(actual, expected, atol=1e-11)


def test_posterior_mean_is_found_by_importance_sampling():
    x, t, _ = points(CLOSE)
    x, t = x[8:24:5], t[8:24:5]  # where the weights are even enough
    n = 100_000
    label = np.arange(n) % 2
    x0 = CLOSE.mean * (2 * label - 1)[:, None] + CLOSE.std * noise(1, n, CLOSE.dim)
    for x_i, t_i in zip(x, t, strict=True):
        residual = np.ravel(x_i) - NS.alpha[t_i] * x0
        logits = -(residual**2).sum(1) / (2 * NS.sigma[t_i] ** 2)
        for k in (0, 1, 2):
            weight = np.exp(logits - logits.max()) * ((label == k) | (k == 2))
            weight /= weight.sum()
            mean = weight @ x0
            error = np.sqrt(weight**2 @ (x0 - mean) ** 2)
            actual = CLOSE.posterior_mean(NS, x_i[None], t_i[None], jnp.array([k]))
            assert np.all(np.abs(np.ravel(actual) - mean) < 5 * error)
            assert error.max() < 0.1


def test_posterior_mean_and_eps_are_two_forms_of_one_prediction():
    x, t, _ = points(TWO)
    for k in (0, 1, 2):
        label = jnp.full(32, k)
        x0 = process.to_x0(NS, x, t, TWO.eps(NS)(x, t, label))
        actual = TWO.posterior_mean(NS, x, t, label)
        np.testing.assert_allclose(actual, x0, atol=1e-10)


def test_classifier_score_is_the_gradient():
    x, t, label = points(CLOSE)

    def log_classifier(x):
        return jnp.sum(CLOSE.log_classifier(NS, x, t, label))

    actual = CLOSE.classifier_score(NS, x, t, label)
    np.testing.assert_allclose(actual, jax.grad(log_classifier)(x), atol=1e-12)


def test_embedding_of_a_mean_gives_the_conditional_model():
    x, t, label = points(TWO)
    emb = TWO.mean * (2.0 * label[:, None] - 1)
    actual = TWO.eps_of_mean(NS)(x, t, emb)
    np.testing.assert_allclose(actual, TWO.eps(NS)(x, t, label), atol=1e-13)


def test_samples_have_the_law_of_their_class():
    label = jnp.arange(6000) % 2
    x0 = np.asarray(CLOSE.sample(jax.random.key(3), label))
    assert x0.dtype == np.float64 and x0.shape == (6000, *SHAPE)
    for k, mean in ((0, -CLOSE.mean), (1, CLOSE.mean)):
        pixels = x0[np.asarray(label) == k].ravel()
        law = scipy.stats.norm(mean, CLOSE.std)
        assert scipy.stats.kstest(pixels, law.cdf).pvalue > 1e-3
    fewer = CLOSE.sample(jax.random.key(3), label[:5])
    np.testing.assert_array_equal(fewer, x0[:5])


def test_extreme_logits_stay_finite_in_float32():
    model = gaussians.TwoGaussians(0.5, 0.05, (32, 32, 1))
    x = jnp.asarray(np.full((3, 32, 32, 1), [[[[-30.0]]], [[[0.0]]], [[[30.0]]]]))
    x, t = x.astype(jnp.float32), jnp.zeros(3, jnp.int32)
    for k in (0, 1, 2):
        label = jnp.full(3, k)
        score = jax.grad(lambda x, k=label: model.log_density(NS, x, t, k).sum())(x)
        eps = model.eps(NS)(x, t, label)
        assert eps.dtype == jnp.float32
        for values in (score, eps, model.posterior_mean(NS, x, t, label)):
            assert np.all(np.isfinite(values))
    for k in (0, 1):
        assert np.all(np.isfinite(model.log_classifier(NS, x, t, k)))
        assert np.all(np.isfinite(model.classifier_score(NS, x, t, k)))
    with np.errstate(all="raise", under="ignore"):
        assert all(np.all(np.isfinite(loss)) for loss in model.bayes_mse(NS))


def test_equal_models_share_one_function():
    again = gaussians.TwoGaussians(1.0, 0.25, list(SHAPE))
    assert TWO.eps(NS) is again.eps(process.ddpm_linear())
    assert TWO.eps_of_mean(NS) is again.eps_of_mean(process.ddpm_linear())
    assert TWO.eps(NS) is not TWO.eps(process.cosine())


@pytest.mark.parametrize("bad", [(0.1, 0.0, (4,)), (0.1, 1.0, ()), (np.nan, 1.0, (4,))])
def test_impossible_models_are_refused(bad):
    with pytest.raises(ValueError, match="two Gaussians|shape"):
        gaussians.TwoGaussians(*bad)


def test_class_axis_and_separation():
    means = along_axis(TWO, np.array([-0.5, 0.5]) * TWO.separation)
    np.testing.assert_allclose(means[0], -TWO.mean, rtol=1e-15)
    np.testing.assert_allclose(TWO.class_axis(means), [-4, 4], rtol=1e-14)
    path = jnp.stack([means, 2 * means, 3 * means])  # any leading axes
    assert TWO.class_axis(path).shape == (3, 2)
    assert TWO.separation == 8.0


def test_bayes_losses_by_monte_carlo():
    n = 20_000
    label = jnp.arange(n) % 2
    x0 = CLOSE.sample(jax.random.key(5), label)
    eps = jnp.asarray(noise(6, *x0.shape))
    with_label, without = CLOSE.bayes_mse(NS)
    for t in (0, 60, 200, 400, 700, 999):
        x_t = process.add_noise(NS, x0, t, eps)
        for k, expected in ((label, with_label), (2 + 0 * label, without)):
            loss = np.mean(np.square(CLOSE.eps(NS)(x_t, t, k) - eps), (1, 2, 3))
            error = loss.std() / math.sqrt(n)
            assert abs(loss.mean() - expected[t]) < 4 * error
    assert np.max(without - with_label) > 0.01


def test_unconditional_loss_by_adaptive_quadrature():
    without = TWO.bayes_mse(NS)[1] - TWO.bayes_mse(NS)[0]
    for t in (0, 30, 150, 300, 600, 999):
        a, v = NS.alpha[t], TWO.variance(NS)[t]
        centre = a * 4 / math.sqrt(v)

        def density(z, centre=centre):
            bright, dark = scipy.stats.norm.pdf(z, [centre, -centre])
            return (bright + dark) / 2 * (1 - np.tanh(centre * z) ** 2)

        expected = scipy.integrate.quad(density, -30, 30, epsabs=1e-13, limit=500)[0]
        expected *= (NS.sigma[t] * a / v) ** 2
        np.testing.assert_allclose(without[t], expected, atol=1e-11)


# The sampler on it


def test_ddim_50_of_one_gaussian_is_the_product_of_its_steps():
    ts = samplers.timesteps(1000, 50)
    x = along_axis(TWO, [0, 1, 0])
    y = np.asarray(TWO.class_axis(guide(TWO, x, [1, 1, 0], np.zeros(50), ts)))
    r = np.append((NS.sigma / NS.alpha)[ts], 0)  # x = alpha y; in y a step is Euler's
    steps = (0.25**2 + r[1:] * r[:-1]) / (0.25**2 + r[:-1] ** 2)
    product = np.prod(steps) / NS.alpha[980]
    assert product == pytest.approx(0.225558, abs=5e-7)  # the data have 0.25
    start = 4 * (1 - product * NS.alpha[980])
    np.testing.assert_allclose(y, [start, start + product, -start], atol=1e-12)


@pytest.mark.parametrize(
    "variance, std",
    [("small", 0.24628), pytest.param("large", 0.25094, marks=pytest.mark.slow)],
)
def test_ddpm_1000_of_one_gaussian_is_a_linear_recursion(variance, std):
    beta = np.linspace(1e-4, 0.02, 1000)
    alpha_bar = np.cumprod(1 - beta)
    s, m = 0.25, 0.125
    slope, shift, spread = 1.0, 0.0, 0.0  # x = slope x_T + shift + spread z
    for t in range(999, -1, -1):  # DDPM, Algorithm 2
        v = alpha_bar[t] * s**2 + 1 - alpha_bar[t]
        shrink = (1 - beta[t] / v) / math.sqrt(1 - beta[t])
        pull = beta[t] * math.sqrt(alpha_bar[t]) * m / v / math.sqrt(1 - beta[t])
        before = alpha_bar[t - 1] if t else 1.0
        small = beta[t] * (1 - before) / (1 - alpha_bar[t])
        var_z = {"small": small, "large": beta[t]}[variance] if t else 0.0
        slope, shift = shrink * slope, shrink * shift + pull
        spread = math.sqrt(shrink**2 * spread**2 + var_z)
    assert math.hypot(slope, spread) == pytest.approx(std, abs=6e-6)
    assert shift == pytest.approx(0.1249997, abs=6e-8)

    model = gaussians.TwoGaussians(m, s, (20, 20))
    x_T = noise(2, 16, 20, 20)
    x_T[1:3] = [[[0.0]], [[1.0]]]
    keys = jax.random.split(jax.random.key(1), 16)
    keys = keys.at[2].set(keys[1])  # two starts under the same noise
    solver = samplers.ddpm(variance)
    ts = samplers.timesteps(1000, 1000)
    x = guide(model, x_T, np.ones(16, int), np.zeros(1000), ts, solver=solver, key=keys)
    np.testing.assert_allclose(x[2] - x[1], slope, atol=1e-12)
    pixels = np.delete(np.asarray(x), [1, 2], 0)
    n = pixels.size
    assert abs(pixels.mean() - shift) < 4 * std / math.sqrt(n)
    assert abs(pixels.std() - std) < 4 * std / math.sqrt(2 * n)


def test_guidance_leaves_everything_across_the_class_axis_alone():
    ts = samplers.timesteps(1000, 20)
    cells = list(itertools.product(CURVES, (0, 0.3, 3, 100)))
    omega = np.stack([schedules.make(n, w, ts, 1000) for n, w in cells], 1)
    x = np.broadcast_to(noise(7, *SHAPE), (len(cells), *SHAPE))
    out = np.asarray(guide(TWO, x, np.ones(len(cells), int), omega, ts))
    across = out - out.mean((1, 2, 3), keepdims=True)
    np.testing.assert_allclose(across, across[:1].repeat(len(cells), 0), atol=1e-12)
    assert np.ptp(out.mean((1, 2, 3))) > 0.1  # and it does act along the axis


@pytest.mark.parametrize("name", INCREASING)
def test_mirrored_starts_of_mirrored_classes_give_mirrored_paths(name):
    ts = samplers.timesteps(1000, 50)
    x = noise(8, 6, *SHAPE)
    omega = schedules.make(name, 10, ts, 1000)
    bright = guide(TWO, x, np.ones(6, int), omega, ts, trajectory=True)[1]
    dark = guide(TWO, -x, np.zeros(6, int), omega, ts, trajectory=True)[1]
    np.testing.assert_allclose(dark, -bright, atol=1e-12)


@pytest.mark.parametrize("name", INCREASING)
def test_more_guidance_is_further_on_the_side_of_the_label_at_every_step(name):
    ts = samplers.timesteps(1000, 200)
    scales, starts = [0, 0.3, 1, 3, 10, 50, 100], np.linspace(-3, 3, 13)
    omega = np.stack([schedules.make(name, w, ts, 1000) for w in scales], 1)
    x = np.repeat(along_axis(TWO, starts), len(scales), 0)
    omega = np.tile(omega, (1, len(starts)))
    path = guide(TWO, x, np.ones(len(x), int), omega, ts, trajectory=True)[1]
    y = np.asarray(TWO.class_axis(path)).reshape(201, len(starts), len(scales))
    assert np.all(np.diff(y, axis=-1) >= -1e-12)
    assert np.all(np.diff(y[-1], axis=-1) > 1e-3)


def guided(x, t, c, u, omega, kind="eps"):
    """eps of cfg at omega, where the network predicts `kind`."""
    alpha, sigma = process.at(NS.alpha, t, x), process.at(NS.sigma, t, x)
    omega = {"null": jnp.float64(omega)}
    step = prediction.Step(
        x, t, alpha, sigma, alpha, sigma, omega, jnp.int32(0), None, kind
    )
    of = {"cond": c, "null": u}

    def evaluate(*names):
        return [prediction.of_raw(of[name], x, alpha, sigma, kind) for name in names]

    return rules.cfg()(evaluate, step, None)[0]


def test_guidance_is_classifier_guidance_with_the_exact_classifier():
    x, t, label = points(CLOSE)
    c, u = (CLOSE.eps(NS)(x, t, k) for k in (label, jnp.full(32, 2)))
    push = process.at(NS.sigma, t, x) * CLOSE.classifier_score(NS, x, t, label)
    for omega in (-1.0, 0.0, 0.5, 20.0):
        expected = u - (1 + omega) * push
        np.testing.assert_allclose(guided(x, t, c, u, omega).eps, expected, atol=1e-11)


@pytest.mark.parametrize("kind", ["x0", "v"])
def test_guidance_commutes_with_the_parametrisation(kind):
    x, t, label = points(CLOSE)
    eps = [CLOSE.eps(NS)(x, t, k) for k in (label, jnp.full(32, 2))]
    expected = guided(x, t, *eps, 7.0)
    convert = {"x0": process.to_x0, "v": process.to_v}[kind]
    found = guided(x, t, *(convert(NS, x, t, e) for e in eps), 7.0, kind)
    np.testing.assert_allclose(found.eps, expected.eps, atol=1e-9)
    np.testing.assert_allclose(found.x0, expected.x0, atol=1e-9)


@pytest.mark.parametrize(
    "cell", GOLDEN["cells"], ids=lambda c: f"{c['schedule']}-{c['scale']}"
)
def test_ddim_50_equals_the_golden_trajectories(cell):
    ts = samplers.timesteps(1000, 50)
    weights = np.asarray(GOLDEN["weights"][cell["schedule"]])
    made = schedules.make(cell["schedule"], 1.0, ts, 1000)
    np.testing.assert_allclose(made, weights, rtol=1e-6)
    x = along_axis(TWO, GOLDEN["starts"])
    label = np.ones(len(x), int)
    path = guide(TWO, x, label, cell["scale"] * weights, ts, trajectory=True)[1]
    y = TWO.class_axis(path)[::10]
    np.testing.assert_allclose(y, cell["ddim50"], atol=1e-10)


def clock(num_steps, r_max):
    """A noise schedule with sigma / alpha = r_max tau^2, tau = 1/N ... 1."""
    tau = np.arange(1, num_steps + 1) / num_steps
    return tau, process.NoiseSchedule("clock", 1 / (1 + (r_max * tau**2) ** 2))


@pytest.mark.slow
def test_many_ddim_steps_converge_to_the_guided_ode():
    curves = {
        "static": np.ones_like,
        "linear": schedules.linear,
        "cosine": schedules.cosine,
    }
    cells, starts = GOLDEN["cells"], GOLDEN["starts"]
    x = along_axis(TWO, np.tile(starts, len(cells)))
    label = np.ones(len(x), int)
    expected = np.ravel([c["ode"] for c in cells])
    ends = []
    for num_steps in (1000, 2000):
        tau, ns = clock(num_steps, GOLDEN["r_max"])
        omega = [c["scale"] * curves[c["schedule"]](tau[::-1]) for c in cells]
        omega = np.repeat(omega, len(starts), 0).T
        out = guide(TWO, x, label, omega, np.arange(num_steps)[::-1], ns)
        ends.append(np.asarray(TWO.class_axis(out)))
    coarse, fine = (np.abs(y - expected) for y in ends)
    assert np.all(fine < 0.02)
    assert 0.9 < np.log2(np.linalg.norm(coarse) / np.linalg.norm(fine)) < 1.1
    limit = 2 * ends[1] - ends[0]  # first order removed (Richardson)
    np.testing.assert_allclose(limit, expected, atol=2e-4)


def test_ddim_is_of_first_order_on_the_quantile_map():
    # the probability flow of N(m, s^2) maps quantiles to quantiles
    x = noise(9, 3, *SHAPE)
    errors, counts = [], [40, 80, 160, 320]
    for num_steps in counts:
        _, ns = clock(num_steps, 80.0)
        ts = np.arange(num_steps)[::-1]
        out = guide(CLOSE, x, [1, 0, 1], np.zeros(num_steps), ts, ns)
        m = CLOSE.mean * np.array([1, -1, 1]).reshape(3, 1, 1, 1)
        z = (x - ns.alpha[-1] * m) / math.sqrt(CLOSE.variance(ns)[-1])
        errors.append(np.linalg.norm(out - (m + CLOSE.std * z)))
    slopes = -np.diff(np.log(errors)) / np.diff(np.log(counts))
    assert np.all((0.9 < slopes) & (slopes < 1.1)), slopes


def test_guidance_between_two_widths_integrates_the_weight_over_the_noise():
    # N(0, s_c^2) guided away from N(0, s_u^2): d ln y / d ln r is linear
    # in omega, so ln y_0 = ln s_c - integral of omega K d ln r with K below. Constant
    # omega gives s_c^(1+omega) / s_u^omega, not the std of p_c^(1+omega) / p_u^omega.
    s_c, s_u, r_max = 1.0, 2.0, 400.0
    curves = (lambda tau: 0 * tau, lambda tau: 1 + 0 * tau, schedules.linear)

    def log_width(curve):
        def rate(r):
            kernel = r * (s_u**2 - s_c**2) / (s_c**2 + r**2) / (s_u**2 + r**2)
            return curve(math.sqrt(r / r_max)) * kernel

        return math.log(s_c) - scipy.integrate.quad(rate, 0, r_max, limit=200)[0]

    expected = np.exp([log_width(curve) for curve in curves])
    np.testing.assert_allclose(expected[:2], [s_c, s_c**2 / s_u], rtol=1e-4)

    def end(num_steps):
        tau, ns = clock(num_steps, r_max)

        def eps(x, t, std):
            a, s = process.at(ns.alpha, t, x), process.at(ns.sigma, t, x)
            return s * x / (a**2 * std[:, None] ** 2 + s**2)

        return samplers.sample(
            eps,
            jnp.ones((3, 1)),
            cond=jnp.full(3, s_c),
            null_cond=s_u,
            noise_schedule=ns,
            timesteps=np.arange(num_steps)[::-1],
            omega=np.stack([curve(tau[::-1]) for curve in curves], 1),
        )[:, 0]

    limit = 2 * end(4000) - end(2000)  # first order removed (Richardson)
    np.testing.assert_allclose(limit, expected, rtol=3e-4)


def test_classes_that_coincide_make_the_weight_irrelevant():
    ts = samplers.timesteps(1000, 50)
    x = np.repeat(noise(10, 1, *SHAPE), 4, 0)
    omega = np.broadcast_to([0.0, 1.0, 10.0, 100.0], (50, 4))

    def spread(mean):
        model = gaussians.TwoGaussians(mean, 0.25, SHAPE)
        out = np.asarray(guide(model, x, np.ones(4, int), omega, ts))
        return np.ptp(out, axis=0).max()

    assert spread(0.0) < 1e-13
    # eps_c - eps_u is linear in the mean where the classifier knows nothing
    assert spread(1e-5) / spread(1e-6) == pytest.approx(10, rel=1e-3)


# The probe on it


def test_random_walk_behind_the_gradient_norm():
    for d in range(1, 9):
        ends = [abs(sum(w)) for w in itertools.product((-1, 1), repeat=d)]
        model = gaussians.TwoGaussians(0.3, 0.5, (d,))
        unit = NS.sigma * NS.alpha / model.variance(NS)
        expected = np.mean(ends) * unit
        np.testing.assert_allclose(model.gradnorm(NS), expected, rtol=1e-13)


def test_gradient_norm_peaks_where_noise_and_data_are_equally_wide():
    model = gaussians.TwoGaussians(0.125, 0.25, (32, 32, 1))
    g = model.gradnorm(NS)
    assert np.argmax(g) == np.argmin(np.abs(NS.sigma / NS.alpha - 0.25)) == 73
    limit = math.sqrt(2 * 1024 / math.pi) * NS.sigma * NS.alpha / model.variance(NS)
    np.testing.assert_allclose(g, limit, rtol=3e-4)  # Stirling, 1 / (4 d)


def test_probe_measures_the_exact_gradient_norm():
    n, d = 3000, 64
    ts = np.linspace(0, 999, 20).astype(np.int32)
    t = jnp.asarray(np.repeat(ts, n))
    model = gaussians.TwoGaussians(0.5, 0.25, (8, 8))
    label = jnp.arange(len(t)) % 2
    x0 = model.sample(jax.random.key(11), label)
    eps = jnp.asarray(noise(12, *x0.shape))
    emb = model.mean * (2.0 * label[:, None] - 1)
    g = gradnorm.per_example(model.eps_of_mean(NS), x0, eps, t, emb, noise_schedule=NS)
    g = np.asarray(g, np.float64).reshape(len(ts), n)
    error = g.std(1) / math.sqrt(n)
    assert np.all(np.abs(g.mean(1) - model.gradnorm(NS)[ts]) < 3 * error)
    walk = model.gradnorm(NS)[0] * model.variance(NS)[0] / (NS.sigma * NS.alpha)[0]
    cv = math.sqrt(d / walk**2 - 1)  # E S_d^2 = d, whatever t
    assert cv == pytest.approx(0.76, abs=0.01)
    np.testing.assert_allclose(g.std(1) / g.mean(1), cv, rtol=0.08)


@pytest.mark.parametrize("kind", process.PREDICTIONS)
def test_the_system_is_the_posterior_mean_in_any_prediction(kind):
    """At pure noise too, but for eps: there x0* is the mean of the class."""
    ns = process.zero_terminal_snr(NS)
    x, t, label = points(CLOSE)
    t = jnp.where(jnp.arange(len(t)) == 3, ns.num_timesteps - 1, t)
    if kind == "eps":
        t = jnp.minimum(t, ns.num_timesteps - 2)
    branch = CLOSE.system(ns, kind).branch(label)
    level = ns.level(t, x.dtype)
    assert branch.predicts == kind
    found = process.convert(level, x, branch.fn(x, level, label), kind, "x0")
    expected = CLOSE.posterior_mean(ns, x, t, label)
    np.testing.assert_allclose(found, expected, rtol=1e-6, atol=1e-6)
