"""Writes solvers.json: every solver on the class axis of two Gaussians, by other means.

    python tests/golden/make_solvers.py

Float64 NumPy and SciPy; nothing of progguide_jax is imported. Each solver is written as
its paper writes it, in the coordinates of that paper, and not as a matrix:

    ddim       VP, Song et al. 2021 (DDIM), eq. 12 and 16, any eta
    ddpm       VP, Ho et al. 2020, Algorithm 2 (the form in eps); variance small
               or large
    euler      VE, Karras et al. 2022, Algorithm 2 without lines 7 to 9
    heun       VE, Karras et al. 2022, Algorithm 2; churn 0 is their Algorithm 1
    dpmpp_2m   VP, Lu et al. 2022 (DPM-Solver++), Algorithm 2; stochastic: their
               SDE-DPM-Solver++(2M), midpoint
    unipc      VP, Zhao et al. 2023 (UniPC), order 2, B(h) = e^-h - 1 (bh2), data
               prediction, predictor and corrector

World. y = x / alpha, r = sigma / alpha, class means +-h = +-4, standard deviation
s = 0.25; the bright class, guided as p_c + omega (p_c - p_u):

    D(y, r, omega) = (s^2 y + r^2 M) / (s^2 + r^2)
    M = h + omega h (1 - tanh(h y / (s^2 + r^2)))

Conventions.
  * A grid has S levels with noise and one more, the last: data, r = 0. Level k has
    omega[k]; step k goes from level k to level k + 1. The last step, S - 1, is guided.
  * `path` is y at the S + 1 levels. path[0] is `starts` times sqrt(1 + r[0]^2), so that
    starts are x in units of the VP noise. In other coordinates x = alpha y.
  * A step makes one evaluation, D(path[k], r[k], omega[k]); heun makes a second one, at
    level k + 1 with omega[k + 1].
  * The step to r = 0 is y = D for every solver: of order one, without heun's second
    evaluation, without noise after that evaluation.
  * Multistep solvers take their first and their last step at order one. The history
    holds guided predictions, each made with the omega of its own level.
  * unipc: `path` is what the predictor gave, where the network is evaluated;
    `corrected` is the same after the corrector has seen that evaluation, from which the
    next step starts. corrected[0] = path[0] and corrected[S] = path[S]: no evaluation
    is made at the end. The corrector of level 1 has order one (rho = 1/2), later ones
    order two.
  * Noise: step k adds noise[k] = cos(k + 1) times its standard deviation, the same for
    every start. Noises that are not used (the last step; no churn) are skipped, not
    shifted.
  * Churn: gamma = min(churn / S, sqrt(2) - 1) where churn_min <= r[k] <= churn_max,
    else 0. Step k, the last one too, first moves from r[k] to (1 + gamma) r[k] with
    churn_noise noise[k] and evaluates there, with omega[k]; `path` is y before that.
  * ddpm's "large" variance is 1 - alpha_bar[k] / alpha_bar[k + 1] of VP, which has no
    counterpart in other coordinates. Every other solver gives the same y whether the
    levels are VP or VE.

`law` is the mean and the standard deviation of y at r = 0 with omega = 0, for starts
from N(0, 1) and independent noises from N(0, 1); exact, as the steps are then affine.
`ode` is the exact flow from r = 80 to 0.02 for the same starts; `errors` has the
largest error over the starts there, on log-uniform grids of N steps that end at 0.02.
"""

import functools
import json
import pathlib

import numpy as np
from scipy import integrate

H, S = 4.0, 0.25
STARTS = [-2.0, -1.0, 0.0, 1.0, 2.0]
CHURN = {"churn": 3.0, "churn_min": 0.05, "churn_max": 50.0, "churn_noise": 1.003}
CHURN_ALWAYS = {"churn": 100.0, "churn_min": 0.0, "churn_max": 1e9, "churn_noise": 1.0}
STEPS = [100, 200, 400, 800]


def guided_mean(y, var, omega):
    return H + omega * H * (1 - np.tanh(H * y / var))


def denoiser(y, r, omega):
    var = S**2 + r**2
    return (S**2 * y + r**2 * guided_mean(y, var, omega)) / var


def vp(r):
    """alpha and sigma of the variance-preserving process at r = sigma / alpha."""
    return 1 / np.sqrt(1 + r**2), r / np.sqrt(1 + r**2)


def leading():
    """DDPM's linear schedule, T = 1000, t = 900, 800 ... 0, then data."""
    beta = np.array([1e-4 + (0.02 - 1e-4) * i / 999 for i in range(1000)])
    log_alpha_bar = np.cumsum(np.log1p(-beta))
    return np.append(np.sqrt(np.expm1(-log_alpha_bar[900::-100])), 0.0)


def karras(num_levels=12, low=0.02, high=80.0, rho=7):
    """Karras et al. 2022, eq. 5, then data."""
    i = np.arange(num_levels) / (num_levels - 1)
    return np.append((high ** (1 / rho) * (1 - i) + low ** (1 / rho) * i) ** rho, 0.0)


