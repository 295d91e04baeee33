"""Images made worse by a known amount, to see what a score makes of it."""

import numpy as np

from progguide_jax.data import batches

_NOISE_STREAM = 3  # beside the streams of batches.py


def add_noise(images: np.ndarray, std: float, seed: int) -> np.ndarray:
    """images uint8 [N,H,W,C] plus N(0, std^2) on every value, rounded and clipped.

    std is in grey levels (0 to 255). The noise of image i depends on (seed, i) and on
    the shape of an image alone, and is proportional to std.
    """
    if images.dtype != np.uint8 or images.ndim != 4:
        raise ValueError(
            f"noise is for images uint8 [N,H,W,C], got {images.dtype} "
            f"{list(images.shape)}"
        )
    if not 0 <= std < np.inf:
        raise ValueError(f"the std of noise must be 0 or more grey levels, not {std}")
    noisy = np.empty_like(images)
    for i, image in enumerate(images):
        generator = np.random.Generator(batches.philox(seed, _NOISE_STREAM, i))
        noise = generator.standard_normal(image.shape, dtype=np.float32)
        noisy[i] = np.clip(np.rint(image + np.float32(std) * noise), 0, 255)
    return noisy
