"""A system of a formula for eps, whatever it predicts."""

import jax
import numpy as np

from progguide_jax.diffusion import prediction, process, system

NS = process.ddpm_linear(100)
X = np.random.default_rng(0).normal(size=(3, 6, 6, 2)).astype(np.float32)
LABEL, T = np.array([0, 1, 0]), np.array([20, 50, 80])


def of(eps_of, kind, perturbed):
    """eps_of(x, sigma, label); perturbed(branch) -> that of the system."""

    def raw(x, level, label):
        alpha, sigma = (prediction.per_image(v, x) for v in level[1:])
        eps = eps_of(x, sigma, label)
        x0 = (x - sigma * eps) / alpha
        return {"eps": eps, "x0": x0, "v": alpha * eps - sigma * x0}[kind]

    def branch(cond):
        return prediction.Branch(fn, cond, kind)

    fn = jax.tree_util.Partial(raw)
    return system.System(
        branch=branch,
        noise_schedule=NS,
        shape=X.shape[1:],
        condition=np.asarray,
        null=2,
        decode=lambda x: x,
        origin={},
        perturbed=perturbed(branch),
    )