def log_uniform(num_levels=12, low=0.02, high=80.0):
    """r in geometric progression, then data."""
    i = np.arange(num_levels) / (num_levels - 1)
    return np.append(high ** (1 - i) * low**i, 0.0)


def ddim(y, r, omega, noise, eta=0.0):
    (alpha, sigma), path = vp(r), [y]
    x = alpha[0] * y
    for k in range(len(r) - 1):
        x0 = denoiser(x / alpha[k], r[k], omega[k])
        eps = (x - alpha[k] * x0) / sigma[k]
        jump = sigma[k + 1] / sigma[k] * np.sqrt(1 - alpha[k] ** 2 / alpha[k + 1] ** 2)
        direction = np.sqrt(sigma[k + 1] ** 2 - (eta * jump) ** 2)
        x = alpha[k + 1] * x0 + direction * eps + eta * jump * noise[k]
        path.append(x / alpha[k + 1])
    return {"path": path}


def ddpm(y, r, omega, noise, variance="small"):
    (alpha, sigma), path = vp(r), [y]
    x = alpha[0] * y
    for k in range(len(r) - 1):
        eps = (x - alpha[k] * denoiser(x / alpha[k], r[k], omega[k])) / sigma[k]
        alpha_k = alpha[k] ** 2 / alpha[k + 1] ** 2
        beta = 1 - alpha_k
        mean = (x - beta / sigma[k] * eps) / np.sqrt(alpha_k)
        tilde = beta * sigma[k + 1] ** 2 / sigma[k] ** 2
        z = noise[k] if r[k + 1] > 0 else 0.0
        x = mean + np.sqrt(beta if variance == "large" else tilde) * z
        path.append(x / alpha[k + 1])
    return {"path": path}


def edm(
    y,
    r,
    omega,
    noise,
    second,
    churn=0.0,
    churn_min=0.0,
    churn_max=np.inf,
    churn_noise=1.0,
):
    path = [y]
    for k in range(len(r) - 1):
        inside = churn_min <= r[k] <= churn_max
        gamma = min(churn / (len(r) - 1), np.sqrt(2) - 1) if inside else 0.0
        hat = r[k] + gamma * r[k]
        y = y + np.sqrt(hat**2 - r[k] ** 2) * churn_noise * noise[k]
        d = (y - denoiser(y, hat, omega[k])) / hat
        following = y + (r[k + 1] - hat) * d
        if second and r[k + 1] > 0:
            there = denoiser(following, r[k + 1], omega[k + 1])
            d_there = (following - there) / r[k + 1]
            following = y + (r[k + 1] - hat) * (d / 2 + d_there / 2)
        y = following
        path.append(y)
    return {"path": path}


euler = functools.partial(edm, second=False)
heun = functools.partial(edm, second=True)


def dpmpp_2m(y, r, omega, noise, stochastic=False):
    (alpha, sigma), path, before = vp(r), [y], None
    x = alpha[0] * y
    with np.errstate(divide="ignore"):
        lam = np.log(alpha) - np.log(sigma)
    for k in range(len(r) - 1):
        here = denoiser(x / alpha[k], r[k], omega[k])
        h = lam[k + 1] - lam[k]
        mixed = here
        if before is not None and r[k + 1] > 0:
            ratio = (lam[k] - lam[k - 1]) / h
            mixed = (1 + 1 / (2 * ratio)) * here - before / (2 * ratio)
        if stochastic:
            x = sigma[k + 1] / sigma[k] * np.exp(-h) * x
            x = x + alpha[k + 1] * (1 - np.exp(-2 * h)) * mixed
            x = x + sigma[k + 1] * np.sqrt(1 - np.exp(-2 * h)) * noise[k]
        else:
            x = sigma[k + 1] / sigma[k] * x - alpha[k + 1] * np.expm1(-h) * mixed
        before = here
        path.append(x / alpha[k + 1])
    return {"path": path}


def unipc(y, r, omega, noise):
    (alpha, sigma), path, corrected = vp(r), [y], [y]
    with np.errstate(divide="ignore"):
        lam = np.log(alpha) - np.log(sigma)
    x = alpha[0] * y
    history = [denoiser(y, r[0], omega[0])]
    for k in range(len(r) - 1):
        order = 1 if k == 0 or r[k + 1] == 0 else 2
        h = lam[k + 1] - lam[k]
        phi_1 = np.expm1(-h)
        base = sigma[k + 1] / sigma[k] * x - alpha[k + 1] * phi_1 * history[-1]
        slopes, ratios = [], []
        if order == 2:
            ratios = [(lam[k - 1] - lam[k]) / h]
            slopes = [(history[-2] - history[-1]) / ratios[0]]
        predicted = base - alpha[k + 1] * phi_1 * sum(0.5 * d for d in slopes)
        path.append(predicted / alpha[k + 1])
        if k == len(r) - 2:
            corrected.append(path[-1])
            break
        there = denoiser(path[-1], r[k + 1], omega[k + 1])
        ratios.append(1.0)
        slopes.append(there - history[-1])
        if order == 1:
            rho = [0.5]
        else:
            phi_2 = phi_1 / -h - 1
            phi_3 = phi_2 / -h - 0.5
            rho = np.linalg.solve(
                [[1.0, 1.0], ratios], [phi_2 / phi_1, 2 * phi_3 / phi_1]
            )
        change = sum(c * d for c, d in zip(rho, slopes, strict=True))
        x = base - alpha[k + 1] * phi_1 * change
        corrected.append(x / alpha[k + 1])
        history.append(there)
    return {"path": path, "corrected": corrected}


