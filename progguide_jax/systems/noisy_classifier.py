"""A trained classifier of noisy images, as guidance takes it."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp

from progguide_jax.diffusion.system import System
from progguide_jax.runtime import config as config_lib
from progguide_jax.runtime import digests
from progguide_jax.systems import build, specs, trained


def load(config, workdir: str, mesh, model: System) -> specs.Guide:
    """log p(label | x_t) of the averaged classifier that was trained in workdir.

    config: that of its training. ValueError if it is not one of the model's data and
    noise schedule.
    """
    config = build.identified(config, workdir)
    origin = config_lib.as_json(
        {
            "noise": config.noise.name,
            "noise_digest": digests.digest(
                {"alpha_bar": build.noise_schedule(config).alpha_bar}
            ),
            "data": build.data_about(config),
        }
    )
    trained.check_same("classifier", workdir, origin, model.origin)
    params, checkpoint = build.load_ema(config, workdir, mesh)
    network = build.network_settings(config)
    del network["dropout"]
    given = jax.tree_util.Partial(log_prob(build.network(config)), params)
    return specs.Guide(
        given,
        origin | config_lib.as_json({"checkpoint": checkpoint, "network": network}),
    )


@functools.cache
def log_prob(module: nn.Module):
    """(params, x_t, level, label [B]) -> log p(label | x_t) [B], in nats."""

    def of_label(params, x_t, level, label):
        logits = module.apply({"params": params}, x_t, level)
        return jnp.take_along_axis(nn.log_softmax(logits), label[:, None], 1)[:, 0]

    return of_label
