"""What a solver is: small matrices, one an evaluation.

Solvers are linear in what an evaluation knows,

    (x, h_1 ... h_R)  <-  M_n (x0, eps, x, z, h_1 ... h_R),       z ~ N(0, I) fresh,

with M_n made on the host in float64 from the levels; h is what the solver remembers (0
at first). The loop in `samplers` multiplies and knows no solver by name: all of one
(N, R) share one compiled program. Formulas are written with r = sigma / alpha and
lambda = -log r; a step goes from level t to level s; on data r = 0.
"""

import functools
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from progguide_jax import registry
from progguide_jax.diffusion import levels as levels_lib
from progguide_jax.diffusion.levels import Levels

X0, EPS, X, Z, H = range(5)  # columns of a matrix; H is the first memory


class Plan(NamedTuple):
    """N evaluations; the arrays are float64, int or bool on the host, [N] each.

    matrix: [N,1+R,4+R]. t, alpha, sigma: the level of the evaluation. alpha_next,
    sigma_next: the grid level that it leads to. omega: index of the grid level whose
    omega it takes. on_grid: whether x is at a grid level afterwards, as a trajectory
    records it. gain, kick: before the evaluation x becomes gain x + kick z (churn).
    levels: the grid, for rules whose settings follow from it.
    """

    matrix: np.ndarray
    t: np.ndarray
    alpha: np.ndarray
    sigma: np.ndarray
    alpha_next: np.ndarray
    sigma_next: np.ndarray
    omega: np.ndarray
    on_grid: np.ndarray
    gain: np.ndarray
    kick: np.ndarray
    levels: Levels | None = None

    @property
    def stochastic(self) -> bool:
        """Whether noise is added anywhere."""
        return bool(np.any(self.matrix[:, :, Z]) or np.any(self.kick))

    @property
    def renoises(self) -> bool:
        """Whether every x above data is made of an x0 and an eps."""
        both = self.matrix[:, 0, [X0, EPS]] != 0
        return bool(np.all(both | (self.sigma_next == 0)[:, None]))


Solver = Callable[[Levels], Plan]


def factory(make: Callable[..., Solver]) -> Callable[..., Solver]:
    """A factory of solvers that says so where a grid is handed to it, and whose
    solvers say so where they get something else."""
    numeric, name = registry.numeric(make), make.__name__

    @functools.wraps(make)
    def checked(*args, **kwargs):
        for value in (*args, *kwargs.values()):
            if isinstance(value, Levels) or np.ndim(value):
                raise ValueError(
                    f"{name} takes settings, and what it makes the grid: {name}()(grid)"
                )
        plan = numeric(*args, **kwargs)

        @functools.wraps(plan)
        def on_grid(levels, *more, **settings):
            return plan(levels_lib.of(levels), *more, **settings)

        return on_grid

    return checked


def steps(levels: Levels):
    """alpha_t, alpha_s, sigma_t, sigma_s [S], and the variance that x_s loses on its
    way to x_t, sigma_t^2 - (alpha_t / alpha_s)^2 sigma_s^2."""
    alpha_t, sigma_t = levels.alpha[:-1], levels.sigma[:-1]
    alpha_s, sigma_s = levels.alpha[1:], levels.sigma[1:]
    lost = sigma_t**2 - (alpha_t / alpha_s * sigma_s) ** 2
    return alpha_t, alpha_s, sigma_t, sigma_s, lost


def matrices(levels: Levels, memory: int) -> np.ndarray:
    return np.zeros((len(levels.t) - 1, 1 + memory, 4 + memory))


def one_each(levels: Levels, matrix: np.ndarray) -> Plan:
    """One evaluation a step, at the grid levels."""
    n = len(matrix)
    return Plan(
        matrix=matrix,
        t=levels.t[:-1],
        alpha=levels.alpha[:-1],
        sigma=levels.sigma[:-1],
        alpha_next=levels.alpha[1:],
        sigma_next=levels.sigma[1:],
        omega=np.arange(n),
        on_grid=np.ones(n, bool),
        gain=np.ones(n),
        kick=np.zeros(n),
        levels=levels,
    )
