"""The image itself as features: scores without any weights."""

import flax.linen as nn
import jax
import jax.numpy as jnp

SIDE = 8  # the most pixels a side


class Pixels(nn.Module):
    """Means over equal blocks of pixels, at most 8x8 of them, in [-1, 1].

    A Fréchet distance of these sees colours and layout only; it is here for runs
    without weights and for data whose exact answer is known.
    """

    @nn.compact
    def __call__(self, images: jax.Array) -> dict[str, jax.Array]:
        """uint8 [B,H,W,C] -> features float32 [B,h w C]; H, W multiples of h, w."""
        b, height, width, c = images.shape
        h, w = min(height, SIDE), min(width, SIDE)
        if height % h or width % w:
            raise ValueError(
                f"features 'pixels' need sides that are multiples of {SIDE}, got "
                f"{height} x {width}"
            )
        x = images.astype(jnp.float32) / 127.5 - 1
        x = x.reshape(b, h, height // h, w, width // w, c).mean((2, 4))
        return {"features": x.reshape(b, -1)}
