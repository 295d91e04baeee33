"""Rules that ask the network at a level further along the way."""

import math

import jax
import jax.numpy as jnp
import numpy as np

from progguide_jax.diffusion import plans, prediction, process
from progguide_jax.diffusion.levels import Levels
from progguide_jax.guidance.rules import shape, spaces


def rectified_cfgpp(reach: float = 0.5) -> shape.Rule:
    """Rectified-CFG++ (Saini et al. 2025, arXiv:2510.07631).

    Formula: f_c + omega (f_c(x_m) - f_u(x_m)), with the velocity f = eps - x0; x_m =
        alpha_m x0_c + sigma_m eps_c is where f_c leads after the share `reach` of the
        step, counted in the time of flow matching, sigma / (alpha + sigma).
    Convention: omega(t) is their alpha(t) = lambda_max (1 - t)^gamma; gamma is 0 in
        their code.
    Space: flow; DDIM's step is Euler's of flow matching, so theirs.
    Cost: 3 evaluations.
    Neutral: reach 0 is CFG.
    Deviation: their code goes the whole step to x_m, adds noise of 0.005 to it, and
        tells the network nearly the time of x_t there: it adds a step in sigma to a
        time in 0 ... 1000. Where x_m has less noise than the network knows, as at the
        end of a step from t = 0, the step is CFG's.
    Source: accounts that quote the paper's three steps, and the authors' code
        (shreshthsaini/Rectified-CFGpp).
    """
    if not 0 <= reach < 1:
        raise ValueError(
            f"rectified_cfgpp: reach is a share of the step, 0 <= reach < 1: {reach}"
        )
    return shape.Rule({"reach": reach}, _rectified, on_plan=_on_the_way)


def _on_the_way(plan: plans.Plan, *, reach):
    """ahead: the level of x_m at each evaluation, [N,3] of t, alpha and sigma."""
    here = zip(plan.t, plan.alpha, plan.sigma, strict=True)
    there = zip(plan.alpha_next, plan.sigma_next, strict=True)
    pairs = zip(here, there, strict=True)
    levels = [_between(plan.levels, *pair, reach) for pair in pairs]
    return dict(ahead=np.array(levels, np.float64))


def _between(levels: Levels, here, there, share: float):
    """The level at this share of the way from one to another, in the time of flow
    matching; `here` itself where the network knows no such level."""
    (_, alpha, sigma), (alpha_next, sigma_next) = here, there
    start, end = sigma / (alpha + sigma), sigma_next / (alpha_next + sigma_next)
    time = start + share * (end - start)
    if time == start:
        return here
    try:
        return levels.at(np.log(time) - np.log1p(-time))
    except ValueError:
        return here


def _rectified(evaluate, step, carry, *, ahead):
    (c,) = evaluate("cond")
    level = _level(ahead, step)
    x = level.alpha * c.x0 + level.sigma * c.eps
    later = evaluate("cond", step.reference, x=x, level=level)
    f, f_c, f_u = (spaces.of(step, p, "flow") for p in (c, *later))
    return spaces.back(step, f + step.omega * (f_c - f_u), "flow"), carry


def fsg(
    weight: float = 5.5,
    interval: float = 0.125,
    starts: tuple = (0.0, 0.0, 0.125, 0.125, 0.375),
) -> shape.Rule:
    """Foresight guidance, FSG (Wang et al. 2025, arXiv:2510.21512).

    Formula: CFG++; before it, x_t becomes B(F(x_t)) as often as `starts` names the
        step. F is DDIM's step along p_u + weight (p_c - p_u) to x_m, `interval` of the
        steps further on, B goes back from x_m to the level of x_t along p_u(x_m).
    Convention: as cfgpp: their lambda is 1 + omega, omega in [-1, 0); weight is counted
        from p_u. Their lambda 1 is omega 0, which is plain conditional sampling here:
        take -1e-6.
    Space: any; ddim and euler only, as cfgpp.
    Cost: 2 evaluations, and 3 more for each entry of starts.
    Neutral: starts () is cfgpp.
    Deviation: in their code F goes one step of the grid whatever the interval, since
        the schedulers of diffusers do, and B is told levels that are not those of its
        x; here both go the interval, as their readme describes it.
    Source: the authors' code (Ka1b0/Foresight-Guidance) and the paper's abstract.

    A fixed point of B(F(.)) is an x_t that says the same with and without the
    condition. starts and interval are shares of the steps: the defaults are theirs for
    40 steps, steps 0 and 5 twice and 15 once, 5 steps ahead, with lambda 1. One
    reference only, as cfgpp.
    """
    if not math.isfinite(weight):
        raise ValueError(f"fsg: weight must be finite, got {weight}")
    for key, share in (("interval", interval), *(("starts", s) for s in starts)):
        if not 0 <= share < 1:
            raise ValueError(
                f"fsg: {key} is a share of the steps, 0 <= {key} < 1, got {share}"
            )
    settings = dict(weight=weight, interval=interval, starts=tuple(starts))
    return shape.Rule(
        settings, _fsg, consistent=False, on_plan=_foresight, references="one"
    )


def _foresight(plan: plans.Plan, *, weight, interval, starts):
    """times, ahead: how often x_t is replaced at each evaluation [N], and the level of
    x_m, [N,3] of t, alpha and sigma; the last one is not data, as theirs."""
    steps = len(plan.levels.t) - 1
    named = [math.floor(share * steps + 1e-9) for share in starts]
    times = np.bincount(np.array(named, int), minlength=steps)[plan.omega]
    reach = max(1, round(interval * steps))
    to = np.minimum(plan.omega + reach, steps - 1)
    ahead = np.stack([column[to] for column in plan.levels[:3]], 1)
    return dict(weight=weight, times=times.astype(np.int32), ahead=ahead)


def _fsg(evaluate, step, carry, *, weight, times, ahead):
    level, name = _level(ahead, step), step.reference

    def mixed(weight, c, u):
        return jax.tree.map(lambda c, u: u + weight * (c - u), c, u)

    def replaced(_, state):
        asked = evaluate.branch()
        there = mixed(weight, *state)
        x = level.alpha * there.x0 + level.sigma * there.eps
        (u,) = asked(name, x=x.astype(step.x.dtype), level=level)
        x = step.alpha * u.x0 + step.sigma * u.eps
        return tuple(asked("cond", name, x=x))

    count = jnp.asarray(times)[step.index]
    c, u = jax.lax.fori_loop(0, count, replaced, tuple(evaluate("cond", name)))
    evaluate.record(3 * count)
    return prediction.Prediction(mixed(1 + step.omega, c, u).x0, u.eps), carry


def _level(table, step: prediction.Step) -> process.Level:
    """The level in this evaluation's row of a table [N,3]."""
    t, alpha, sigma = jnp.asarray(table)[step.index]
    return process.Level(t, *(a.astype(step.x.dtype) for a in (alpha, sigma)))
