"""The law of stochastic samples, against exact moments from golden/solvers.json."""

import json
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from progguide_jax.diffusion import process, samplers

GOLDEN = pathlib.Path(__file__).parents[1] / "golden" / "solvers.json"
golden = json.loads(GOLDEN.read_text())
NS = process.ddpm_linear(num_timesteps=1000)
SOLVERS = {"ddim": samplers.ddim, "ddpm": samplers.ddpm}


def bright(x, t, condition):
    """eps of pixels around the bright class's mean."""
    h, s = golden["half_separation"], golden["std"]
    alpha, sigma = jnp.asarray(NS.alpha)[t], jnp.asarray(NS.sigma)[t]
    alpha, sigma = alpha[:, None, None], sigma[:, None, None]
    return sigma * (x - alpha * h) / (alpha**2 * s**2 + sigma**2)


@pytest.mark.parametrize(
    "cell",
    [
        cell
        for cell in golden["cells"]
        if cell["solver"] in SOLVERS and cell["grid"] == "leading" and "law" in cell
    ],
    ids=lambda c: "-".join([c["solver"], *(str(v) for v in c["settings"].values())]),
)
def test_mean_and_spread_are_exact(cell):
    """32768 pixels, five standard errors."""
    timesteps = samplers.timesteps(1000, 10)
    x_0 = samplers.sample(
        bright,
        jax.random.normal(jax.random.key(1), (8, 64, 64)),
        cond=jnp.zeros(8),
        null_cond=0.0,
        noise_schedule=NS,
        timesteps=timesteps,
        omega=np.zeros(10),
        solver=SOLVERS[cell["solver"]](**cell["settings"]),
        key=jax.random.key(2),
    )
    mean, std = cell["law"]
    np.testing.assert_array_equal(timesteps, golden["grids"]["leading"]["t"])
    np.testing.assert_allclose(x_0.mean(), mean, rtol=0, atol=5 * std / 32768**0.5)
    np.testing.assert_allclose(x_0.std(), std, rtol=5 / 65536**0.5)
    # neighbours within an image and from image to image are independent
    z = np.asarray(x_0 - mean) / std
    for axis in range(3):
        beside = np.mean(z * np.roll(z, 1, axis))
        np.testing.assert_allclose(beside, 0.0, atol=5 / 32768**0.5)
