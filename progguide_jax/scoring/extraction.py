"""Feature extractors: a network with public weights, run over images batch by batch."""

import os
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from progguide_jax.extractors import classifiers, inception, pixels, vit
from progguide_jax.pretrained import (
    convert,
    inception_names,
    locate,
    readers,
    resnet_names,
    vit_names,
)
from progguide_jax.runtime import sharding, writers

_DEPTHS = {"resnet20": 20, "resnet56": 56}
WITH_LOGITS = ("inception", *_DEPTHS)
NAMES = (*WITH_LOGITS, *vit_names.WEIGHTS, "pixels")  # config.eval.features
_SIZE = 32  # of the images that abstract initialisation sees; no weight depends on it


class Extractor(NamedTuple):
    """name: what scores are named after: that of config.eval.features, with six digits
    of the weights' digest if they are not the public ones; origin: {"name", "weights"},
    the sha256 of the file (None without one); run: uint8 [B,H,W,3] -> {"features"
    float32 [B,D], "logits" float32 [B,K] or absent}."""

    name: str
    origin: dict
    variables: dict
    run: jax.stages.Wrapped
    mesh: jax.sharding.Mesh


def load(name: str, mesh, weights: str = "") -> Extractor:
    """The extractor `name` (config.eval.features) with its weights on the mesh.

    weights: their file or a folder; "" looks in the usual caches. FileNotFoundError
    says what is looked for; ValueError if the file is not what it should be.
    """
    module = _module(name)
    variables, digest, label = {}, None, name
    if name != "pixels":
        variables, digest, known = _read(name, module, weights)
        label = name if known else f"{name}_{digest[:6]}"
    repl, split = sharding.replicated(mesh), sharding.batch(mesh)
    run = jax.jit(module.apply, in_shardings=(repl, split), out_shardings=split)
    variables = jax.device_put(variables, repl)
    return Extractor(label, {"name": name, "weights": digest}, variables, run, mesh)


def _module(name: str) -> Any:
    if name in _DEPTHS:
        return classifiers.ResNet(_DEPTHS[name])
    if name == "inception":
        return inception.Inception()
    return pixels.Pixels() if name == "pixels" else vit.create(name)


def known_files(name: str) -> Sequence[locate.WeightFile]:
    """The public files of weights of a network of NAMES, best first."""
    if name == "inception":
        return inception_names.WEIGHTS
    return (resnet_names if name in _DEPTHS else vit_names).WEIGHTS[name]


def _read(name: str, module: Any, weights: str) -> tuple[dict, str, bool]:
    """(variables, sha256 of the file, whether it is a public one) of the network."""
    known = known_files(name)
    found = locate.find(known, weights)
    source = readers.read(found.path)
    if name in _DEPTHS:
        rules, ignore = resnet_names.RULES, resnet_names.IGNORE
    elif name == "inception":
        rules, ignore = inception_names.rules_for(source)
    else:
        rules, ignore = vit_names.rules_for(name, source)
    image = jax.ShapeDtypeStruct((1, _SIZE, _SIZE, 3), jnp.uint8)
    target = jax.eval_shape(module.init, jax.random.key(0), image)
    variables = convert.convert(source, rules, target, ignore=ignore, where=found.path)
    public = any(
        found.sha256.startswith(file.sha256)
        if file.sha256
        else os.path.basename(found.path).endswith(os.path.basename(file.name))
        for file in known
    )
    return variables, found.sha256, public


def widths(
    extractor: Extractor, image_shape: tuple[int, ...]
) -> tuple[int, int | None]:
    """(D, K) of features and logits for images [H,W,C]; K may be None."""
    images = jax.ShapeDtypeStruct((extractor.mesh.size, *image_shape), jnp.uint8)
    out = jax.eval_shape(extractor.run, extractor.variables, images)
    logits = out.get("logits")
    return out["features"].shape[1], None if logits is None else logits.shape[1]


def check_images(extractor: Extractor, images: np.ndarray, what: str) -> None:
    """ValueError unless these are images that the extractor takes."""
    if images.dtype != np.uint8 or images.ndim != 4:
        raise ValueError(
            f"{what}: images are {images.dtype} {list(images.shape)}, scores need "
            "uint8 [N,H,W,3]"
        )
    if not len(images):
        raise ValueError(f"{what}: there are no images to score")
    if extractor.origin["name"] != "pixels" and images.shape[3] != 3:
        raise ValueError(
            f"{what}: images have {images.shape[3]} channels, {extractor.name} takes "
            "RGB: use eval.features=pixels"
        )


def extract(
    extractor: Extractor, images: np.ndarray, batch_size: int, what: str, start: int = 0
) -> Iterator[tuple[slice, np.ndarray, np.ndarray | None]]:
    """(rows, features float32 [n,D], logits float32 [n,K] or None), batch by batch,
    from row `start` on.

    images uint8 [N,H,W,3]; every host gets every row. ValueError at images that
    `check_images` refuses, and at features that are not finite.
    """
    check_images(extractor, images, what)
    mine = sharding.host_rows(batch_size)
    bar = writers.progress(len(images), f"{extractor.name}: {what}", initial=start)
    with bar:
        for first in range(start, len(images), batch_size):
            batch = images[first : first + batch_size]
            n = len(batch)
            if n < batch_size:  # one shape, one compilation
                batch = np.concatenate(
                    [batch, np.repeat(batch[-1:], batch_size - n, axis=0)]
                )
            inputs = sharding.put(extractor.mesh, batch[mine])
            out = sharding.to_host(extractor.run(extractor.variables, inputs))
            features = out["features"][:n]
            if not np.isfinite(features).all():
                bad = first + int(np.argmin(np.isfinite(features).all(1)))
                raise ValueError(
                    f"{what}: the {extractor.name} features of image {bad} are not "
                    "finite: the weights do not fit the network, or the image is broken"
                )
            logits = out.get("logits")
            rows = slice(first, first + n)
            yield rows, features, None if logits is None else logits[:n]
            bar.update(n)