SOLVERS = [
    ("ddim", ddim, {"eta": 0.0}),
    ("ddim", ddim, {"eta": 0.5}),
    ("ddim", ddim, {"eta": 1.0}),
    ("ddpm", ddpm, {"variance": "small"}),
    ("ddpm", ddpm, {"variance": "large"}),
    ("euler", euler, {}),
    ("euler", euler, CHURN),
    ("heun", heun, {}),
    ("heun", heun, CHURN),
    ("heun", heun, CHURN_ALWAYS),
    ("dpmpp_2m", dpmpp_2m, {}),
    ("dpmpp_2m", dpmpp_2m, {"stochastic": True}),
    ("unipc", unipc, {}),
]


def law(solver, r, settings):
    """Mean and standard deviation at r = 0, from one run for every source of noise."""
    steps = len(r) - 1
    zero = np.zeros(steps)
    scale = np.sqrt(1 + r[0] ** 2)

    def final(start, noise):
        return solver(np.array(start * scale), r, zero, noise, **settings)["path"][-1]

    mean = final(0.0, zero)
    effects = [final(1.0, zero) - mean]
    effects += [final(0.0, row) - mean for row in np.eye(steps)]
    return [float(mean), float(np.linalg.norm(effects))]


def exact(start, omega, high=80.0, low=0.02):
    """The flow dy / dr = (y - D) / r on the clock log r."""

    def rate(log_r, y):
        var = S**2 + np.exp(2 * log_r)
        return np.exp(2 * log_r) * (y - guided_mean(y, var, omega)) / var

    solution = integrate.solve_ivp(
        rate,
        (np.log(high), np.log(low)),
        [start * np.sqrt(1 + high**2)],
        method="DOP853",
        rtol=1e-13,
        atol=1e-13,
    )
    return float(solution.y[0, -1])


def convergence():
    """The exact flow and the largest error of each deterministic solver."""
    flow, errors = {}, {}
    for omega in (0.0, 3.0):
        flow[str(omega)] = [exact(start, omega) for start in STARTS]
        for name, solver, settings in SOLVERS:
            if settings not in ({}, {"eta": 0.0}):
                continue
            row = errors.setdefault(name, {}).setdefault(str(omega), [])
            for n in STEPS:
                # a grid without its last level, data: order two to the very end
                r = log_uniform(n + 1)[:-1]
                y = np.array(STARTS) * np.sqrt(1 + r[0] ** 2)
                path = solver(y, r, np.full(n + 1, omega), np.zeros(n))["path"]
                row.append(float(np.max(np.abs(path[-1] - flow[str(omega)]))))
    return {"steps": STEPS, "ode": flow, "errors": errors}


def digits(tree):
    """Twelve significant digits."""
    if isinstance(tree, dict):
        return {key: digits(value) for key, value in tree.items()}
    if isinstance(tree, list | tuple | np.ndarray):
        return [digits(value) for value in tree]
    return tree if isinstance(tree, str | bool | int) else float(f"{tree:.12g}")


def main():
    grids = {"leading": leading(), "karras": karras(), "log_uniform": log_uniform()}
    golden = {
        "half_separation": H,
        "std": S,
        "starts": STARTS,
        "noise": np.cos(np.arange(12) + 1.0),
        "grids": {name: {"r": r} for name, r in grids.items()},
        "convergence": convergence(),
        "cells": [],
    }
    golden["grids"]["leading"]["t"] = list(range(900, -1, -100))
    for grid, r in grids.items():
        steps = len(r) - 1
        y = np.array(STARTS) * np.sqrt(1 + r[0] ** 2)
        noise = golden["noise"]
        curves = {
            "zero": np.zeros(steps),
            "static": np.full(steps, 3.0),
            "ramp": 6 * np.arange(steps) / (steps - 1),
        }
        golden["grids"][grid]["omega"] = curves
        for name, solver, settings in SOLVERS:
            for curve, omega in curves.items():
                cell = {"solver": name, "settings": settings, "grid": grid}
                cell["omega"] = curve
                if curve == "zero":
                    cell["law"] = law(solver, r, settings)
                cell |= solver(y, r, omega, noise, **settings)
                golden["cells"].append(cell)
    target = pathlib.Path(__file__).with_name("solvers.json")
    golden = digits(golden)
    cells = ",\n".join(json.dumps(cell) for cell in golden.pop("cells"))
    head = json.dumps(golden, indent=None)[:-1]
    target.write_text(f'{head},\n"cells": [\n{cells}\n]}}\n')


if __name__ == "__main__":
    main()
