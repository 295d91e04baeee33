"""Networks (flax.linen). Each has embed_label(label) apart from __call__."""

import difflib

import flax.linen as nn

from progguide_jax.diffusion import process
from progguide_jax.models import pix_film, unet

MODELS = {"unet": unet.UNet, "pix_film": pix_film.PixFiLM}


def create(
    name: str, noise_schedule: process.NoiseSchedule, num_classes: int, **settings
) -> nn.Module:
    """The network `name`; settings that it does not have are left out."""
    if name not in MODELS:
        near = difflib.get_close_matches(name, MODELS, n=1)
        hint = f"did you mean {near[0]!r}? " if near else ""
        raise ValueError(
            f"unknown model {name!r}: {hint}use one of {', '.join(MODELS)}"
        )
    model = MODELS[name]
    fields = {k: v for k, v in settings.items() if k in model.__dataclass_fields__}
    return model(noise_schedule, num_classes, **fields)
