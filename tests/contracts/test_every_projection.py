"""What every projection of the registry owes."""

import jax.numpy as jnp
import numpy as np
import pytest
import worlds

from progguide_jax.diffusion import process, samplers, solvers
from progguide_jax.guidance import projections, references, rules

EVERY = [name for name in projections.names() if name != "none"]
X0 = (
    np.random.default_rng(0).normal(size=(5, 4, 3))
    * np.array([0.1, 1, 2, 4, 8])[:, None, None]
)


def project(name, x0, **settings):
    return np.asarray(projections.make(name, **settings)(jnp.asarray(x0), None))


@pytest.mark.parametrize("name", EVERY)
def test_an_image_in_range_stays(name):
    small = X0 / np.abs(X0).max()
    np.testing.assert_array_equal(project(name, small), small.astype(np.float32))


@pytest.mark.parametrize("name", EVERY)
@pytest.mark.parametrize("bound", [1.0, 0.5])
def test_what_comes_out_is_in_range_and_keeps_its_signs(name, bound):
    found = project(name, X0, bound=bound)
    assert np.abs(found).max() <= bound * (1 + 1e-6)
    assert np.all(found * X0 >= 0)


@pytest.mark.parametrize("name", EVERY)
def test_a_batch_is_its_halves(name):
    halves = [project(name, X0[s]) for s in (slice(2), slice(2, 5))]
    np.testing.assert_array_equal(project(name, X0), np.concatenate(halves))


def test_dynamic_threshold_by_hand():
    # |x0| sorted 0 1 2 3 4: quantile 0.75 is 3; 4 -> 3, all divided by 3
    x0 = np.array([[0.0, 1.0, -2.0, 3.0, -4.0], [0.1, 0.2, 0.3, 0.4, 0.9]])
    found = project("dynamic_threshold", x0, quantile=0.75)
    np.testing.assert_allclose(found[0], np.array([0, 1, -2, 3, -3]) / 3, rtol=1e-6)
    np.testing.assert_allclose(found[1], x0[1], rtol=1e-6)


def test_quantile_1_divides_by_the_largest():
    found = project("dynamic_threshold", X0, quantile=1.0)
    largest = np.maximum(1, np.abs(X0).max((1, 2), keepdims=True))
    np.testing.assert_allclose(found, X0 / largest, rtol=1e-6)


@pytest.mark.parametrize("name", EVERY)
def test_sampling_ends_in_range(name):
    branches = references.branches(worlds.model(), jnp.arange(6) % 2, {"null": {}})
    run = dict(omega=np.full(8, 5.0), projection=projections.make(name))
    plan = solvers.ddim()(worlds.grid())
    x_0 = samplers.solve(branches, worlds.start(), plan, **run)
    assert np.abs(x_0).max() <= 1 + 1e-5


def test_cfgpp_keeps_its_own_eps():
    """One step by hand at alpha = 0.6 -> 0.8: x0 clipped, eps that of the reference."""
    ns = process.NoiseSchedule("pythagoras", np.array([0.64, 0.36]))

    def run(omega):
        _, path = samplers.sample(
            lambda x, t, c: jnp.broadcast_to(c[:, None], x.shape), jnp.ones((1, 1)),
            cond=jnp.array([-1.0]), null_cond=0.7, noise_schedule=ns,
            timesteps=np.array([1, 0]), omega=np.array([omega, 0.0]), clip_x0=1.0,
            rule=rules.cfgpp(), trajectory=True,
        )  # fmt: skip
        return path[1].item()

    # guided eps = -1 - 0.5 (-1.7) = -0.15, x0 = (1 + 0.12) / 0.6 -> 1; eps_u = 0.7
    assert run(-0.5) == pytest.approx(0.8 * 1 + 0.6 * 0.7, rel=1e-6)
    # plain: eps = -1, x0 = 3 -> 1, and eps from it again: (1 - 0.6) / 0.8 = 0.5
    assert run(0.0) == pytest.approx(0.8 * 1 + 0.6 * 0.5, rel=1e-6)


@pytest.mark.parametrize(
    ("name", "settings", "words"),
    [
        ("clip", {"bound": 0}, "bound must be positive"),
        ("dynamic_threshold", {"quantile": 1.5}, r"quantile must lie in \(0, 1\]"),
        ("dynamic_threshold", {"bound": -1}, "bound must be positive"),
        ("clipp", {}, "unknown projection 'clipp': did you mean 'clip'"),
    ],
)
def test_bad_settings(name, settings, words):
    with pytest.raises(ValueError, match=words):
        projections.make(name, **settings)
