"""Guidance rules: the arithmetic of each over one evaluation of the network.

    python -m benchmarks.rules

Every rule of the registry at its defaults, from what a network says of both branches to
the two faces of its result, beside a call of the jitted network. A rule that evaluates
the network elsewhere gets what it said at x_t: its evaluations are not counted here.
"""

import jax
import jax.numpy as jnp

from benchmarks import measure
from progguide_jax.diffusion import levels, noise, prediction, process, solvers
from progguide_jax.guidance import rules
from progguide_jax.runtime import sharding

CALLS = 20  # of a rule in one timing: one call is too short for the clock
# of images or of gradients, and free to cost more
APART = ("fdg", "characteristic", "reg")


def main(argv=None) -> None:
    parser = measure.arguments(__doc__, rounds=5)
    args, config = measure.setup(parser, argv)
    module, params = measure.network(config)
    mesh = sharding.mesh()
    params = jax.device_put(params, sharding.replicated(mesh))
    data = measure.batch(config, mesh, args.batch)
    forward = measure.forward(module, config, mesh)
    arrays = (data["eps"], data["image"], data["image"] + 0.3 * data["eps"])

    def network():
        return forward(params, data["eps"], data["t"], data["label"])

    ns = process.ddpm_linear()
    plan = solvers.ddim()(levels.from_timesteps(ns, levels.timesteps(1000, 10)))

    def repeated(name):
        rule = rules.make(name).on(plan)
        program = arithmetic(rule, rules.RULES[name].scales, mesh)
        return lambda: [program(*arrays) for _ in range(CALLS)]

    functions = {"network": network}
    functions |= {name: repeated(name) for name in rules.names()}
    s = measure.rounds(functions, args.rounds)
    rows = [
        measure.row(
            f"{name} / network",
            s[name] / CALLS / s["network"],
            "" if name in APART else "<= 0.03",
        )
        for name in rules.names()
    ]
    measure.report("rules", rows, args)


class Said:
    """As `asking.Evaluate`, with the same answers wherever it is asked."""

    def __init__(self, **found: prediction.Prediction):
        self.found = found

    def __call__(self, *names: str, x=None, level=None) -> list:
        return [self.found[name] for name in names]

    def branch(self) -> "Said":
        return self

    def record(self, count, **found) -> None:
        pass


def arithmetic(rule: rules.Rule, scales: tuple[float, float], mesh):
    """(x, eps of cond, eps of null) -> the faces of the rule's result, under jit."""
    omega = 1.5 if scales[1] > 0 else -0.5

    def run(x, c, u):
        alpha, sigma = jnp.asarray(0.6, x.dtype), jnp.asarray(0.8, x.dtype)
        step = prediction.Step(
            x=x, t=jnp.float32(500), alpha=alpha, sigma=sigma, alpha_next=sigma,
            sigma_next=alpha, weights={"null": jnp.full((len(x), 1, 1, 1), omega)},
            index=jnp.int32(3), predicts="eps",
            keys=noise.image_keys(jax.random.key(0), jnp.arange(len(x))),
        )  # fmt: skip

        evaluate = Said(cond=step.from_eps(c), null=step.from_eps(u))
        carry = None if rule.init is None else rule.init(x)
        found, carry = rule(evaluate, step, carry)
        return found, carry

    split = sharding.batch(mesh)
    return jax.jit(run, in_shardings=(split,) * 3)


if __name__ == "__main__":
    main()
