"""Statistics of real images: what samples are scored against, as a file."""

import hashlib
import json
import logging
import os
import zipfile
from typing import NamedTuple

import jax
import numpy as np
from etils import epath

from progguide_jax import data, features, generation, state
from progguide_jax.metrics import frechet, suite
from progguide_jax.runtime import config as config_lib
from progguide_jax.runtime import digests, files, sharding, validation


class Reference(NamedTuple):
    """about: what made it (of a public file: its name and a digest); statistics of all
    images, and of each class or None; labels int32 [M] of statistics.features."""

    about: dict
    statistics: suite.Reference
    per_class: list[suite.Reference] | None
    labels: np.ndarray | None


def refer(config, workdir: str) -> None:
    """Write WORKDIR/references/NAME.npz for config.eval.split of config.data.

    mu float64 [D], sigma [D,D] (ddof 1), features float32 [M,D] and labels int32 [M]
    of eval.reference_features images, class_mu [K,D] and class_sigma [K,D,D] with
    eval.per_class, and about, a JSON text that says what made them.
    """
    validation.validate(config)
    extractor = load_extractor(config)
    path = made_path(config, workdir, extractor)
    if _is_made(path, _settings(config, extractor)):
        logging.info("already there: %s", path)
        return
    _make(config, path, extractor)


def load_extractor(config) -> features.Extractor:
    """That of config.eval, on all devices."""
    mesh = sharding.mesh()
    sharding.check_batch(config.eval.batch_size, mesh, "eval.batch_size")
    return features.load(config.eval.features, mesh, config.eval.weights)


def find(config, workdir: str, extractor: features.Extractor) -> Reference:
    """The statistics that config.eval asks for, made first if the workdir lacks them.

    eval.reference may be a file of ours or a public .npz with mu and sigma. ValueError
    if it is of another extractor, split or dimension.
    """
    path = config.eval.reference
    if not path:
        path = made_path(config, workdir, extractor)
        if not _is_made(path, _settings(config, extractor)):
            _make(config, path, extractor)
        sharding.barrier("reference")
    reference = read(path, config.eval.per_class)
    _check_fit(config, reference, extractor, path)
    return reference


def made_path(config, workdir: str, extractor: features.Extractor) -> epath.Path:
    """Where `refer` writes: its main settings, and a digest of all."""
    digest = digests.json_digest(_settings(config, extractor))[:6]
    name = f"{config.data.name}_{config.eval.split}_{extractor.name}_{digest}.npz"
    return epath.Path(workdir) / "references" / name


def read(path: str, per_class: bool = False) -> Reference:
    """A file of `refer`, or a public one with mu and sigma (pytorch-fid, EDM).

    per_class: whether the statistics of the classes are wanted, where there are any.
    """
    if not epath.Path(path).is_file():
        raise FileNotFoundError(
            f"no reference statistics at {path}: python -m eval.reference makes them, "
            "or set --config.eval.reference to an .npz with mu and sigma"
        )
    try:
        arrays = files.load_npz(path)
    except ValueError as error:  # which says: remove it; it may be another's
        raise ValueError(
            f"{path} holds no reference statistics: {str(error).partition(': ')[0]}"
        ) from error
    if not {"mu", "sigma"} <= set(arrays):
        raise ValueError(
            f"{path} holds {', '.join(sorted(arrays))}: reference statistics need mu "
            "and sigma"
        )
    mean, covariance = (np.asarray(arrays[k], np.float64) for k in ("mu", "sigma"))
    mean = mean.reshape(-1)
    if covariance.shape != (len(mean), len(mean)):
        raise ValueError(
            f"{path}: mu has {len(mean)} dimensions and sigma is {covariance.shape}: "
            "the file is damaged, make it again"
        )
    scale = np.abs(covariance).max()
    if not np.allclose(covariance, covariance.T, rtol=0, atol=1e-6 * scale):
        raise ValueError(f"{path}: sigma is not symmetric, so it is no covariance")
    classes = None
    if per_class and "class_mu" in arrays:
        classes = [
            suite.Reference(
                class_mean,
                class_covariance,
                arrays["features"][arrays["labels"] == label],
                frechet.root(class_covariance),
            )
            for label, (class_mean, class_covariance) in enumerate(
                zip(arrays["class_mu"], arrays["class_sigma"], strict=True)
            )
        ]
    whole = suite.Reference(
        mean, covariance, arrays.get("features"), frechet.root(covariance)
    )
    if "about" in arrays:  # settings and images: the last bits of moments may differ
        about = json.loads(str(arrays["about"]))
    else:
        moments = digests.digest([mean, covariance])
        about = {"file": os.path.basename(path), "moments": moments}
    return Reference(about, whole, classes, arrays.get("labels"))


