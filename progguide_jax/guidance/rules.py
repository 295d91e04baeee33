"""How the predictions of several branches combine.

A rule is a function (evaluate, step, carry) -> (Prediction, carry), pure and per image:

    evaluate("cond", "null")     the predictions of these branches, each run once; with
                                 x=... they are run on that instead of x_t
    step                         x_t, level, omega, ... (`prediction.Step`)
    carry                        the rule's own state; what `init(x_T)` gives at first

omega is the weight of p_c + omega (p_c - p_u): 0 is the conditional model, -1 the
unconditional one. (Imagen, diffusers and others write w = 1 + omega.) A rule never sees
omega = 0: the sampler gives an image of omega = 0 the conditional prediction and its
old carry, whatever the rule does and whatever its neighbours' omega is.
"""

import dataclasses
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from progguide_jax import registry
from progguide_jax.diffusion import closures, prediction
from progguide_jax.diffusion.levels import Levels


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Rule:
    """fn(evaluate, step, carry, **settings) with its settings, which are traced: rules
    that differ only in them share a compiled program.

    init: x_T -> first carry. consistent: whether the x0 and eps it returns belong to
    the same x_t; where not (CFG++), a projection of x0 leaves eps alone.
    """

    settings: dict[str, Any]
    fn: Callable = dataclasses.field(metadata=dict(static=True))
    init: Callable | None = dataclasses.field(default=None, metadata=dict(static=True))
    consistent: bool = dataclasses.field(default=True, metadata=dict(static=True))

    def __call__(self, evaluate, step: prediction.Step, carry):
        return self.fn(evaluate, step, carry, **self.settings)


def of(rule: Rule | Callable) -> Rule:
    """A user's function (evaluate, step, carry) as a Rule; its attribute `init`, if it
    has one, gives the first carry. Numbers that it reads from around it are constants
    of the compiled program, and other ones make another: `Rule(settings, fn)` hands
    them over as arguments."""
    if isinstance(rule, Rule):
        return rule
    if any(rule is entry.make for entry in RULES.values()):
        raise ValueError(
            f"rule is the factory rules.{rule.__name__}: call it, "
            f"rules.{rule.__name__}()"
        )
    if not callable(rule):
        raise ValueError(
            "a rule is a function (evaluate, step, carry) or what `rules.make` gives, "
            f"such as rules.cfg(): got {type(rule).__name__}"
        )
    return Rule({}, closures.by_variables(rule), getattr(rule, "init", None))


def cfg() -> Rule:
    """Classifier-free guidance p_c + omega (p_c - p_u): the paper's Eq. 3.

    Any space. With several references each adds its own omega (p_c - p_reference).
    """
    return Rule({}, _cfg)


def _cfg(evaluate, step, carry):
    c, *others = evaluate("cond", *step.weights)

    def combine(c, *others):
        pairs = zip(step.weights.values(), others, strict=True)
        return c + sum(omega * (c - other) for omega, other in pairs)

    return step.mix(combine, c, *others), carry


def apg(
    momentum: float = -0.5, norm_threshold: float = math.inf, eta: float = 0.0
) -> Rule:
    """Adaptive projected guidance (Sadat et al. 2024, arXiv:2410.02416, Algorithm 1).

    In x0: g = (x0_c - x0_u) + momentum g_before, scaled down to L2 norm norm_threshold,
    then split into parts parallel and orthogonal to x0_c: x0_c + omega (g_orthogonal +
    eta g_parallel). momentum 0, norm_threshold inf and eta 1 are CFG. Their weight is
    w = 1 + omega; they count from x0_u as diffusers does when eta = 1. norm_threshold
    grows with the root of the number of pixels: take about the median of the norm.
    """
    if not norm_threshold > 0:
        raise ValueError(
            f"apg: norm_threshold must be positive (inf = none), got {norm_threshold}"
        )
    if not (math.isfinite(momentum) and abs(momentum) < 1 and math.isfinite(eta)):
        raise ValueError(
            f"apg: momentum must lie in (-1, 1) and eta be finite, got momentum "
            f"{momentum} and eta {eta}"
        )
    settings = dict(momentum=momentum, norm_threshold=norm_threshold, eta=eta)
    return Rule(settings, _apg, jnp.zeros_like)


def _apg(evaluate, step, carry, *, momentum, norm_threshold, eta):
    c, u = (p.x0 for p in evaluate("cond", step.reference))
    running = (c - u) + momentum * carry
    tiny = jnp.finfo(jnp.float32).tiny
    length = jnp.maximum(prediction.norm(running), tiny)
    g = running * jnp.minimum(1, norm_threshold / length).astype(c.dtype)
    along = prediction.dot(g, c) / jnp.maximum(prediction.dot(c, c), tiny)
    parallel = along.astype(c.dtype) * c
    x0 = c + step.omega * (g - parallel + eta * parallel)
    return step.from_x0(x0), running


def cfgpp() -> Rule:
    """CFG++ (Chung et al. 2024, arXiv:2406.08070): denoise guided, renoise unguided.

    x0 is that of eps_u + lambda (eps_c - eps_u), lambda = 1 + omega in [0, 1], and eps
    is eps_u. Its omega therefore lies in [-1, 0); omega = 0 is plain conditional
    sampling here as everywhere. How much it guides depends on the step size:
    `cfgpp_omega` gives the omega that equals CFG.
    """
    return Rule({}, _cfgpp, consistent=False)


def _cfgpp(evaluate, step, carry):
    c, u = evaluate("cond", step.reference)
    guided = step.mix(lambda c, u: c + step.omega * (c - u), c, u)
    return prediction.Prediction(guided.x0, u.eps), carry


def cfgpp_omega(levels: Levels, omega: np.ndarray) -> np.ndarray:
    """The omega [S] with which CFG++ takes the DDIM steps that CFG takes at `omega`.

    w = lambda a_s s_t / (a_s s_t - s_s a_t) for a step from t to s, both weights
    counted from the unconditional prediction.
    """
    a_t, s_t = levels.alpha[:-1], levels.sigma[:-1]
    a_s, s_s = levels.alpha[1:], levels.sigma[1:]
    return (1 + np.asarray(omega)) * (1 - s_s * a_t / (a_s * s_t)) - 1


class RuleEntry(NamedTuple):
    """make: settings -> Rule. as_cfg: (levels, omega [S]) -> (settings, omega [S]) with
    which the rule takes the steps that CFG takes at omega under DDIM. scales: the
    guidance scales that make sense, lowest and highest. several: whether it takes more
    than one reference."""

    make: Callable[..., Rule]
    as_cfg: Callable[[Levels, np.ndarray], tuple[dict, np.ndarray]]
    scales: tuple[float, float] = (-1.0, math.inf)
    several: bool = False


RULES = {
    "cfg": RuleEntry(cfg, lambda levels, omega: ({}, omega), several=True),
    "apg": RuleEntry(
        apg,
        lambda levels, omega: (
            dict(momentum=0.0, norm_threshold=math.inf, eta=1.0),
            omega,
        ),
    ),
    "cfgpp": RuleEntry(
        cfgpp, lambda levels, omega: ({}, cfgpp_omega(levels, omega)), (-1.0, 0.0)
    ),
}


def names() -> list[str]:
    """The rules that `make` knows."""
    return list(RULES)


def make(name: str, **settings) -> Rule:
    """The rule `name`."""
    return registry.make(
        "rule", name, {k: e.make for k, e in RULES.items()}, **settings
    )
