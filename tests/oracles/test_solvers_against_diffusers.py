"""`samplers.sample` beside diffusers on its own timesteps, guided, image by image."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from progguide_jax.diffusion import process, samplers, solvers

pytestmark = pytest.mark.slow
NS = process.ddpm_linear(num_timesteps=1000)
H, S = 4.0, 0.25
BATCH = 6


def two_classes(np_, x, alpha, sigma, condition):
    """eps of pixels around +-H with standard deviation S; condition 0 is either."""
    r = sigma / alpha
    var = S**2 + r**2
    either = H * np_.tanh(H * x / alpha / var)
    mean = np_.where(condition == 0, either, H * condition)
    return r * (x / alpha - mean) / var


def ours(name, x_T, condition, timesteps, omega):
    alpha, sigma = jnp.asarray(NS.alpha), jnp.asarray(NS.sigma)

    def eps(x, t, condition):
        def wide(a):
            return a.reshape(len(x), 1, 1, 1)

        return two_classes(jnp, x, wide(alpha[t]), wide(sigma[t]), wide(condition))

    return samplers.sample(
        eps,
        jnp.asarray(x_T),
        cond=jnp.asarray(condition),
        null_cond=0.0,
        noise_schedule=NS,
        timesteps=timesteps,
        omega=omega,
        solver=getattr(solvers, name)(),
        key=jax.random.key(0),
        trajectory=True,
    )


def theirs(scheduler, x_T, condition, timesteps, omega):
    from oracles import diffusers_runs

    alpha = np.append(NS.alpha[timesteps], 1.0)
    sigma = NS.sigma[timesteps]

    def eps(x, k):
        c, u = (
            two_classes(np, x, alpha[k], sigma[k], condition[:, None] * keep)
            for keep in (1, 0)
        )
        return c + omega[k][:, None] * (c - u)

    y = x_T.reshape(BATCH, -1) / alpha[0]
    y = diffusers_runs.path(scheduler, eps, y)
    return y.reshape(-1, *x_T.shape) * alpha.reshape(-1, 1, 1, 1, 1)


@pytest.mark.parametrize("num_steps", [5, 20])
@pytest.mark.parametrize("spacing", ["leading", "trailing"])
@pytest.mark.parametrize("name", ["ddim", "euler", "heun", "dpmpp_2m", "unipc"])
def test_guided_path_is_the_one_of_diffusers(name, spacing, num_steps, x64):
    torch = pytest.importorskip("torch")
    pytest.importorskip("diffusers")
    from oracles import diffusers_runs

    scheduler = diffusers_runs.create(name, {}, timestep_spacing=spacing)
    # its own table is float32: sigma at t = 0 has three digits
    scheduler.alphas_cumprod = torch.tensor(NS.alpha_bar)
    scheduler.set_timesteps(num_steps)
    timesteps = scheduler.timesteps.numpy().astype(np.int32)
    timesteps = timesteps[np.append(True, np.diff(timesteps) < 0)]
    assert len(timesteps) == num_steps
    rng = np.random.default_rng(0)
    x_T = rng.standard_normal((BATCH, 3, 2, 1))
    condition = np.array([1.0, -1.0] * (BATCH // 2))
    # a column for every image: none, constant, rising, falling, in an interval, large
    ramp = np.linspace(0, 4, num_steps)
    inside = 2.0 * ((timesteps > 300) & (timesteps < 700))
    omega = np.stack([0 * ramp, 0 * ramp + 3, ramp, ramp[::-1], inside, 3 * ramp], 1)
    x_0, path = ours(name, x_T, condition, timesteps, omega)
    expected = theirs(scheduler, x_T, condition, timesteps, omega)
    np.testing.assert_array_equal(x_0, path[-1])
    np.testing.assert_allclose(path, expected, rtol=1e-5, atol=1e-5)
