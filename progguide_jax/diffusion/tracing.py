"""What guidance did, evaluation by evaluation: asked for and applied."""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from progguide_jax.diffusion import asking, prediction


class Trace(NamedTuple):
    """N evaluations of B images; the dicts have an entry [N,B] for each reference.

    t: [N]. omega: the weight asked for. applied: the weight that p_c + a (p_c - p_ref)
    would need to come closest to the x0 that the rule returned (with several
    references, of all at once): omega itself for cfg, 0 where nothing was guided.
    delta: L2 norm of p_c - p_ref. cosine: of p_c and p_ref. Both are of what the
    conditional network predicts (eps, x0 or v), and nan where the reference was not
    evaluated on x_t. evaluations: network evaluations of the whole batch, [N].
    """

    t: jax.Array
    omega: dict[str, jax.Array]
    applied: dict[str, jax.Array]
    delta: dict[str, jax.Array]
    cosine: dict[str, jax.Array]
    evaluations: jax.Array


def measure(
    found: prediction.Prediction, asked: asking.Evaluate, step: prediction.Step
) -> Trace:
    """The row of an evaluation in which a rule returned `found`."""
    own = {name: step.predicted(p) for name, p in asked.found.items()}
    c, x0 = own["cond"], asked.found["cond"].x0
    batch = len(x0)
    references = [name for name in asked.found if name in step.weights]
    moved = found.x0 - x0

    def weights_of(names):
        return _least_squares([x0 - asked.found[name].x0 for name in names], moved)

    applied = dict(zip(references, weights_of(references), strict=True))
    if not references and prediction.MEAN in own:  # of which only their mean is known
        (whole,) = weights_of([prediction.MEAN])
        applied = {n: whole * jnp.ravel(share) for n, share in step.shares().items()}
    nan = jnp.full(batch, jnp.nan)

    def cosine(a, b):
        return prediction.dot(a, b) / (prediction.norm(a) * prediction.norm(b))

    def each(values):
        return {name: values.get(name, nan) for name in step.weights}

    return Trace(
        step.t,
        _asked_for(step),
        each(applied),
        each({n: prediction.norm(c - own[n]).reshape(batch) for n in references}),
        each({n: cosine(c, own[n]).reshape(batch) for n in references}),
        jnp.int32(asked.count),
    )


def unguided(step: prediction.Step) -> Trace:
    """The row of an evaluation of the conditional branch alone."""
    batch = len(step.x)
    wide = jnp.promote_types(step.x.dtype, jnp.float32)

    def each(value):
        return {name: jnp.full(batch, value, wide) for name in step.weights}

    return Trace(
        step.t, _asked_for(step), each(0.0), each(jnp.nan), each(jnp.nan), jnp.int32(1)
    )


def _asked_for(step: prediction.Step) -> dict[str, jax.Array]:
    batch = len(step.x)
    wide = jnp.promote_types(step.x.dtype, jnp.float32)
    return {
        name: jnp.broadcast_to(jnp.ravel(omega).astype(wide), batch)
        for name, omega in step.weights.items()
    }


def _least_squares(columns: list, target: jax.Array) -> list[jax.Array]:
    """The weights [B] of each of `columns` whose sum is nearest to target, per image;
    0 for a column of zeros."""
    batch = len(target)
    if not columns:
        return []
    gram = jnp.stack(
        [jnp.stack([prediction.dot(a, b).reshape(batch) for b in columns], -1)
         for a in columns], -1,
    )  # fmt: skip
    right = jnp.stack([prediction.dot(a, target).reshape(batch) for a in columns], -1)
    if len(columns) == 1:
        size = gram[:, 0, 0]
        return [jnp.where(size > 0, right[:, 0] / jnp.where(size > 0, size, 1), 0)]
    weights = jnp.einsum("bij,bj->bi", jnp.linalg.pinv(gram), right)
    return [weights[:, i] for i in range(len(columns))]
