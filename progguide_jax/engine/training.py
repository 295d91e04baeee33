"""Training a class-conditional DDPM with condition dropout."""

import functools
import logging

import jax
import jax.numpy as jnp
import optax
from clu import parameter_overview
from etils import epath

from progguide_jax.data import batches
from progguide_jax.diffusion import process
from progguide_jax.engine import grids, step_log
from progguide_jax.networks import layers
from progguide_jax.runtime import (
    checkpoints,
    files,
    locking,
    sharding,
    stopping,
    writers,
)
from progguide_jax.runtime import config as config_lib
from progguide_jax.systems import build, classifier_checks, validation


def train(config, workdir: str) -> None:
    """Train to config.train.num_steps, from the newest checkpoint in workdir if any.

    Leaves checkpoints, metrics.jsonl, TensorBoard events, sample grids and the resolved
    config in workdir. FloatingPointError on a loss or gradient that is not finite,
    InterruptedError after SIGTERM or Ctrl-C, the step it is at being saved.
    """
    validation.validate(config)
    mesh = sharding.mesh()
    check_batch(config, mesh)
    config_lib.set_damaged_aside(workdir)
    config = build.identified(config, workdir)
    config_lib.check_resume(workdir, config)
    if _is_finished(config, workdir, mesh):
        config_lib.write_missing_provenance(workdir, config)
        return
    folder = build.checkpoint_dir(workdir)
    with locking.hold(folder):
        with checkpoints.Checkpoints(folder, config.train.keep, clear=True) as saved:
            dataset = build.load_data(config)
            train_state = initial_state(config, mesh, saved)
            # only now, when the checkpoint has been seen to fit this config
            config_lib.write_provenance(workdir, config)
            _train_from(config, workdir, mesh, dataset, train_state, saved)
    logging.info("trained to step %d: %s", config.train.num_steps, folder)


def check_batch(config, mesh) -> None:
    """ValueError, with the nearest sizes, if the devices cannot share a batch."""
    train = config.train
    sharding.check_batch(train.batch_size, mesh, "train.batch_size", train.accumulate)


def _is_finished(config, workdir: str, mesh) -> bool:
    """Whether nothing is left to do: the last checkpoint is whole, its grid drawn."""
    folder, last = epath.Path(build.checkpoint_dir(workdir)), config.train.num_steps
    if not sharding.agreed(folder.exists()):
        return False
    with checkpoints.Checkpoints(folder, keep=config.train.keep) as saved:
        latest = saved.latest_step()
        if latest is None or latest < last:
            return False
        if latest == last and grids.lacking(config, workdir, latest):
            return False
        if not saved.is_whole(latest, abstract_state(config, mesh)):
            return False
    logging.info("already trained to step %d, train.num_steps is %d", latest, last)
    return True


def _train_from(config, workdir, mesh, dataset, train_state, saved) -> None:
    with writers.MetricWriter(workdir) as writer:
        writer.truncate_after(int(train_state.step))
        if int(train_state.step) == 0:
            table = parameter_overview.get_parameter_overview(
                train_state.params, include_stats=False
            )
            files.write(epath.Path(workdir) / "parameters.txt", table.encode())
            logging.info(
                "%s parameters", parameter_overview.count_parameters(train_state.params)
            )
            writer.text(0, "parameters", f"```\n{table}\n```")
        _loop(config, workdir, mesh, dataset, train_state, saved, writer)


def initial_state(config, mesh, saved: checkpoints.Checkpoints) -> build.TrainState:
    """The newest checkpoint, or a fresh state; born as the mesh is to hold it."""
    if saved.latest_step() is None:
        return fresh_state(config, mesh)
    train_state, _ = saved.restore(abstract_state(config, mesh))
    logging.info("resuming from step %d", int(train_state.step))
    return train_state


def fresh_state(config, mesh) -> build.TrainState:
    """The state of step 0, from config.seed."""
    # it runs once: on a CPU, compiling it well takes longer than running it
    quick = {"xla_backend_optimization_level": 0}
    held = jax.tree.map(lambda x: x.sharding, abstract_state(config, mesh))
    return jax.jit(
        functools.partial(build.create, config, build.network(config)),
        out_shardings=held,
        compiler_options=quick if jax.default_backend() == "cpu" else None,
    )()


def abstract_state(config, mesh) -> build.TrainState:
    """Its shapes, and how the mesh holds them: whole, or split with train.fsdp."""
    create = functools.partial(build.create, config, build.network(config))
    shapes = jax.eval_shape(create)
    held = jax.tree.map(lambda _: sharding.replicated(mesh), shapes)
    if config.train.fsdp:
        held = sharding.split_state(mesh, shapes)
    return jax.tree.map(
        lambda x, how: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=how),
        shapes,
        held,
    )


def loss_per_example(
    module, params, x0, level, label, eps, noise=None, exit_weight=0.0, **kwargs
) -> jax.Array:
    """Mean squared error, over the pixels of each example, of what the module predicts
    of x_t = alpha x0 + sigma noise: [B]. DDPM eq. 14 where that is eps; noise: eps
    itself, if it is None. exit_weight times that of an early exit is added."""
    x_t = process.diffuse(level, x0, eps if noise is None else noise)
    emb = build.embed_label(module, params, label)
    target, axes = process.target(level, x0, eps, module.predicts), range(1, eps.ndim)
    answers = layers.answers(module, params, x_t, level, emb, **kwargs)
    loss, *early = (jnp.mean(jnp.square(a - target), tuple(axes)) for a in answers)
    return sum((exit_weight * other for other in early), loss)


