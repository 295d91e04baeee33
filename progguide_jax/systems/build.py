"""From a config to what a run is made of: network, noise schedule, optimiser, state."""

import functools
import hashlib

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax
from etils import epath
from flax import struct

from progguide_jax import data, networks
from progguide_jax.diffusion import losses, process, train_noises
from progguide_jax.runtime import checkpoints, digests, hosts, sharding
from progguide_jax.runtime import config as config_lib
from progguide_jax.systems import classifier_checks, entries


class TrainState(struct.PyTreeNode):
    """Everything that training changes; step int32 counts finished updates."""

    step: jax.Array
    params: dict
    ema_params: dict
    opt_state: optax.OptState


def noise_schedule(config) -> process.NoiseSchedule:
    """The schedule of config.noise."""
    noise = config.noise
    settings = entries.settings(config, "noise.name")
    made = process.make(noise.name, noise.num_timesteps, **settings)
    return process.zero_terminal_snr(made) if noise.zero_terminal_snr else made


def loss_weight(config) -> losses.Weight:
    """The weight of config.train.loss_weight, with the settings of its section."""
    settings = entries.settings(config, "train.loss_weight")
    return losses.make(config.train.loss_weight, **settings)


def train_noise(config) -> train_noises.Noise:
    """The noise of config.train.noise, with the settings of its section."""
    settings = entries.settings(config, "train.noise")
    return train_noises.make(config.train.noise, **settings)


def load_data(config, split: str = "train") -> data.Dataset:
    """A split of config.data."""
    settings = entries.common(config, "data") | entries.settings(config, "data.name")
    del settings["flip"]
    if config.data.name in data.FILES:
        dataset = data.load(**settings, split=split)
        if jax.process_count() > 1:
            hosts.agree({f"{split} split": hashlib.sha256(dataset.images).hexdigest()})
        return dataset
    return _generated(split, **settings)


@functools.lru_cache(maxsize=1)
def _generated(split: str, **settings) -> data.Dataset:
    """What is a function of its settings is made once for training, probing, ..."""
    return data.load(**settings, split=split)


def identified(config, workdir: str):
    """config with data.digest, where data of its kind have one: that of the images that
    workdir was trained on, or else of those at data.dir."""
    name = config.data.name
    if config.data.digest or not data.FILES.get(name):
        return config
    config = config.copy_and_resolve_references()
    path = epath.Path(workdir) / "config.json"
    known = config_lib.load(path).data if path.exists() else config.data
    digest = known.digest if known.name == name else ""
    config.data.digest = digest or data.identify(name, config.data.dir)
    return config


def data_about(config) -> dict:
    """What config.data says of the images, wherever they lie, as a config has it; the
    images of data that have a digest are as many as it stands for."""
    about = entries.common(config, "data")
    del about["flip"], about["dir"]
    del about["num_examples" if data.FILES.get(config.data.name) else "digest"]
    own = entries.settings(config, "data.name")
    return about | ({config.data.name: own} if own else {})


def image_shape(config) -> tuple[int, int, int]:
    """(H, W, C)."""
    return config.data.image_size, config.data.image_size, config.data.channels


def network_settings(config) -> dict:
    """The name of the network and its own settings."""
    settings = entries.common(config, "model") | entries.settings(config, "model.name")
    if classifier_checks.classifies(config):
        del settings["label_dim"]
    return settings


def network(config, dtype: str | None = None) -> nn.Module:
    """The network of config.model; dtype, of activations, overrides the config's
    where the network has one."""
    settings = network_settings(config)
    if dtype and "dtype" in settings:
        settings["dtype"] = dtype
    if not classifier_checks.classifies(config):
        settings["predicts"] = config.train.predicts
    return networks.create(num_classes=config.data.num_classes, **settings)


@functools.cache
def raw_of_embedding(module: nn.Module):
    """(params, x_t, level, label_emb [B,D]) -> what the module predicts.

    One function object a module, hence one compilation; so with those below.
    """

    def raw(params, x_t, level, label_emb):
        return module.apply({"params": params}, x_t, level, label_emb)

    return raw


@functools.cache
def raw_of_label(module: nn.Module):
    """(params, x_t, level, label [B]) -> what the module predicts."""

    def raw(params, x_t, level, label):
        emb = embed_label(module, params, label)
        return module.apply({"params": params}, x_t, level, emb)

    return raw


