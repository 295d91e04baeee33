"""Whether a config trains a classifier, and sets nothing that a classifier lacks."""

from collections.abc import Iterable

from progguide_jax import networks

# keys that say how images are predicted
_OF_DENOISERS = """model.label_dim train.label_drop train.predicts train.loss_weight
    train.exit_weight train.noise train.sample_every train.sample_steps""".split()


def classifies(config) -> bool:
    """Whether config.model is a classifier."""
    return config.model.name in networks.CLASSIFIERS


def check(config) -> None:
    """ValueError at another noise, or weight of the loss, than a classifier is trained
    with."""
    for key, only in (("noise", "gaussian"), ("loss_weight", "uniform")):
        if classifies(config) and config.train[key] != only:
            raise ValueError(
                f"train.{key} is {config.train[key]!r} and model.name is "
                f"{config.model.name!r}, a classifier: set train.{key}={only}"
            )


def check_given(config, given: Iterable[str]) -> None:
    """ValueError at a key, of those that were typed, that no classifier reads."""
    for key in given if classifies(config) else ():
        if key in _OF_DENOISERS:
            raise ValueError(
                f"{key} does nothing: model.name is {config.model.name!r}, a "
                "classifier; leave it out"
            )


def check_images(config) -> None:
    """ValueError if the network makes no images."""
    if classifies(config):
        raise ValueError(
            f"model.name is {config.model.name!r}, a classifier, which makes no images "
            "and is not probed: sample another workdir with guidance.references="
            "classifier and guidance.classifier.workdir set to this one"
        )
