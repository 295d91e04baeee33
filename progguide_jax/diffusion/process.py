"""The variance-preserving diffusion process.

    x_t = alpha_t x0 + sigma_t eps,   alpha_t^2 + sigma_t^2 = 1      (DDPM, eq. 4)

t runs over 0 ... T-1; t = 0 is almost clean, t = T-1 almost pure noise. The paper's
gamma(t) is alpha_bar_t = alpha_t^2. Three parametrisations of one prediction:

    eps,    x0 = (x_t - sigma eps) / alpha,    v = alpha eps - sigma x0
"""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np

PREDICTIONS = ("eps", "x0", "v")


@dataclasses.dataclass(frozen=True, eq=False)
class NoiseSchedule:
    """alpha_bar float64 [T] on the host, falling in t; equal and hashed by content."""

    name: str
    alpha_bar: np.ndarray

    def __post_init__(self):
        a = np.array(self.alpha_bar, np.float64)  # a copy: it is made read-only below
        if a.ndim != 1 or len(a) < 1 or not np.all((a > 0) & (a < 1)):
            raise ValueError(
                f"{self.name}: alpha_bar must be [T] with values in (0, 1)"
            )
        if np.any(np.diff(a) >= 0):
            raise ValueError(f"{self.name}: alpha_bar must fall strictly with t")
        object.__setattr__(self, "alpha_bar", a)
        a.setflags(write=False)

    @property
    def num_timesteps(self) -> int:
        return len(self.alpha_bar)

    @property
    def alpha(self) -> np.ndarray:
        return np.sqrt(self.alpha_bar)

    @property
    def sigma(self) -> np.ndarray:
        return np.sqrt(1.0 - self.alpha_bar)

    def __eq__(self, other) -> bool:
        return isinstance(other, NoiseSchedule) and np.array_equal(
            self.alpha_bar, other.alpha_bar
        )

    def __hash__(self) -> int:
        return hash(self.alpha_bar.tobytes())


def _from_betas(name: str, betas: np.ndarray) -> NoiseSchedule:
    if not np.all((betas > 0) & (betas < 1)):
        raise ValueError(f"{name}: every beta must lie in (0, 1)")
    return NoiseSchedule(name, np.cumprod(1.0 - betas))


def _check_num_timesteps(num_timesteps: int) -> None:
    if num_timesteps < 1:
        raise ValueError(f"num_timesteps must be at least 1, got {num_timesteps}")


def ddpm_linear(
    num_timesteps: int = 1000, beta_start: float = 1e-4, beta_end: float = 0.02
) -> NoiseSchedule:
    """beta linear from 1e-4 to 0.02, stated for T = 1000 (DDPM, section 4)."""
    _check_num_timesteps(num_timesteps)
    betas = np.linspace(beta_start, beta_end, num_timesteps)
    return _from_betas("ddpm_linear", betas)


def scaled_linear(
    num_timesteps: int = 1000, beta_start: float = 0.00085, beta_end: float = 0.012
) -> NoiseSchedule:
    """sqrt(beta) linear: latent diffusion and Stable Diffusion."""
    _check_num_timesteps(num_timesteps)
    betas = np.linspace(beta_start**0.5, beta_end**0.5, num_timesteps) ** 2
    return _from_betas("scaled_linear", betas)


def cosine(num_timesteps: int = 1000, max_beta: float = 0.999) -> NoiseSchedule:
    """alpha_bar ~ cos^2, each beta at most 0.999 (Nichol and Dhariwal 2021, eq. 17)."""
    _check_num_timesteps(num_timesteps)
    tau = np.arange(num_timesteps + 1) / num_timesteps
    alpha_bar = np.cos((tau + 0.008) / 1.008 * np.pi / 2) ** 2
    betas = np.minimum(1.0 - alpha_bar[1:] / alpha_bar[:-1], max_beta)
    return _from_betas("cosine", betas)


def at(values: np.ndarray, t: jax.Array, like: jax.Array) -> jax.Array:
    """values[t] for t [B] or scalar: dtype of `like` [B,...], broadcastable to it."""
    v = jnp.asarray(values, like.dtype)[t]
    return jnp.reshape(v, v.shape + (1,) * (like.ndim - v.ndim)) if v.ndim else v


def add_noise(
    ns: NoiseSchedule, x0: jax.Array, t: jax.Array, eps: jax.Array
) -> jax.Array:
    """x_t ~ q(x_t | x0): x0 and eps [B,...], t int [B] or scalar. DDPM eq. 4."""
    return at(ns.alpha, t, x0) * x0 + at(ns.sigma, t, x0) * eps


def to_x0(
    ns: NoiseSchedule,
    x_t: jax.Array,
    t: jax.Array,
    prediction: jax.Array,
    kind: str = "eps",
) -> jax.Array:
    """The clean image that a prediction of `kind` (eps, x0 or v) [B,...] implies."""
    alpha, sigma = at(ns.alpha, t, x_t), at(ns.sigma, t, x_t)
    match kind:
        case "eps":
            return (x_t - sigma * prediction) / alpha
        case "x0":
            return prediction
        case "v":
            return alpha * x_t - sigma * prediction
    raise _unknown_kind(kind)


def to_eps(
    ns: NoiseSchedule,
    x_t: jax.Array,
    t: jax.Array,
    prediction: jax.Array,
    kind: str = "x0",
) -> jax.Array:
    """The noise that a prediction of `kind` (eps, x0 or v) [B,...] implies."""
    alpha, sigma = at(ns.alpha, t, x_t), at(ns.sigma, t, x_t)
    match kind:
        case "eps":
            return prediction
        case "x0":
            return (x_t - alpha * prediction) / sigma
        case "v":
            return sigma * x_t + alpha * prediction
    raise _unknown_kind(kind)


def to_v(
    ns: NoiseSchedule,
    x_t: jax.Array,
    t: jax.Array,
    prediction: jax.Array,
    kind: str = "eps",
) -> jax.Array:
    """v = alpha eps - sigma x0 (Salimans and Ho 2022) from a prediction of `kind`."""
    if kind == "v":
        return prediction
    alpha, sigma = at(ns.alpha, t, x_t), at(ns.sigma, t, x_t)
    eps = to_eps(ns, x_t, t, prediction, kind)
    return alpha * eps - sigma * to_x0(ns, x_t, t, prediction, kind)


def _unknown_kind(kind: str) -> ValueError:
    return ValueError(
        f"unknown prediction {kind!r}: use one of {', '.join(PREDICTIONS)}"
    )
