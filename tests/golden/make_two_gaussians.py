"""Writes two_gaussians.json: guided trajectories of two Gaussians by other means.

    python tests/golden/make_two_gaussians.py

Float64 NumPy and SciPy; nothing of progguide_jax is imported. Everything happens on the
class axis in the variance-exploding coordinate y = x / alpha, noise r = sigma / alpha,
where the class means are +-h, a pixel has variance s^2 + r^2 and, for the bright class,

    denoiser(y, r) = (s^2 y + r^2 M) / (s^2 + r^2)
    M = h + omega (h - h tanh(h y / (s^2 + r^2)))
    DDIM: an Euler step of dy / dr = (y - denoiser) / r           (Karras et al. 2022)

Three tables: DDIM with 50 steps; the ODE itself on the clock r = 80 tau^2; measures of
DDIM-200 trajectories that start from the quantiles of N(0, 1), in x.
"""

import json
import pathlib

import numpy as np
from scipy import integrate, stats

H, S = 4.0, 0.25
SCALES = [0, 1, 10, 50]
STARTS = [-2.0, -1.0, 0.0, 1.0, 2.0]
CURVES = {
    "static": lambda tau: 1.0 + 0 * tau,
    "linear": lambda tau: 2 - 2 * tau,
    "cosine": lambda tau: 1 + np.cos(np.pi * tau),
}
R_MAX = 80.0
QUANTILES = 500


def slope(y, r, omega):
    """dy / dr = (y - denoiser) / r, with the division by r carried out."""
    var = S**2 + r**2
    mean = H + omega * (H - H * np.tanh(H * y / var))
    return r * (y - mean) / var


def leading(num_steps):
    """t and r on the DDPM schedule, T = 1000, noisiest first; r ends with 0."""
    beta = [1e-4 + (0.02 - 1e-4) * i / 999 for i in range(1000)]
    log_alpha_bar = np.cumsum(np.log1p(-np.array(beta)))
    t = np.arange(num_steps)[::-1] * (1000 // num_steps)
    return t, np.append(np.sqrt(np.expm1(-log_alpha_bar[t])), 0.0)


def ddim(x, r, omega):
    """x at every step [S+1,...] from x at r[0]; omega [S]."""
    y = x * np.sqrt(1 + r[0] ** 2)
    path = [x]
    for k in range(len(omega)):
        y = y + (r[k + 1] - r[k]) * slope(y, r[k], omega[k])
        path.append(y / np.sqrt(1 + r[k + 1] ** 2))
    return np.array(path)


def weights(name, t):
    g = CURVES[name](t / 1000)
    return g / np.mean(g)


def exact(x, scale, curve):
    """x at r = 0 from x at r = 80 by the ODE in tau, r = 80 tau^2."""

    def rate(tau, y):
        return 2 * R_MAX * tau * slope(y, R_MAX * tau**2, scale * curve(tau))

    y = [x * np.sqrt(1 + R_MAX**2)]
    solution = integrate.solve_ivp(
        rate, (1.0, 0.0), y, method="DOP853", rtol=1e-12, atol=1e-12
    )
    return float(solution.y[0, -1])


def measures(path):
    """Trajectory measures averaged over equally likely starts, one at a time."""
    rows = []
    for z in path.T:
        back = sum(max(0.0, a - b) for a, b in zip(z[:-1], z[1:], strict=True))
        share = back / abs(z[-1] - z[0])
        rows.append([max(z) - z[-1], share, share > 0.1, np.mean(z < 0), z[-1]])
    overshoot, backtrack, u_turn, wrong_side, final = np.mean(rows, 0)
    return {
        "overshoot": overshoot,
        "backtrack": backtrack,
        "u_turn_rate": u_turn,
        "wrong_side": wrong_side,
        "final_mean": final,
        "final_std": np.std([row[-1] for row in rows]),
    }


def main():
    t50, r50 = leading(50)
    t200, r200 = leading(200)
    quantiles = stats.norm.ppf((np.arange(QUANTILES) + 0.5) / QUANTILES)
    golden = {
        "half_separation": H,
        "std": S,
        "starts": STARTS,
        "weights": {name: list(weights(name, t50)) for name in CURVES},
        "r_max": R_MAX,
        "quantiles": QUANTILES,
        "cells": [],
    }
    for name, curve in CURVES.items():
        for scale in SCALES:
            path = ddim(np.array(STARTS), r50, scale * weights(name, t50))
            wide = ddim(quantiles, r200, scale * weights(name, t200))
            golden["cells"].append(
                {
                    "schedule": name,
                    "scale": scale,
                    "ddim50": path[::10].tolist(),
                    "ode": [exact(x, scale, curve) for x in STARTS],
                    "ddim200": measures(wide),
                }
            )
    target = pathlib.Path(__file__).with_name("two_gaussians.json")
    target.write_text(json.dumps(golden, indent=1) + "\n")


if __name__ == "__main__":
    main()
