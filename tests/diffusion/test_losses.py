"""Loss weights by hand, and that min-SNR is one loss whatever is predicted."""

import jax.numpy as jnp
import numpy as np
import pytest

from progguide_jax.diffusion import losses, process

# SNR 9, 16/9 and 9/16, and pure noise
ALPHA_BAR = np.array([0.9, 0.64, 0.36, 0.0])
LEVEL = process.Level(
    *(jnp.float32(a) for a in (np.arange(4), ALPHA_BAR**0.5, (1 - ALPHA_BAR) ** 0.5))
)


@pytest.mark.parametrize(
    "kind, expected",
    [
        ("eps", [5 / 9, 1, 1, 1]),  # at pure noise the limit
        ("x0", [5, 16 / 9, 9 / 16, 0]),
        ("v", [5 / 10, 16 / 25, 9 / 25, 0]),
    ],
)
def test_min_snr_by_hand(kind, expected):
    got = losses.make("min_snr", gamma=5.0)(LEVEL, kind)
    np.testing.assert_allclose(got, expected, rtol=1e-6)


@pytest.mark.parametrize("gamma", [0.1, 5.0, 100.0])
def test_min_snr_is_one_loss_whatever_is_predicted(gamma):
    """An error of eps weighs the same said as x0 and as v."""
    ns = process.ddpm_linear()
    level = ns.level(jnp.array([0, 10, 300, 700, 999]))
    x_t, eps = jnp.ones((2, 5, 1)) * jnp.array([[[0.3]], [[-0.7]]])
    weight, weighted = losses.min_snr(gamma), []
    for kind in process.PREDICTIONS:
        said, other = (
            process.convert(level, x_t, e, "eps", kind) for e in (eps, eps + 0.5)
        )
        weighted.append(weight(level, kind) * jnp.square(other - said)[:, 0])
    np.testing.assert_allclose(weighted[1], weighted[0], rtol=1e-3)
    np.testing.assert_allclose(weighted[2], weighted[0], rtol=1e-3)


@pytest.mark.parametrize("kind", process.PREDICTIONS)
def test_uniform_is_one(kind):
    np.testing.assert_array_equal(losses.make("uniform")(LEVEL, kind), np.ones(4))


def test_errors_say_what_to_do():
    with pytest.raises(ValueError, match="'min_snrr': did you mean 'min_snr'. use one"):
        losses.make("min_snrr")
    for gamma in (0.0, -1.0, float("nan")):
        with pytest.raises(ValueError, match="gamma must be positive"):
            losses.min_snr(gamma)
    assert losses.names() == ["uniform", "min_snr"]
