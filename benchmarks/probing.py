"""Probing: what a step costs next to a training step, and in which form.

    python -m benchmarks.probing

The steps of probe.py and train.py on the same batch, and the per-example gradient in
one backward pass against vmap(grad).
"""

import functools

import jax
import jax.numpy as jnp

from benchmarks import measure
from progguide_jax.engine import probing, training
from progguide_jax.guidance import gradnorm
from progguide_jax.runtime import sharding
from progguide_jax.systems import build


def main(argv=None) -> None:
    args, config = measure.setup(measure.arguments(__doc__), argv)
    mesh = sharding.mesh()
    repl, split = sharding.replicated(mesh), sharding.batch(mesh)
    module, host_params = measure.network(config)
    ns = build.noise_schedule(config)
    params = jax.device_put(host_params, repl)
    data = measure.batch(config, mesh, args.batch)
    image_and = {
        names: {name: data[name] for name in ("image", *names)}
        for names in (("label",), ("label", "t"))
    }

    train_state = measure.train_state(config, host_params, mesh)
    train_step = training.compiled_step(config, mesh)

    def train():
        nonlocal train_state
        train_state, metrics = train_step(train_state, image_and[("label",)])
        return metrics

    empty = gradnorm.empty(config.data.num_classes, config.noise.num_timesteps)
    accumulator = jax.device_put(empty, repl)
    probe_step = probing.compiled_step(config, mesh)

    def probe():
        nonlocal accumulator
        accumulator = probe_step(
            accumulator, params, image_and[("label", "t")], jnp.int32(0)
        )
        return accumulator

    def gradient(form):
        def g(params, image, eps, t, label):
            return form(
                functools.partial(build.eps_of_embedding(module, ns), params),
                image,
                eps,
                t,
                build.embed_label(module, params, label),
                noise_schedule=ns,
            )

        compiled = jax.jit(g, in_shardings=(repl, *[split] * 4), out_shardings=split)
        names = ("image", "eps", "t", "label")
        return lambda: compiled(params, *(data[name] for name in names))

    s = measure.rounds(
        {
            "training step": train,
            "probing step": probe,
            "one backward": gradient(gradnorm.per_example),
            "vmap(grad)": gradient(gradnorm.per_example_vmap),
        },
        args.rounds,
    )
    rows = [
        measure.row(
            "probing step / training step",
            s["probing step"] / s["training step"],
            "<= 0.80",
        ),
        measure.row("one backward / vmap(grad)", s["one backward"] / s["vmap(grad)"]),
    ]
    rows += [measure.row(f"images/s, {n}", args.batch / v) for n, v in s.items()]
    measure.report("probing", rows, args)


if __name__ == "__main__":
    main()
