"""The variance-preserving diffusion process.

    x_t = alpha_t x0 + sigma_t eps,   alpha_t^2 + sigma_t^2 = 1      (DDPM, eq. 4)

t runs over 0 ... T-1; t = 0 is almost clean, t = T-1 almost pure noise. The paper's
gamma(t) is alpha_bar_t = alpha_t^2. Three parametrisations of one prediction:

    eps,    x0 = (x_t - sigma eps) / alpha,    v = alpha eps - sigma x0
"""

import dataclasses
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from progguide_jax import registry

PREDICTIONS = ("eps", "x0", "v")


class Level(NamedTuple):
    """How noisy each image is, all that a network is told of it: each [B].

    t may be fractional: a network embeds it as a number, it indexes no table.
    """

    t: jax.Array
    alpha: jax.Array
    sigma: jax.Array


@dataclasses.dataclass(frozen=True, eq=False)
class NoiseSchedule:
    """alpha_bar float64 [T] on the host, falling in t; equal and hashed by content."""

    name: str
    alpha_bar: np.ndarray

    def __post_init__(self):
        a = np.array(self.alpha_bar, np.float64)  # a copy: it is made read-only below
        # only the noisiest level may be pure noise
        if a.ndim != 1 or len(a) < 1 or not np.all((a >= 0) & (a < 1)):
            raise ValueError(
                f"{self.name}: alpha_bar must be [T] with values in [0, 1)"
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

    @property
    def log_r(self) -> np.ndarray:
        """log(sigma / alpha) float64 [T], rising in t: minus half the log-SNR."""
        with np.errstate(divide="ignore"):  # infinite where alpha is 0
            return (np.log1p(-self.alpha_bar) - np.log(self.alpha_bar)) / 2

    def time_of(self, log_r: np.ndarray) -> np.ndarray:
        """The fractional t of log(sigma / alpha): linear between whole timesteps.

        ValueError outside the range that the schedule covers.
        """
        log_r, known = np.asarray(log_r, np.float64), self.log_r
        t = np.arange(self.num_timesteps)
        whole = np.isfinite(known)
        low, high = known[whole][0], known[whole][-1]
        # the ends as exp(log(.)) gives them back
        inside = (log_r >= low - 1e-9) & (log_r <= high + 1e-9)
        if not np.all(inside | (log_r == known[-1])):
            raise ValueError(
                f"sigma/alpha {np.exp(log_r.min()):.4g} ... {np.exp(log_r.max()):.4g} "
                f"leaves the range of {self.name}: use {np.exp(low):.4g} ... "
                f"{np.exp(high):.4g}"
            )
        inner = np.interp(log_r, known[whole], t[whole])
        return np.where(log_r == known[-1], float(t[-1]), inner)

    def level(self, t: jax.Array, dtype=jnp.float32) -> "Level":
        """The level of t int [B]."""
        alpha, sigma = (jnp.asarray(a, dtype)[t] for a in (self.alpha, self.sigma))
        return Level(t, alpha, sigma)

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


SCHEDULES = {
    "ddpm_linear": ddpm_linear,
    "scaled_linear": scaled_linear,
    "cosine": cosine,
}


def names() -> list[str]:
    """The noise schedules that `make` knows."""
    return list(SCHEDULES)


def make(name: str, num_timesteps: int, **settings) -> NoiseSchedule:
    """The noise schedule `name`."""
    return registry.make(
        "noise schedule", name, SCHEDULES, num_timesteps=num_timesteps, **settings
    )


def of(ns: NoiseSchedule) -> NoiseSchedule:
    """ns itself; ValueError for anything else, such as a factory not called."""
    if not isinstance(ns, NoiseSchedule):
        found = getattr(ns, "__name__", type(ns).__name__)
        name = found if found in SCHEDULES else "ddpm_linear"
        raise ValueError(
            f"noise_schedule is {found}, no NoiseSchedule: pass "
            f"process.{name}(num_timesteps)"
        )
    return ns


def zero_terminal_snr(ns: NoiseSchedule) -> NoiseSchedule:
    """The schedule with alpha shifted and scaled so that t = T - 1 is pure noise.

    alpha' = (alpha - alpha_{T-1}) alpha_0 / (alpha_0 - alpha_{T-1}): Lin et al. 2023
    (arXiv:2305.08891), Algorithm 1. Networks that predict eps cannot be used with it.
    """
    if ns.num_timesteps < 2:
        raise ValueError("zero terminal SNR needs num_timesteps of at least 2")
    first, last = ns.alpha[0], ns.alpha[-1]
    alpha = (ns.alpha - last) * first / (first - last)
    return NoiseSchedule(f"{ns.name}_zero_terminal_snr", alpha**2)


def column(values: jax.Array, like: jax.Array) -> jax.Array:
    """values [B] or a scalar: dtype of `like` [B,...], broadcastable to it."""
    v = jnp.asarray(values, like.dtype)
    return jnp.reshape(v, v.shape + (1,) * (like.ndim - v.ndim)) if v.ndim else v


def at(values: np.ndarray, t: jax.Array, like: jax.Array) -> jax.Array:
    """values[t] for t [B] or scalar: dtype of `like` [B,...], broadcastable to it."""
    return column(jnp.asarray(values, like.dtype)[t], like)


def diffuse(level: Level, x0: jax.Array, eps: jax.Array) -> jax.Array:
    """x_t = alpha x0 + sigma eps: x0 and eps [B,...]. DDPM eq. 4."""
    return column(level.alpha, x0) * x0 + column(level.sigma, x0) * eps


def target(level: Level, x0: jax.Array, eps: jax.Array, kind: str) -> jax.Array:
    """What a network of `kind` (eps, x0 or v) should say of x0 and eps: [B,...]."""
    match kind:
        case "eps":
            return eps
        case "x0":
            return x0
        case "v":
            return column(level.alpha, x0) * eps - column(level.sigma, x0) * x0
    raise _unknown_kind(kind)


def convert(
    level: Level, x_t: jax.Array, prediction: jax.Array, source: str, to: str
) -> jax.Array:
    """The prediction of kind `to` that one of kind `source` implies: [B,...].

    Kinds are eps, x0 and v = alpha eps - sigma x0 (Salimans and Ho 2022); the latter's
    formulas need alpha^2 + sigma^2 = 1. Where alpha is 0, v and x0 say everything and
    eps says nothing of x0: it is divided by 0.
    """
    for kind in (source, to):
        if kind not in PREDICTIONS:
            raise _unknown_kind(kind)
    alpha, sigma = column(level.alpha, x_t), column(level.sigma, x_t)
    match source, to:
        case _ if source == to:
            return prediction
        case "eps", "x0":
            return (x_t - sigma * prediction) / alpha
        case "v", "x0":
            return alpha * x_t - sigma * prediction
        case "x0", "eps":
            return (x_t - alpha * prediction) / sigma
        case "v", "eps":
            return sigma * x_t + alpha * prediction
    x0, eps = (convert(level, x_t, prediction, source, k) for k in ("x0", "eps"))
    return target(level, x0, eps, "v")


def add_noise(
    ns: NoiseSchedule, x0: jax.Array, t: jax.Array, eps: jax.Array
) -> jax.Array:
    """x_t ~ q(x_t | x0): x0 and eps [B,...], t int [B] or scalar. DDPM eq. 4."""
    return diffuse(ns.level(t, x0.dtype), x0, eps)


def to_x0(
    ns: NoiseSchedule,
    x_t: jax.Array,
    t: jax.Array,
    prediction: jax.Array,
    kind: str = "eps",
) -> jax.Array:
    """The clean image that a prediction of `kind` (eps, x0 or v) [B,...] implies."""
    return convert(ns.level(t, x_t.dtype), x_t, prediction, kind, "x0")


def to_eps(
    ns: NoiseSchedule,
    x_t: jax.Array,
    t: jax.Array,
    prediction: jax.Array,
    kind: str = "x0",
) -> jax.Array:
    """The noise that a prediction of `kind` (eps, x0 or v) [B,...] implies."""
    return convert(ns.level(t, x_t.dtype), x_t, prediction, kind, "eps")


def to_v(
    ns: NoiseSchedule,
    x_t: jax.Array,
    t: jax.Array,
    prediction: jax.Array,
    kind: str = "eps",
) -> jax.Array:
    """v = alpha eps - sigma x0 (Salimans and Ho 2022) from a prediction of `kind`."""
    return convert(ns.level(t, x_t.dtype), x_t, prediction, kind, "v")


def _unknown_kind(kind: str) -> ValueError:
    return ValueError(
        f"unknown prediction {kind!r}: use one of {', '.join(PREDICTIONS)}"
    )
