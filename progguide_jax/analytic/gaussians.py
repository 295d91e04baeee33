"""Two Gaussians: the data set on which every guided trajectory has an exact answer.

    x0 | label ~ N(m_label 1, std^2 I),   m_dark = -mean,  m_bright = +mean,  priors 1/2

This is the toy of the paper (section 3: dark and bright images, parameters not given).
With d pixels, u = 1 / sqrt(d) and v = alpha^2 std^2 + sigma^2, Bayes' rule on
x_t = alpha x0 + sigma eps gives, for a known mean M of x0,

    p(x_t | label) = N(alpha m_label 1, v I)
    eps* = E[eps | x_t] = (sigma / v) (x_t - alpha M 1)                       (Tweedie)
    logit = log p(bright | x_t) / p(dark | x_t) = (2 alpha mean / v) sum_i x_t,i
    M = m_label, or without a label M = E[m | x_t] = mean tanh(logit / 2)

so guidance acts along u only, and only mean sqrt(d) and std matter there.
"""

import dataclasses
import functools
import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from progguide_jax.analytic import priors
from progguide_jax.diffusion import noise, prediction, process, system

DARK, BRIGHT, NULL = 0, 1, 2

EpsFn = Callable[[jax.Array, jax.Array, object], jax.Array]


@dataclasses.dataclass(frozen=True)
class TwoGaussians:
    """Images of `shape` whose pixels are N(-mean, std^2) or N(+mean, std^2).

    Labels: 0 dark, 1 bright, 2 the null label (the mixture). x_t is [B,*shape], t int32
    [B] or scalar, label int [B]. The dtype follows x_t, float64 included.
    """

    mean: float
    std: float
    shape: tuple[int, ...]

    def __post_init__(self):
        object.__setattr__(self, "shape", tuple(int(n) for n in self.shape))
        if not (math.isfinite(self.mean) and math.isfinite(self.std) and self.std > 0):
            raise ValueError(
                f"two Gaussians need a finite mean and a positive std, got mean "
                f"{self.mean} and std {self.std}"
            )
        if not self.shape or min(self.shape) < 1:
            raise ValueError(
                f"shape must be sizes of at least 1, such as (32, 32, 1): {self.shape}"
            )

    @property
    def dim(self) -> int:
        """d, the number of pixels."""
        return math.prod(self.shape)

    @property
    def separation(self) -> float:
        """D = 2 mean sqrt(d), the distance between the two means."""
        return 2 * self.mean * math.sqrt(self.dim)

    def class_axis(self, x: jax.Array) -> jax.Array:
        """y = u^T x [...] of x [...,*shape]; the classes sit at -D/2 and +D/2."""
        return _sum_pixels(self, x) / math.sqrt(self.dim)

    def variance(self, ns: process.NoiseSchedule) -> np.ndarray:
        """v = alpha^2 std^2 + sigma^2, the variance of a pixel of x_t | label: [T]."""
        return ns.alpha_bar * self.std**2 + (1 - ns.alpha_bar)

    def sample(self, key: jax.Array, label: jax.Array) -> jax.Array:
        """Exact draws x0 [B,*shape] for labels 0 and 1 [B]; image i is a function of
        (key, i, label i) alone."""
        label = jnp.asarray(label)
        keys = noise.image_keys(key, jnp.arange(len(label)))
        z = noise.initial_noise(keys, self.shape, jnp.result_type(float))
        return self.std * z + _column(self.mean * _sign(label, z), z)

    def eps(self, ns: process.NoiseSchedule) -> EpsFn:
        """eps*(x_t, t, label) [B,*shape] for `samplers.sample`, with null_cond = 2.

        Equal arguments return the same function object, hence one compilation.
        """
        return _eps(self, ns)

    def system(self, ns: process.NoiseSchedule, predicts: str = "eps") -> system.System:
        """The exact model as a system, on any level: conditions are labels, and their
        embeddings the probabilities [B,2] of dark and bright. predicts: eps, x0 or v;
        the latter two also of pure noise."""
        fn = jax.tree_util.Partial(_at_level(self, predicts))
        of_priors = jax.tree_util.Partial(_at_level(self, predicts, of_priors=True))
        return system.of_labels(
            fn,
            ns,
            self.shape,
            num_classes=2,
            null=NULL,
            predicts=predicts,
            embed=priors.of_label,
            branch_of_embedding=lambda emb: prediction.Branch(of_priors, emb, predicts),
            origin={
                "exact": "two Gaussians",
                "mean": self.mean,
                "std": self.std,
                "shape": list(self.shape),
            },
        )

    def log_prob(self) -> jax.tree_util.Partial:
        """(x_t, level, label) -> log p(label | x_t) [B], for classifier guidance."""
        return jax.tree_util.Partial(_log_prob(self))

    def eps_of_mean(self, ns: process.NoiseSchedule) -> EpsFn:
        """eps*(x_t, t, emb [B,1]), the embedding of a label being its mean m_label."""
        return _eps_of_mean(self, ns)

    def logit(
        self, ns: process.NoiseSchedule, x_t: jax.Array, t: jax.Array
    ) -> jax.Array:
        """log p(bright | x_t) - log p(dark | x_t): [B]."""
        total = _sum_pixels(self, x_t)
        scale = 2 * self.mean * ns.alpha / self.variance(ns)
        return process.at(scale, t, total) * total

    def posterior_mean(
        self, ns: process.NoiseSchedule, x_t: jax.Array, t: jax.Array, label: jax.Array
    ) -> jax.Array:
        """E[x0 | x_t, label] = (alpha std^2 x_t + sigma^2 M 1) / v: [B,*shape]."""
        v = self.variance(ns)
        pull = process.at(ns.alpha * self.std**2 / v, t, x_t)
        rest = process.at(ns.sigma**2 / v, t, x_t)
        mean = _mean(self, self.logit(ns, x_t, t), label)
        return pull * x_t + rest * _column(mean, x_t)

    def log_density(
        self, ns: process.NoiseSchedule, x_t: jax.Array, t: jax.Array, label: jax.Array
    ) -> jax.Array:
        """log p(x_t | label) [B], natural log; label 2: log of the mixture p(x_t)."""

        def log_normal(sign):
            centre = sign * self.mean * process.at(ns.alpha, t, x_t)
            square = _sum_pixels(self, jnp.square(x_t - centre))
            v = process.at(self.variance(ns), t, square)
            return -(square / v + self.dim * jnp.log(2 * jnp.pi * v)) / 2

        dark, bright = log_normal(-1), log_normal(1)
        mixture = jnp.logaddexp(dark, bright) - math.log(2)
        return jnp.where(
            label == NULL, mixture, jnp.where(label == BRIGHT, bright, dark)
        )

    def log_classifier(
        self, ns: process.NoiseSchedule, x_t: jax.Array, t: jax.Array, label: jax.Array
    ) -> jax.Array:
        """log p(label | x_t) [B], label 0 or 1: log of the logistic of +- logit."""
        logit = self.logit(ns, x_t, t)
        return jax.nn.log_sigmoid(_sign(label, logit) * logit)

    def classifier_score(
        self, ns: process.NoiseSchedule, x_t: jax.Array, t: jax.Array, label: jax.Array
    ) -> jax.Array:
        """Gradient of log p(label | x_t) in x_t: [B,*shape], label 0 or 1.

        The derivative of log p_label in the logit is +- (1 - p_label), and that of the
        logit in every pixel is 2 alpha mean / v.
        """
        logit = self.logit(ns, x_t, t)
        sign = _sign(label, logit)
        scale = 2 * self.mean * ns.alpha / self.variance(ns)
        slope = sign * jax.nn.sigmoid(-sign * logit) * process.at(scale, t, logit)
        return jnp.broadcast_to(_column(slope, x_t), x_t.shape)

    def bayes_mse(self, ns: process.NoiseSchedule) -> tuple[np.ndarray, np.ndarray]:
        """E (eps - eps*)^2 per pixel, with and without the label: float64 [T] each.

        With it alpha^2 std^2 / v. Without it the variance of m given x_t comes on top,
        (sigma alpha / v)^2 mean^2 E sech^2(logit / 2) (law of total variance). On the
        class axis, in units of sqrt(v), the classes are N(+-a, 1); writing sech^2 as
        4 p_+ p_- / (p_+ + p_-)^2 turns the expectation into exp(-a^2/2) E_z sech(a z).
        """
        v = self.variance(ns)
        a = ns.alpha * abs(self.separation) / 2 / np.sqrt(v)
        # Gauss-Hermite nodes are too sparse for the narrow sech of a large a; equal
        # distances converge exponentially on the whole line under a Gaussian weight.
        z = np.linspace(-10, 10, 801)
        weight = np.exp(-(z**2) / 2)
        weight /= weight.sum()
        decay = np.exp(-np.abs(np.outer(a, z)))  # sech without an overflow
        mean_sech = (2 * decay / (1 + decay**2)) @ weight
        with_label = ns.alpha_bar * self.std**2 / v
        spread = (ns.sigma * ns.alpha / v * self.mean) ** 2
        return with_label, with_label + spread * np.exp(-(a**2) / 2) * mean_sech

    def gradnorm(self, ns: process.NoiseSchedule) -> np.ndarray:
        """g*(t) of the paper's Eq. 5 for `eps_of_mean`, the same for both labels: [T].

        The derivative of eps* in the mean is -sigma alpha / v for every pixel, and the
        residuals have independent random signs, so g* = E |S_d| sigma alpha / v where
        S_d is a simple random walk of d steps: E |S_2k| = E |S_2k-1| = 2k C(2k,k) / 4^k
        (Feller, vol. 1, chapter III).
        """
        k = (self.dim + 1) // 2
        walk = 2 * k * math.comb(2 * k, k) / 4**k  # integers: exact until divided
        return walk * ns.sigma * ns.alpha / self.variance(ns)


