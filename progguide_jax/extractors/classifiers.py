"""Classifiers of 32x32 images whose features and logits serve as a space for scores."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

_MEAN = np.array([0.485, 0.456, 0.406], np.float32)
_STD = np.array([0.229, 0.224, 0.225], np.float32)
_WIDTHS = (16, 32, 64)


class ResNet(nn.Module):
    """Residual network of CIFAR-10 with `depth` = 6 n + 2 layers, for inference.

    He et al. 2015 (arXiv:1512.03385), section 4.2: a 3x3 convolution, three stages of
    n blocks with 16, 32 and 64 channels, mean over space, 10 logits. Shortcuts have no
    parameters (their option A). The first block of stages 2 and 3 has stride 2; it adds
    the new channels as zeros, half before and half after the old ones, as the public
    weights want. Batch normalisation takes its statistics from `batch_stats`.
    """

    depth: int

    @nn.compact
    def __call__(self, images: jax.Array) -> dict[str, jax.Array]:
        """uint8 [B,32,32,3] -> features float32 [B,64], logits float32 [B,10]."""
        if self.depth < 8 or self.depth % 6 != 2:
            raise ValueError(f"a CIFAR ResNet has depth 6 n + 2, not {self.depth}")
        if images.dtype != jnp.uint8 or images.shape[1:] != (32, 32, 3):
            raise ValueError(
                f"ResNet-{self.depth} takes images uint8 [N, 32, 32, 3], got "
                f"{images.dtype} {list(images.shape)}: it is for CIFAR-10 only, score "
                "images of another size with the Inception or a ViT"
            )
        # (x / 255 - mean) / std as one multiply-add
        gain, shift = 1 / (255 * _STD), -_MEAN / _STD
        x = images.astype(jnp.float32) * gain.reshape(1, 1, 1, 3)
        x = _conv_bn(x + shift.reshape(1, 1, 1, 3), 16, 1, "conv1", "bn1")
        x = nn.relu(x)
        for stage, width in enumerate(_WIDTHS, 1):
            for i in range((self.depth - 2) // 6):
                x = _Block(width, name=f"layer{stage}_{i}")(x)
        features = x.mean((1, 2))
        logits = nn.Dense(10, precision="highest", name="linear")(features)
        return {"features": features, "logits": logits}


class _Block(nn.Module):
    """relu(x + two convolutions of x); wider than x: half the resolution too."""

    width: int

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        new = self.width - x.shape[-1]
        stride = 2 if new else 1
        h = nn.relu(_conv_bn(x, self.width, stride, "conv1", "bn1"))
        h = _conv_bn(h, self.width, 1, "conv2", "bn2")
        if new:
            x = x[:, ::2, ::2]
            x = jnp.pad(x, [(0, 0), (0, 0), (0, 0), (new // 2, new // 2)])
        return nn.relu(x + h)


def _conv_bn(x: jax.Array, width: int, stride: int, conv: str, bn: str) -> jax.Array:
    """3x3 convolution padded by 1 on every side ("SAME" differs at stride 2), bn."""
    x = nn.Conv(
        width, (3, 3), stride, 1, use_bias=False, precision="highest", name=conv
    )(x)
    return nn.BatchNorm(use_running_average=True, epsilon=1e-5, name=bn)(x)
