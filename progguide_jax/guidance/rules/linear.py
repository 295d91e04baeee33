"""Rules that are linear in the predictions."""

import numpy as np

from progguide_jax.diffusion import prediction
from progguide_jax.diffusion.levels import Levels
from progguide_jax.guidance.rules import shape

CFGPP_OMEGAS = (-1.0, 0.0)


def cfg() -> shape.Rule:
    """Classifier-free guidance (Ho and Salimans 2022, arXiv:2207.12598).

    Formula: p_c + omega (p_c - p_u), the paper's Eq. 3. With several references each
        adds its own omega (p_c - p_reference), whatever their signs.
    Convention: omega; Imagen, diffusers and others write w = 1 + omega.
    Space: any.
    Cost: 2 evaluations.
    Neutral: omega = 0 is the conditional model, -1 the unconditional one.
    """
    return shape.Rule({}, _cfg, references="each")


def _cfg(evaluate, step, carry):
    c, *others = evaluate("cond", *step.weights)

    def combine(c, *others):
        pairs = zip(step.weights.values(), others, strict=True)
        return c + sum(omega * (c - other) for omega, other in pairs)

    return step.mix(combine, c, *others), carry


def cfgpp() -> shape.Rule:
    """CFG++ (Chung et al. 2024, arXiv:2406.08070).

    Formula: x0 is that of eps_u + lambda (eps_c - eps_u) and eps is eps_u: denoised
        guided, noised again unguided.
    Convention: their lambda in [0, 1] is 1 + omega, so omega lies in [-1, 0); omega = 0
        is plain conditional sampling here as everywhere.
    Space: any; ddim and euler only, whose every step uses x0 and eps.
    Cost: 2 evaluations.
    Neutral: it is CFG at the omega that `cfgpp_omega` gives. How much it guides depends
        on the step size.

    One reference only, since lambda weighs p_c against it.
    """
    return shape.Rule(
        {}, _cfgpp, consistent=False, omegas=CFGPP_OMEGAS, references="one"
    )


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