@functools.cache
def _eps(model: TwoGaussians, ns: process.NoiseSchedule) -> EpsFn:
    def eps(x_t, t, label):
        return _at_level(model, "eps")(x_t, ns.level(t, x_t.dtype), label)

    return eps


@functools.cache
def _eps_of_mean(model: TwoGaussians, ns: process.NoiseSchedule) -> EpsFn:
    def eps_of_mean(x_t, t, emb):
        return _eps_given_mean(model, x_t, ns.level(t, x_t.dtype), emb[:, 0])

    return eps_of_mean


@functools.cache
def _at_level(model: TwoGaussians, predicts: str, of_priors: bool = False):
    """(x_t, level, label, or priors [B,2]) -> eps*, x0* or v*; one function object a
    model."""

    def exact(x_t, level, condition):
        logit = _logit(model, x_t, level)
        if of_priors:
            mean = _mean(model, logit + priors.logit(condition, logit), NULL)
        else:
            mean = _mean(model, logit, condition)
        eps = _eps_given_mean(model, x_t, level, mean)
        if predicts == "eps":
            return eps
        v = _variance(model, level)
        pull = _column(level.alpha * model.std**2 / v, x_t)
        rest = _column(jnp.square(level.sigma) / v, x_t)
        x0 = pull * x_t + rest * _column(mean, x_t)
        return process.target(level, x0, eps, predicts)

    return exact


