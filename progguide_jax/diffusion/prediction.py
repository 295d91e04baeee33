"""What a model says, and the ways of asking it.

A prediction has two faces, x0 and eps, with x_t = alpha x0 + sigma eps. A branch is one
way of asking for one: with the label, without it, with a weak network, ... All
arithmetic on predictions that is linear, with weights that sum to one, is the same on
either face; `Step.mix` does it where the network itself predicts.
"""

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from progguide_jax import registry
from progguide_jax.diffusion import process

# the name under which a rule of one reference asks for several: `Step.mean`
MEAN = "mean of the references"


class Prediction(NamedTuple):
    """The clean image and the noise in x_t, each [B,...]."""

    x0: jax.Array
    eps: jax.Array


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Branch:
    """One way of asking a model: fn(x [B,...], level, cond) -> raw prediction [B,...].

    fn is a `jax.tree_util.Partial` with the parameters inside, so that they are
    arguments of a compiled program; cond is any pytree with leading axis B; level is a
    `process.Level`. predicts: what fn returns, one of `process.PREDICTIONS`. random: fn
    gets `keys=`, one an image [B], others at each evaluation. uses: names of branches
    whose predictions at the same x fn gets as `given=`, {name: Prediction}. shape: that
    of one x, where it is known. Branches that share one fn object are run as one batch
    under `double_batch`.
    """

    fn: Callable[..., jax.Array]
    cond: Any
    predicts: str = dataclasses.field(default="eps", metadata=dict(static=True))
    random: bool = dataclasses.field(default=False, metadata=dict(static=True))
    uses: tuple[str, ...] = dataclasses.field(default=(), metadata=dict(static=True))
    shape: tuple[int, ...] | None = dataclasses.field(
        default=None, metadata=dict(static=True)
    )

    def __post_init__(self):
        registry.check("prediction", self.predicts, process.PREDICTIONS)


def of_raw(
    raw: jax.Array, x: jax.Array, alpha: jax.Array, sigma: jax.Array, predicts: str
) -> Prediction:
    """Both faces of a raw prediction of x [B,...]; v and x0 also where alpha is 0."""
    level = process.Level(None, alpha, sigma)
    return Prediction(
        *(
            process.convert(level, x, raw.astype(x.dtype), predicts, face)
            for face in Prediction._fields
        )
    )


@dataclasses.dataclass(frozen=True)
class Step:
    """What a rule or a projection may see of the evaluation at hand.

    x [B,...]; t, alpha, sigma: scalars of this level, and alpha_next, sigma_next of
    the grid point that it leads to; weights: {reference: omega}, each a scalar or
    [B,1,...]; index: of the evaluation; keys: one key an image [B] for this evaluation;
    predicts: what the conditional network returns.
    """

    x: jax.Array
    t: jax.Array
    alpha: jax.Array
    sigma: jax.Array
    alpha_next: jax.Array
    sigma_next: jax.Array
    weights: dict[str, jax.Array]
    index: jax.Array
    keys: jax.Array
    predicts: str

    @property
    def reference(self) -> str:
        """The name of the only reference; of several, that of their mean."""
        return next(iter(self.weights)) if len(self.weights) == 1 else MEAN

    @property
    def omega(self) -> jax.Array:
        """The weight of `reference`, broadcastable to x: of several the sum."""
        first, *others = self.weights.values()
        return sum(others, first)

    def mean(self, found: dict[str, Prediction]) -> Prediction:
        """What several references are to a rule of one:

            p_ref = sum_k omega_k p_k / omega,  omega = sum_k omega_k,

        so that omega (p_c - p_ref) = sum_k omega_k (p_c - p_k). Its density is the
        product of the p_k^(omega_k / omega).
        """
        shares = self.shares()

        def mean(*faces):
            return sum(s * f for s, f in zip(shares.values(), faces, strict=True))

        return jax.tree.map(mean, *(found[name] for name in shares))

    def shares(self) -> dict[str, jax.Array]:
        """omega_k / omega of each reference; where omega is 0 all have the same."""
        omega, count = self.omega, len(self.weights)
        whole = jnp.where(omega == 0, 1, omega)
        return {
            name: jnp.where(omega == 0, 1 / count, weight / whole)
            for name, weight in self.weights.items()
        }

    def from_x0(self, x0: jax.Array) -> Prediction:
        """The prediction of this clean image."""
        return Prediction(x0, (self.x - self.alpha * x0) / self.sigma)

    def from_eps(self, eps: jax.Array) -> Prediction:
        """The prediction of this noise; alpha must not be 0."""
        return Prediction((self.x - self.sigma * eps) / self.alpha, eps)

    def predicted(self, prediction: Prediction) -> jax.Array:
        """It as what the conditional network returns: eps, x0 or v."""
        level = process.Level(None, self.alpha, self.sigma)
        return process.target(level, *prediction, self.predicts)

    def mix(self, combine: Callable[..., jax.Array], *predictions) -> Prediction:
        """combine(*arrays), linear with weights that sum to one, of predictions at x.

        Done on eps where the network predicts it, and else on both faces, so that it
        is exact at alpha = 0 too.
        """
        if self.predicts == "eps":
            return self.from_eps(combine(*(p.eps for p in predictions)))
        return jax.tree.map(combine, *predictions)


def per_image(values: jax.Array, like: jax.Array) -> jax.Array:
    """values [B] as [B,1,...] beside `like` [B,...]; a scalar as it is."""
    return jnp.reshape(values, values.shape + (1,) * (like.ndim - 1) * values.ndim)


def dot(a: jax.Array, b: jax.Array) -> jax.Array:
    """Inner product of each image, [B,1,...] from [B,...]; in float32 or more."""
    wide = jnp.promote_types(a.dtype, jnp.float32)
    axes = tuple(range(1, a.ndim))
    return jnp.sum(a.astype(wide) * b.astype(wide), axis=axes, keepdims=True)


def norm(a: jax.Array) -> jax.Array:
    """L2 norm of each image: [B,1,...]."""
    return jnp.sqrt(dot(a, a))
