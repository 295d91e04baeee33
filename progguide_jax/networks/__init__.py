"""Networks (flax.linen): module(x_t, level, label_emb, train=False) -> prediction.

x_t [B,H,W,C]; level, a `process.Level`, is all that a network knows of the noise;
label_emb [B,D] comes from module.embed_label(label). What the answer is (eps, x0 or v)
is the field `predicts`. A classifier is module(x_t, level, train=False) -> logits.
"""

import flax.linen as nn

from progguide_jax import registry
from progguide_jax.networks import encoder, pix_film, unet

DENOISERS = {"unet": unet.UNet, "pix_film": pix_film.PixFiLM}
CLASSIFIERS = {"encoder": encoder.Encoder}
MODELS = DENOISERS | CLASSIFIERS


def settings(name: str) -> list[str]:
    """What `create(name, num_classes, ...)` takes by keyword."""
    fields = MODELS[registry.check("model", name, MODELS)].__dataclass_fields__
    return [f for f in fields if f not in ("num_classes", "parent", "name")]


def create(name: str, num_classes: int, **chosen) -> nn.Module:
    """The network `name`; ValueError at a setting that it does not have."""
    for setting in chosen:
        registry.check(f"setting of model {name!r}:", setting, settings(name))
    return MODELS[registry.check("model", name, MODELS)](num_classes, **chosen)