def _check_fit(config, reference, extractor, path) -> None:
    about, dim = reference.about, len(reference.statistics.mean)
    if "features" not in about:
        logging.warning(
            "%s does not say which features and which images made it: the row says so",
            path,
        )
    else:
        for what, here, there, key in (
            (
                "features",
                extractor.origin["name"],
                about["features"]["name"],
                "eval.features",
            ),
            ("data", config.data.name, about["data"]["name"], "data.name"),
            ("split", config.eval.split, about["split"], "eval.split"),
            (
                "weights",
                extractor.origin["weights"],
                about["features"]["weights"],
                "eval.weights",
            ),
        ):
            if here != there:
                raise ValueError(
                    f"{path} has the {what} {there}, this run {here}: set --config."
                    f"{key}, or make statistics with python -m eval.reference"
                )
    features_dim, _ = features.widths(extractor, state.image_shape(config))
    if dim != features_dim:
        raise ValueError(
            f"{path} has {dim} dimensions and {extractor.name} features "
            f"{features_dim}: they come from another network"
        )
    if config.eval.per_class and reference.per_class is None:
        raise ValueError(
            f"{path} has no statistics of the classes: make them with python -m "
            "eval.reference --config.eval.per_class=True, or leave per_class out"
        )


def _settings(config, extractor) -> dict:
    """What a reference file depends on, as far as it is known without the images."""
    free = ("dir", "flip")
    return {
        "features": extractor.origin,
        "split": config.eval.split,
        "data": {
            k: v for k, v in config_lib.to_dict(config.data).items() if k not in free
        },
        "kept": config.eval.reference_features,
        "seed": config.eval.seed,
        "per_class": config.eval.per_class,
    }


def _is_made(path, settings: dict) -> bool:
    if not sharding.agreed(epath.Path(path).exists()):
        return False
    try:
        with epath.Path(path).open("rb") as file, np.load(file) as arrays:
            about = json.loads(str(arrays["about"]))
    except (KeyError, ValueError, TypeError, EOFError, OSError, zipfile.BadZipFile):
        return False
    return all(about.get(k) == v for k, v in settings.items())


def _make(config, path, extractor) -> None:
    settings = {k: v for k, v in config.data.items() if k != "flip"}
    dataset = data.load(**settings, split=config.eval.split)
    values, _ = features.extract_all(
        extractor, _as_uint8(dataset.images), config.eval.batch_size, config.eval.split
    )
    moments = frechet.of(values)
    kept = _kept(config, dataset.labels, dataset.num_classes)
    arrays = {"mu": moments.mean, "sigma": frechet.covariance(moments)}
    if config.eval.per_class:
        each = [
            frechet.of(values[dataset.labels == c]) for c in range(dataset.num_classes)
        ]
        arrays["class_mu"] = np.stack([m.mean for m in each])
        arrays["class_sigma"] = np.stack([frechet.covariance(m) for m in each])
    about = _settings(config, extractor) | {
        "num_images": len(values),
        "images": hashlib.sha256(np.ascontiguousarray(dataset.images)).hexdigest()[:16],
        "versions": config_lib.versions(),
    }
    if jax.process_index() == 0:
        files.save_npz(
            path,
            **arrays,
            features=values[kept],
            labels=dataset.labels[kept],
            about=np.array(json.dumps(about)),
        )
        logging.info("%d images in %s", len(values), path)


def _kept(config, labels: np.ndarray, num_classes: int) -> np.ndarray:
    """Rows of the images whose features stay: as many of each class as there are."""
    most, seed = config.eval.reference_features, config.eval.seed
    if most >= len(labels):
        return np.arange(len(labels))
    rows = [np.flatnonzero(labels == c) for c in range(num_classes)]
    share = np.diff(np.linspace(0, most, num_classes + 1).astype(int))
    some = [
        each[suite.subset(len(each), n, seed)]
        for each, n in zip(rows, share, strict=True)
    ]
    return np.sort(np.concatenate(some))


def _as_uint8(images: np.ndarray) -> np.ndarray:
    """Real images as samples are: two_gaussians has floats in [-1, 1]."""
    return images if images.dtype == np.uint8 else generation.to_uint8(images)
