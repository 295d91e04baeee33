"""From a config to what a run is made of: network, noise schedule, optimiser, state."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax
from etils import epath
from flax import struct

from progguide_jax import data, models
from progguide_jax.diffusion import process
from progguide_jax.runtime import checkpoints, digests, sharding
from progguide_jax.runtime import config as config_lib


class TrainState(struct.PyTreeNode):
    """Everything that training changes; step int32 counts finished updates."""

    step: jax.Array
    params: dict
    ema_params: dict
    opt_state: optax.OptState


def noise_schedule(config) -> process.NoiseSchedule:
    """The schedule of config.noise."""
    noise = config.noise
    match noise.name:
        case "ddpm_linear":
            return process.ddpm_linear(noise.num_timesteps)
        case "scaled_linear":
            return process.scaled_linear(
                noise.num_timesteps, noise.beta_start, noise.beta_end
            )
        case "cosine":
            return process.cosine(noise.num_timesteps)
    raise ValueError(f"unknown noise schedule {noise.name!r}")


def load_data(config) -> data.Dataset:
    """The training split of config.data."""
    settings = {k: v for k, v in config.data.items() if k != "flip"}
    return data.load(**settings)


def image_shape(config) -> tuple[int, int, int]:
    """(H, W, C)."""
    return config.data.image_size, config.data.image_size, config.data.channels


def network(config, dtype: str | None = None) -> nn.Module:
    """The network of config.model; dtype, of activations, overrides the config's."""
    settings = {k: v for k, v in config.model.items() if k != "name"}
    if dtype:
        settings["dtype"] = dtype
    return models.create(
        config.model.name, noise_schedule(config), config.data.num_classes, **settings
    )


@functools.cache
def eps_of_embedding(module: nn.Module):
    """(params, x_t, t, label_emb [B,D]) -> eps_hat; one function object per module."""

    def eps(params, x_t, t, label_emb):
        return module.apply({"params": params}, x_t, t, label_emb)

    return eps


@functools.cache
def eps_of_label(module: nn.Module):
    """(params, x_t, t, label [B]) -> eps_hat; one function object per module."""

    def eps(params, x_t, t, label):
        emb = embed_label(module, params, label)
        return module.apply({"params": params}, x_t, t, emb)

    return eps


def embed_label(module: nn.Module, params: dict, label: jax.Array) -> jax.Array:
    """The rows [B,D] of label [B]."""
    return module.apply({"params": params}, label, method="embed_label")


def init_params(module: nn.Module, shape: tuple[int, ...], key: jax.Array) -> dict:
    """Parameters for images of `shape` (H, W, C)."""

    def whole(module, x_t, t, label):
        return module(x_t, t, module.embed_label(label))

    zero = jnp.zeros(1, jnp.int32)
    return nn.init(whole, module)(key, jnp.zeros((1, *shape)), zero, zero)["params"]


def learning_rate(config) -> optax.Schedule:
    """Linear warm-up, then constant or a cosine to 0 at num_steps."""
    train = config.train
    peak, warmup = train.learning_rate, train.warmup_steps
    if train.decay == "constant":
        return optax.schedules.linear_schedule(peak / max(warmup, 1), peak, warmup)
    return optax.schedules.warmup_cosine_decay_schedule(
        peak / max(warmup, 1), peak, warmup, max(train.num_steps, warmup + 1)
    )


def optimizer(config) -> optax.GradientTransformation:
    """Adam behind a clip of the global gradient norm."""
    return optax.chain(
        optax.clip_by_global_norm(config.train.grad_clip),
        optax.adam(learning_rate(config)),
    )


def create(config, module: nn.Module) -> TrainState:
    """The state at step 0, a function of config.seed; the average starts at params."""
    key = jax.random.fold_in(jax.random.key(config.seed), 0)
    params = init_params(module, image_shape(config), key)
    return TrainState(
        step=jnp.zeros((), jnp.int32),
        params=params,
        ema_params=jax.tree.map(jnp.copy, params),
        opt_state=optimizer(config).init(params),
    )


def checkpoint_dir(workdir: str) -> str:
    return str(epath.Path(workdir) / "checkpoints")


def load_ema(config, workdir: str, mesh) -> tuple[dict, dict]:
    """(averaged parameters on the mesh, {"step", "digest"} of where they come from).

    FileNotFoundError without a checkpoint, ValueError if it does not fit the config.
    """
    directory = checkpoint_dir(workdir)
    if not epath.Path(directory).exists():
        raise FileNotFoundError(
            f"no checkpoint in {directory}: run train.py first, with the same --config "
            "and --workdir"
        )
    _check_trained_with(config, workdir)
    abstract = jax.eval_shape(functools.partial(create, config, network(config)))
    repl = sharding.replicated(mesh)
    abstract = jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=repl),
        abstract.ema_params,
    )
    with checkpoints.Checkpoints(directory) as saved:
        params, step, _ = saved.restore_ema(abstract)
    return params, {"step": int(step), "digest": digests.digest(params)}


def _check_trained_with(config, workdir: str) -> None:
    """ValueError if network, noise schedule or data are not those of the training.

    Shapes would not tell: another schedule, or sigma_skip, fits any checkpoint.
    """
    path = epath.Path(workdir) / "config.json"
    if not path.exists():
        return
    free = ("model.dropout:", "model.dtype:", "data.dir:", "data.flip:")
    changes = [
        line
        for line in config_lib.difference(config_lib.load(path), config)
        if line.startswith(("model.", "noise.", "data.")) and not line.startswith(free)
    ]
    if changes:
        raise ValueError(
            f"the checkpoint in {workdir} does not fit: it was trained with another "
            f"config ({'; '.join(changes)}): use that config, or another --workdir"
        )
