"""A trained workdir as a `System`: class ids in, images out."""

import jax

from progguide_jax.diffusion import prediction, system
from progguide_jax.diffusion.system import System
from progguide_jax.runtime import config as config_lib
from progguide_jax.runtime import digests
from progguide_jax.systems import build, disturbed


def load(config, workdir: str, mesh) -> System:
    """The averaged network of config.checkpoint in workdir, on every device.

    origin: what an image depends on by the model: the checkpoint's step and digest,
    the network and its settings, the noise schedule, the data's shape and classes.
    """
    config = build.identified(config, workdir)
    params, checkpoint = build.load_ema(config, workdir, mesh)
    return of(config, params, checkpoint)


def of(config, params: dict, checkpoint: dict) -> System:
    """The system of these parameters; checkpoint: {"step", "digest"}."""
    module, ns = build.network(config), build.noise_schedule(config)
    fn, of_embedding = (
        jax.tree_util.Partial(made(module), params)
        for made in (build.raw_of_label, build.raw_of_embedding)
    )
    kind, num_classes = config.train.predicts, config.data.num_classes
    shape = build.image_shape(config)
    # dropout is of training only
    network = build.network_settings(config)
    network.pop("dropout", None)
    if not network.get("exit"):  # as if there were no such key
        network.pop("exit", None)
    origin = {
        "checkpoint": checkpoint,
        "network": network | {"predicts": kind},
        "noise": config.noise.name,
        "noise_digest": digests.digest({"alpha_bar": ns.alpha_bar}),
        "data": build.data_about(config),
    }
    return system.of_labels(
        fn,
        ns,
        shape,
        num_classes,
        predicts=kind,
        origin=config_lib.as_json(origin),
        perturbed=disturbed.perturbed(module, params, shape),
        embed=jax.tree_util.Partial(build.embeddings(module), params),
        branch_of_embedding=lambda emb: prediction.Branch(of_embedding, emb, kind),
    )


def check_same(reference: str, workdir: str, theirs: dict, ours: dict) -> None:
    """ValueError unless the origin of what a reference has from workdir says in all its
    sections what that of the model says. The images may be more or fewer, and lie
    elsewhere."""
    flat = [config_lib.flat({k: made[k] for k in theirs}) for made in (ours, theirs)]
    for key in sorted(flat[0] | flat[1]):
        here, there = (made.get(key, "absent") for made in flat)
        if here != there and key != "data.num_examples":
            raise ValueError(
                f"{reference}: the network in {workdir} has {key} {there} and the one "
                f"that it guides {here}: set --config.guidance.{reference}.workdir to "
                "another, trained on the same"
            )