def cross_entropy(module, params, x0, level, label, eps, **kwargs) -> jax.Array:
    """-log p(label | x_t) of a classifier, x_t = alpha x0 + sigma eps: [B], in nats."""
    x_t = process.diffuse(level, x0, eps)
    logits = module.apply({"params": params}, x_t, level, **kwargs)
    return optax.softmax_cross_entropy_with_integer_labels(logits, label)


def train_step(
    train_state: build.TrainState, batch: dict, *, config, module, optimizer, mesh=None
) -> tuple[build.TrainState, dict]:
    """One update on the global batch {"image" [B,H,W,C] in [-1,1], "label" [B]}.

    Its randomness is a function of (config.seed, step): resuming needs no stored key.
    mesh: each of its devices differentiates the rows that it holds, which a network
    with dropout, drawn for the whole batch, cannot have; None leaves that to jit.
    """
    key = jax.random.fold_in(jax.random.key(config.seed), 1)
    key = jax.random.fold_in(key, train_state.step)
    t_key, eps_key, drop_key, dropout_key = jax.random.split(key, 4)
    x0, label = batch["image"], batch["label"]
    ns, weight = build.noise_schedule(config), build.loss_weight(config)
    level = ns.level(jax.random.randint(t_key, label.shape, 0, ns.num_timesteps))
    noise, eps = build.train_noise(config)(eps_key, x0.shape)
    classifies = classifier_checks.classifies(config)
    if not classifies:
        dropped = jax.random.bernoulli(drop_key, config.train.label_drop, label.shape)
        label = jnp.where(dropped, module.num_classes, label)

    def loss_fn(params, x0, level, label, eps, noise=None):
        rngs = {"dropout": dropout_key}
        if classifies:
            asked = module, params, x0, level, label, eps
            return jnp.mean(cross_entropy(*asked, train=True, rngs=rngs))
        losses = loss_per_example(
            module, params, x0, level, label, eps, noise=noise,
            exit_weight=config.train.exit_weight, train=True, rngs=rngs,
        )  # fmt: skip
        return jnp.mean(weight(level, module.predicts) * losses)

    value_and_grad = sharding.value_and_grad(loss_fn, mesh, config.train.accumulate)
    loss, grads = value_and_grad(
        train_state.params, x0, level, label, eps, *(() if noise is eps else (noise,))
    )
    updates, opt_state = optimizer.update(
        grads, train_state.opt_state, train_state.params
    )
    params = optax.apply_updates(train_state.params, updates)
    n = train_state.step.astype(jnp.float32)
    decay = jnp.minimum(config.train.ema_decay, (1 + n) / (10 + n))
    new_state = build.TrainState(
        step=train_state.step + 1,
        params=params,
        ema_params=optax.incremental_update(params, train_state.ema_params, 1 - decay),
        opt_state=opt_state,
    )
    metrics = {"loss": loss, "grad_norm": optax.global_norm(grads)}
    if config.train.skip_nonfinite:
        finite = jnp.isfinite(loss) & jnp.isfinite(metrics["grad_norm"])
        kept = train_state.replace(step=new_state.step)
        new_state = jax.tree.map(
            lambda new, old: jnp.where(finite, new, old), new_state, kept
        )
    return new_state, metrics


def compiled_step(config, mesh):
    """`train_step` under jit: the state (donated) as the mesh holds it, the batch split
    over the mesh."""
    repl, split = sharding.replicated(mesh), sharding.batch(mesh)
    held = jax.tree.map(lambda x: x.sharding, abstract_state(config, mesh))
    # a network with dropout, and parameters that are split, are left to the partitioner
    module = build.network(config)
    step = functools.partial(
        train_step,
        config=config,
        module=module,
        optimizer=build.optimizer(config),
        mesh=None if getattr(module, "dropout", 0) or config.train.fsdp else mesh,
    )
    return jax.jit(
        step,
        in_shardings=(held, split),
        out_shardings=(held, repl),
        donate_argnums=0,
    )


def _loop(config, workdir, mesh, dataset, train_state, saved, writer) -> None:
    first, last = int(train_state.step), config.train.num_steps
    step_fn = compiled_step(config, mesh)
    draw = grids.drawer(config, workdir, mesh, writer)
    metadata = {"config": config_lib.digest(config)}
    rows = sharding.host_rows(config.train.batch_size)
    window = step_log.Window(first, config.train.skip_nonfinite)

    def make_batch(step):
        batch = batches.batch(
            dataset,
            config.seed,
            step,
            config.train.batch_size,
            config.data.flip,
            rows,
        )
        # onto the devices too, beside the step that is running
        return sharding.put(mesh, {k: batch[k] for k in ("image", "label")})

    stream = batches.prefetch(make_batch, first, last)
    if grids.lacking(config, workdir, first):  # stopped before it was drawn
        draw(first, sharding.whole(mesh, train_state.ema_params))
    bar = writers.progress(last, "train", initial=first)
    with bar:
        for index, batch in stream:
            train_state, metrics = step_fn(train_state, batch)
            window.add(index + 1, metrics)  # waits for the step before this one
            done = index + 1
            bar.update()
            stop = saved.should_stop()
            if done % config.train.log_every == 0 or done == last:
                row = window.close(config.train.batch_size)
                writer.scalars(done, row)
                bar.set_postfix(loss=f"{row['loss']:.4f}", refresh=False)
            if done % config.train.checkpoint_every == 0 or done == last or stop:
                window.check()
                saved.save(done, train_state, metadata)
            if stop:
                raise stopping.interrupted(f"step {done}")
            # the grid last: it may take minutes, and one that is lacking is drawn later
            if grids.due(config, done):
                window.check()
                draw(done, sharding.whole(mesh, train_state.ema_params))
    if saved.should_stop():  # during the last grid
        raise stopping.interrupted(f"step {last}")
