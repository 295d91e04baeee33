"""Two classes of Gaussian images, dark and bright: data with known exact scores."""

import numpy as np

from progguide_jax.data import batches


def make(
    num_examples: int,
    image_size: int,
    channels: int,
    mean: float,
    std: float,
    seed: int = 0,
) -> batches.Dataset:
    """x0 | label ~ N(-mean, std^2 I) for label 0 (dark), N(+mean, std^2 I) for 1.

    images float32 [N,H,W,C], neither clipped nor quantised, so that the exact fields of
    the two Gaussians are those of the data; labels int32 [N] alternate, so the classes
    are equally many. Image i depends on (seed, i) alone.
    """
    generator = np.random.Generator(batches.philox(seed, batches.DATA_STREAM))
    shape = (num_examples, image_size, image_size, channels)
    images = generator.standard_normal(shape, dtype=np.float32)
    labels = np.arange(num_examples, dtype=np.int32) % 2
    centre = np.where(labels == 1, mean, -mean).astype(np.float32)
    images *= np.float32(std)
    images += centre[:, None, None, None]
    return batches.Dataset(images, labels, num_classes=2)
