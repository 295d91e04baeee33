"""Rules whose weight follows what was seen of an image so far."""

import math

import jax.numpy as jnp
import numpy as np

from progguide_jax import registry
from progguide_jax.diffusion import closures, prediction
from progguide_jax.diffusion.levels import Levels
from progguide_jax.guidance.rules import linear, shape


@registry.numeric
def adaptive(threshold: float = 0.991, rule: str | shape.Rule = "cfg") -> shape.Rule:
    """Adaptive guidance (Castillo et al. 2023, arXiv:2312.12487).

    Formula: CFG until the cosine of eps_c and eps_u has been above threshold once;
        afterwards the conditional prediction, each image for itself.
    Convention: theirs is w = 1 + omega.
    Space: eps.
    Cost: 2 evaluations, and 1 once every image of the batch has stopped.
    Neutral: threshold inf is CFG, or the rule.
    Deviation: theirs is CFG; here any rule may be the one that guides until then.

    rule: the one that guides; by config its name, with its settings in its own section,
    in Python a Rule, such as rules.apg(). The step that crosses the threshold is still
    guided, since both predictions are there. 0.991 is the value for Stable Diffusion;
    where eps is nearly x_t, as at high noise, the cosine is high too, so try another on
    other models. A rule that does not ask for p_u at x_t costs that evaluation more.
    """
    if not threshold > -1:
        raise ValueError(
            f"adaptive: threshold is a cosine and must be above -1 (inf = never stop), "
            f"got {threshold}"
        )
    rule = linear.cfg() if rule == "cfg" else rule
    if not isinstance(rule, shape.Rule):
        raise ValueError(
            f"adaptive: rule is {rule!r:.40}: pass a Rule, such as rules.apg(), or "
            "rules.of(a function)"
        )
    if rule.active is not None:
        raise ValueError(
            "adaptive: rule is one that stops by itself: use another, such as apg"
        )
    on_plan = rule.on_plan and shape.bound(_inner_on, on_plan=rule.on_plan)
    return shape.Rule(
        dict(threshold=threshold, rule=rule.settings),
        shape.bound(_adaptive, guide=closures.of_user(rule.fn)),
        shape.bound(_every_image, init=rule.init),
        _still,
        consistent=rule.consistent,
        on_plan=on_plan,
        omegas=rule.omegas,
        references="one" if rule.references == "one" else "mean",
    )


def _every_image(x_T, *, init):
    """Whether each image is guided, and the rule's own carry."""
    return jnp.ones(len(x_T), bool), None if init is None else init(x_T)


def _still(carry):
    guided, _ = carry
    return guided


def _inner_on(plan, *, threshold, rule, on_plan):
    return dict(threshold=threshold, rule=on_plan(plan, **rule))


def _adaptive(evaluate, step, carry, *, threshold, rule, guide):
    guided, inner = carry
    found, inner = guide(evaluate, step, inner, **rule)
    c, u = evaluate("cond", step.reference)
    size = prediction.norm(c.eps) * prediction.norm(u.eps)
    cosine = prediction.dot(c.eps, u.eps) / jnp.maximum(size, _TINY)
    # an image that has stopped is not guided again: its carry stays as it is
    return found, (cosine.reshape(guided.shape) <= threshold, inner)


_TINY = np.finfo(np.float32).tiny
_HIGHEST = 3.0  # of the log-posterior


@registry.numeric
def feedback(
    pi: float = 0.95,
    tau: float | None = None,
    delta: float | None = None,
    most: float = 10.0,
    t_0: float = 0.5,
    t_1: float = 0.4,
) -> shape.Rule:
    """Feedback guidance (Koulischer et al. 2025, arXiv:2506.06085).

    Formula: x0_c + omega (lambda - 1) (x0_c - x0_u), with lambda = e^L / (e^L - (1 -
        pi)). L, the log-posterior of the condition, is 0 at first and after a step from
        noise r to s becomes L - tau / (2 v) (|x - m_c|^2 - |x - m_u|^2) + delta, where
        m = (s/r)^2 x_before + (1 - (s/r)^2) x0 and v = s^2 (1 - (s/r)^2), r and x
        counted at alpha = 1; it is kept where lambda is at most `most`, and below 3.
    Convention: theirs is lambda = 1 + the weight; omega multiplies it, and 1 is theirs.
    Space: x0.
    Cost: 2 evaluations.
    Neutral: pi 1 is the conditional model; pi 0.5, tau 0, delta 0 are CFG.
    Deviation: the sum with a constant weight in their code is left out, and tau and
        delta are not rounded to 4 digits. A stage that does not lower the noise (Heun's
        second) leaves L alone.
    Source: the authors' code (FelixKoulischer/FBG_using_edm2).

    tau and delta belong to a grid. None: those that `feedback_settings` derives from
    the grid at hand, as the authors do: without evidence the weight reaches 3 at t_0 of
    the way, counted in steps from data (0) to noise (1), and near t_1 the evidence
    outweighs delta. t_0 0.5 and t_1 0.4 are those of their code. One reference only,
    since L compares two densities.
    """
    if not 0 < pi <= 1:
        raise ValueError(f"feedback: pi must lie in (0, 1], got {pi}")
    for key, value, low in (("tau", tau, 0), ("delta", delta, -math.inf)):
        if value is not None and not (low <= value and math.isfinite(value)):
            raise ValueError(
                f"feedback: {key} must be finite{' and not negative' * (low == 0)} "
                f"(None = from the grid), got {value}"
            )
    if not most > 1:
        raise ValueError(f"feedback: most must be above 1, the least weight: {most}")
    for key, value in (("t_0", t_0), ("t_1", t_1)):
        if not 0 <= value < 1:
            raise ValueError(
                f"feedback: {key} is a share of the way, 0 <= {key} < 1, got {value}"
            )
    settings = dict(pi=pi, tau=tau, delta=delta, most=most, t_0=t_0, t_1=t_1)
    return shape.Rule(
        settings, _feedback, _nothing_seen, on_plan=_feedback_on, references="one"
    )


