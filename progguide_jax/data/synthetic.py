"""Cheap coloured shapes in place of photographs, for runs of a few seconds."""

import numpy as np

from progguide_jax.data import batches


def make(
    num_examples: int, image_size: int, channels: int, num_classes: int, seed: int = 0
) -> batches.Dataset:
    """A disc, square or diamond in the colour of its class on a noisy dark ground.

    images uint8 [N,H,W,C], labels int32 [N] (0, 1, ..., num_classes - 1, 0, ...).
    Class k has its own colour and shape k mod 3; place and radius are random.
    """
    generator = np.random.Generator(batches.philox(seed, batches.DATA_STREAM))
    labels = np.arange(num_examples, dtype=np.int32) % num_classes
    centre = generator.uniform(0.3, 0.7, (2, num_examples, 1, 1)) * image_size
    radius = generator.uniform(0.15, 0.3, (num_examples, 1, 1)) * image_size
    pixel = np.arange(image_size) + 0.5
    down = np.abs(pixel[None, :, None] - centre[0])  # [N,H,1]
    across = np.abs(pixel[None, None, :] - centre[1])  # [N,1,W]
    # The balls of three norms: disc (2), square (infinity), diamond (1).
    distances = [np.hypot(down, across), np.maximum(down, across), down + across]
    distance = np.choose(labels[:, None, None] % 3, distances)
    # cos falls over (0, pi), so the first channel alone tells the classes apart.
    hue = labels[:, None] / num_classes + 2 * np.arange(channels)[None, :] / 3
    colour = 160 + 95 * np.cos(np.pi * hue)  # [N,C], above the ground's 0 to 63
    ground = generator.integers(
        0, 64, (num_examples, image_size, image_size, channels), dtype=np.uint8
    )
    inside = (distance < radius)[..., None]
    images = np.where(inside, colour[:, None, None, :].astype(np.uint8), ground)
    return batches.Dataset(images, labels, num_classes)