@functools.cache
def _log_prob(model: TwoGaussians):
    def log_prob(x_t, level, label):
        logit = _logit(model, x_t, level)
        return jax.nn.log_sigmoid(_sign(label, logit) * logit)

    return log_prob


def _logit(model, x_t, level):
    """log p(bright | x_t) - log p(dark | x_t), at equal priors."""
    total = _sum_pixels(model, x_t)
    return 2 * model.mean * level.alpha / _variance(model, level) * total


def _eps_given_mean(model, x_t, level, mean):
    alpha = _column(level.alpha, x_t)
    scale = _column(level.sigma / _variance(model, level), x_t)
    return scale * (x_t - alpha * _column(mean, x_t))


def _variance(model, level):
    return jnp.square(level.alpha * model.std) + jnp.square(level.sigma)


def _mean(model, logit, label):
    """M [B]: the mean of x0 that the label, or the logit where there is none, says."""
    tanh = jnp.tanh(logit / 2)
    return model.mean * jnp.where(label == NULL, tanh, _sign(label, logit))


def _sign(label, like):
    return jnp.asarray(2 * label - 1, like.dtype)


def _column(values, like):
    """values [B] as [B,1,...] beside `like` [B,...]."""
    return jnp.reshape(values, values.shape + (1,) * (like.ndim - values.ndim))


def _sum_pixels(model, x):
    return jnp.sum(x, axis=tuple(range(-len(model.shape), 0)))