def _feedback_on(plan, *, pi, tau, delta, most, t_0, t_1):
    """The settings of _feedback, with those that were left to the grid."""
    derived = dict(tau=0.0, delta=0.0)  # of pi 1, where there is nothing to learn
    if pi < 1:
        derived = feedback_settings(plan.levels, pi, t_0, t_1)
    given = dict(tau=tau, delta=delta)
    chosen = {k: derived[k] if v is None else v for k, v in given.items()}
    return dict(pi=pi, most=most, **chosen)


def _nothing_seen(x_T):
    """L, and of the evaluation before: (alpha / sigma)^2 and x / sigma times its root,
    x0_c and x0_u."""
    wide = jnp.promote_types(x_T.dtype, jnp.float32)
    each = jnp.zeros((len(x_T),) + (1,) * (x_T.ndim - 1), wide)
    zeros = jnp.zeros_like(x_T)
    return each, each, zeros, zeros, zeros


def _feedback(evaluate, step, carry, *, pi, tau, delta, most):
    c, u = evaluate("cond", step.reference)
    log_posterior, snr, x_before, c_before, u_before = carry
    r = step.sigma / step.alpha
    ratio = r**2 * snr  # (s/r)^2; 0 before there is anything
    lower = (snr > 0) & (ratio < 1)
    ratio = jnp.where(lower, ratio, 0)
    m_u = r**2 * x_before + (1 - ratio) * u_before
    apart = (1 - ratio) * (c_before - u_before)
    off = step.x / step.alpha - m_u
    nearer = prediction.dot(apart, apart - 2 * off)  # |x - m_c|^2 - |x - m_u|^2
    moved = log_posterior - tau / (2 * r**2 * (1 - ratio)) * nearer + delta
    least = jnp.log((1 - pi) * most / (most - 1))
    moved = jnp.clip(moved, least, _HIGHEST).astype(log_posterior.dtype)
    log_posterior = jnp.where(lower, moved, log_posterior)
    extra = 1 / (1 - (1 - pi) * jnp.exp(-log_posterior)) - 1
    weight = (step.omega * extra).astype(c.x0.dtype)
    found = step.mix(lambda c, u: c + weight * (c - u), c, u)
    snr = jnp.zeros_like(snr) + (step.alpha / step.sigma) ** 2
    x_before = step.x * (step.alpha / step.sigma**2)
    return found, (log_posterior, snr, x_before, c.x0, u.x0)


def feedback_settings(
    levels: Levels,
    pi: float = 0.95,
    t_0: float = 0.5,
    t_1: float = 0.4,
    reference: float = 3.0,
) -> dict[str, float]:
    """{setting: value} of `feedback` on these levels, as its authors derive them.

    t counts the steps from data (0) to noise (1): without evidence lambda reaches
    `reference` at t_0, and near t_1 the evidence outweighs delta.
    """
    if not (0 < pi < 1 and 0 <= t_0 < 1 and 0 <= t_1 < 1 and reference > 1):
        raise ValueError(
            f"feedback_settings: use 0 < pi < 1, t_0 and t_1 in [0, 1) and reference "
            f"> 1, got {pi}, {t_0}, {t_1} and {reference}"
        )
    steps = len(levels.r) - 1
    delta = np.log((1 - pi) * reference / (reference - 1)) / ((1 - t_0) * steps)
    before, after = levels.r[:-1], levels.r[1:]
    variance = (after**2 * (1 - (after / before) ** 2))[::-1]
    tau = abs(2 * np.interp(t_1 * steps, np.arange(steps), variance) * delta / 10)
    return dict(pi=pi, tau=float(tau), delta=float(delta))
