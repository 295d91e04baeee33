"""Whether config.eval makes sense, before any work is done."""

import logging

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
