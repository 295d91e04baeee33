"""Whether config.eval makes sense, before any work is done."""

import logging
from collections.abc import Sequence

import ml_collections

from progguide_jax import data, registry
from progguide_jax.metrics import suite
from progguide_jax.scoring import extraction
from progguide_jax.systems import key_checks

_RANGES = [
    ("at least 1", lambda x: x >= 1, "eval.batch_size eval.reference_features"),
    ("at least 0", lambda x: x >= 0, "eval.num_images"),
    ("in 0 ... 2^32 - 1", lambda x: 0 <= x < 2**32, "eval.seed"),
]


def check_eval(config: ml_collections.ConfigDict) -> None:
    """ValueError, in one line that says what to do, at the first bad value."""
    settings = config.eval
    registry.check("eval.features", settings.features, extraction.NAMES)
    registry.check("eval.split", settings.split, data.SPLITS)
    for metric in settings.metrics:
        registry.check("eval.metrics", metric, suite.names())
    if not settings.metrics:
        raise ValueError(f"eval.metrics is empty: use {', '.join(suite.names())}")
    key_checks.check_ranges(config, _RANGES)
    if settings.weights and settings.features == "pixels":
        logging.warning("eval.weights is not read: pixels has no weights")


def leave_out_impossible(config: ml_collections.ConfigDict, given: Sequence[str]):
    """Take out of eval.metrics what eval.features cannot give, with a line that says
    so. Where eval.metrics was typed (is in given), or nothing would be left, it stays:
    what cannot be given is refused later."""
    settings = config.eval
    if "eval.metrics" in given or settings.features in extraction.WITH_LOGITS:
        return
    possible = [m for m in settings.metrics if "logits" not in suite.NEEDS.get(m, ())]
    left_out = [m for m in settings.metrics if m not in possible]
    if possible and left_out:
        settings.metrics = tuple(possible)
        logging.info(
            "eval.metrics is %s, without %s: the features %s have no logits",
            ",".join(possible),
            ",".join(left_out),
            settings.features,
        )
