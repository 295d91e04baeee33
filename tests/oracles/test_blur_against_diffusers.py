"""The blur of queries beside the one of diffusers' smoothed energy guidance."""

import math

import numpy as np
import pytest

from progguide_jax.diffusion import blur

torch = pytest.importorskip("torch")
pytest.importorskip("diffusers")
pytestmark = pytest.mark.slow


@pytest.mark.parametrize("sigma", [0.4, 1.0, 1.5, 5.0])
@pytest.mark.parametrize("size", [7, 8])
def test_blurred_queries(size, sigma):
    from diffusers.hooks import smoothed_energy_guidance_utils as theirs

    q = np.random.default_rng(1).normal(size=(2, size, size, 4)).astype(np.float32)
    kernel = math.ceil(6 * sigma) + 1 - math.ceil(6 * sigma) % 2
    # its test for infinity is the wrong way round: a threshold below sigma blurs
    wanted = theirs._gaussian_blur_2d(
        torch.tensor(q.reshape(2, size**2, 4)), kernel, sigma, -1.0
    )
    found = blur.gaussian(q, sigma, 3.0).reshape(2, size**2, 4)
    np.testing.assert_allclose(found, wanted.numpy(), atol=1e-5)