@functools.cache
def embeddings(module: nn.Module):
    """(params, label [B]) -> their rows [B,D]."""

    def rows(params, label):
        return embed_label(module, params, label)

    return rows


@functools.cache
def eps_of_embedding(module: nn.Module, ns: process.NoiseSchedule):
    """(params, x_t, t int [B], label_emb [B,D]) -> eps, whatever is predicted."""
    return _eps(raw_of_embedding(module), module.predicts, ns)


@functools.cache
def eps_of_label(module: nn.Module, ns: process.NoiseSchedule):
    """(params, x_t, t int [B], label [B]) -> eps, whatever is predicted."""
    return _eps(raw_of_label(module), module.predicts, ns)


def _eps(raw, predicts, ns):
    def eps(params, x_t, t, condition):
        level = ns.level(t, x_t.dtype)
        prediction = raw(params, x_t, level, condition)
        return process.convert(level, x_t, prediction, predicts, "eps")

    return eps


def embed_label(module: nn.Module, params: dict, label: jax.Array) -> jax.Array:
    """The rows [B,D] of label [B]."""
    return module.apply({"params": params}, label, method="embed_label")


def init_params(module: nn.Module, shape: tuple[int, ...], key: jax.Array) -> dict:
    """Parameters for images of `shape` (H, W, C)."""

    def whole(module, x_t, level, label):
        if isinstance(module, tuple(networks.CLASSIFIERS.values())):
            return module(x_t, level)
        return module(x_t, level, module.embed_label(label))

    label = jnp.zeros(1, jnp.int32)
    level = process.Level(label, alpha=jnp.ones(1), sigma=jnp.ones(1))
    return nn.init(whole, module)(key, jnp.zeros((1, *shape)), level, label)["params"]


def learning_rate(config) -> optax.Schedule:
    """Linear warm-up, then constant or a cosine to 0 at num_steps. A warm-up that would
    leave nothing to decay over is a tenth of the run."""
    train = config.train
    peak, warmup = train.learning_rate, train.warmup_steps
    if train.decay == "cosine" and warmup >= train.num_steps:
        warmup = train.num_steps // 10
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
    _check_trained_with(identified(config, workdir), workdir)
    abstract = jax.eval_shape(functools.partial(create, config, network(config)))
    repl = sharding.replicated(mesh)
    abstract = jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=repl),
        abstract.ema_params,
    )
    with checkpoints.Checkpoints(directory) as saved:
        params, step, _ = saved.restore_ema(abstract, config.checkpoint.step or None)
    return params, {"step": int(step), "digest": digests.digest(params)}


def progress(config, workdir: str, step: int) -> str:
    """ "step 4 of 6", where config leaves the choice of the checkpoint to what there is
    and the training of workdir has not come to its end; else ""."""
    path = epath.Path(workdir) / "config.json"
    if config.checkpoint.step or not path.exists():
        return ""
    last = config_lib.load(path).train.num_steps
    return f"step {step} of {last}" if step < last else ""


def check_finished(config, workdir: str, step: int) -> None:
    """ValueError if results would be those of a training that has not ended."""
    if words := progress(config, workdir, step):
        raise ValueError(
            f"the training in {workdir} is at {words}: run train.py to its end, or set "
            f"--config.checkpoint.step={step}"
        )


def _check_trained_with(config, workdir: str) -> None:
    """ValueError if network, noise schedule or data are not those of the training.

    Shapes would not tell: another schedule, sigma_skip or prediction fits any
    checkpoint.
    """
    path = epath.Path(workdir) / "config.json"
    if not path.exists():
        return
    bound = "model.", "noise.", "data.", "train.predicts:", "train.noise:"
    bound += ("train.student_t.",)
    free = [f"model.{n}.{k}:" for n in networks.MODELS for k in ("dropout", "dtype")]
    free = (*free, "data.dir:", "data.flip:")
    changes = [
        line
        for line in config_lib.difference(config_lib.load(path), config)
        if line.startswith(bound) and not line.startswith(free)
    ]
    if changes:
        raise ValueError(
            f"the checkpoint in {workdir} does not fit: it was trained with another "
            f"config ({'; '.join(changes)}): use that config, or another --workdir"
        )
