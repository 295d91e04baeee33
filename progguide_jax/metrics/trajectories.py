"""The shape of sampling trajectories, in numbers: detours, U-turns, shaking.

The paper describes these by eye from PCA plots of x_t (section 3: under a large weight
a trajectory goes too far, turns back, and shakes). The definitions are this project's.
Both inputs are views of x_t itself, as the sampler returns it, not of x_t / alpha_t,
which starts with a spread of 1 / alpha_T ~ 160: the fall from there would drown what
guidance does.
"""

from typing import NamedTuple

import numpy as np

U_TURN = 0.1  # a trajectory makes a U-turn when its backtrack exceeds this


class Measures(NamedTuple):
    """One number a trajectory, float64 [B] each.

    From the planar view p_k (a projection to two axes, one fit for all weights), with
    d_k = p_{k+1} - p_k:
    path_length    sum |d_k|, in units of p
    tortuosity     path_length / |p_S - p_0|; 1 is a straight line
    turning_angle  mean angle between d_k and d_{k+1}, radians in [0, pi]
    roughness      sum |d_{k+1} - d_k|^2 / sum |d_k|^2; with many steps 0 for a smooth
                   path, 2 for independent increments, 4 for a zigzag

    From the class axis z_k = sign y_k, which grows towards the label's own side:
    overshoot      max over k of z_k - z_S, in units of y
    backtrack      length of the moves away from the label's side / |z_S - z_0|
    u_turn         1 where backtrack > 0.1
    sign_flips     how often the increments of z change sign (zeros do not count)
    wrong_side     share of the S+1 states with z_k < 0: for two classes mirrored at 0
                   the posterior mean of the class lies on the other side
    final          z_S

    A path that ends where it began has tortuosity and backtrack inf, nan if it never
    moved.
    """

    path_length: np.ndarray
    tortuosity: np.ndarray
    turning_angle: np.ndarray
    roughness: np.ndarray
    overshoot: np.ndarray
    backtrack: np.ndarray
    u_turn: np.ndarray
    sign_flips: np.ndarray
    wrong_side: np.ndarray
    final: np.ndarray


def measure(planar: np.ndarray, y: np.ndarray, sign: np.ndarray) -> Measures:
    """Measures of B trajectories of S >= 2 steps, in sampling order (noise first).

    planar [S+1,B,2]; y [S+1,B], the class axis with 0 halfway between the classes; sign
    [B], +1 or -1, the side of the label. Raises ValueError where the shapes disagree.
    """
    p, y, sign = (np.asarray(a, np.float64) for a in (planar, y, sign))
    if p.ndim != 3 or p.shape[0] < 3 or p.shape[2] != 2:
        raise ValueError(
            f"planar has shape {p.shape}: expected [S+1,B,2] of S >= 2 steps"
        )
    if y.shape != p.shape[:2] or sign.shape != p.shape[1:2]:
        raise ValueError(
            f"y {y.shape} and sign {sign.shape} do not fit planar {p.shape}: expected "
            "[S+1,B] and [B]"
        )
    if not np.all(np.abs(sign) == 1):
        raise ValueError("sign must be +1 or -1, the side of each label")
    return Measures(*_planar(p), *_class_axis(sign * y))


def _planar(p):
    step = np.diff(p, axis=0)
    length = np.linalg.norm(step, axis=-1).sum(0)
    before, after = step[:-1], step[1:]
    cross = before[..., 0] * after[..., 1] - before[..., 1] * after[..., 0]
    angle = np.abs(np.arctan2(cross, np.sum(before * after, -1)))
    bend = np.sum((after - before) ** 2, (0, 2))
    distance = np.linalg.norm(p[-1] - p[0], axis=-1)
    with np.errstate(divide="ignore", invalid="ignore"):
        tortuosity = length / distance
        roughness = bend / np.sum(step**2, (0, 2))
    return length, tortuosity, angle.mean(0), roughness


def _class_axis(z):
    step = np.diff(z, axis=0)
    with np.errstate(divide="ignore", invalid="ignore"):
        backtrack = np.maximum(-step, 0).sum(0) / np.abs(z[-1] - z[0])
    return (
        np.max(z - z[-1], axis=0),
        backtrack,
        (backtrack > U_TURN).astype(np.float64),
        np.sum(step[1:] * step[:-1] < 0, axis=0).astype(np.float64),
        np.mean(z < 0, axis=0),
        z[-1],
    )


def summary(measures: Measures) -> dict[str, float]:
    """Means over the trajectories; u_turn becomes u_turn_rate, final final_mean and
    final_std (ddof 0)."""
    means = {name: float(np.mean(v)) for name, v in measures._asdict().items()}
    means["u_turn_rate"] = means.pop("u_turn")
    means["final_mean"] = means.pop("final")
    means["final_std"] = float(np.std(measures.final))
    return means
