"""Statistics of real images: what samples are scored against, as a file."""

import json
import logging
import os
from typing import NamedTuple

import jax
import numpy as np
from etils import epath

from progguide_jax import data
from progguide_jax.engine import results
from progguide_jax.formats import npz, regular
from progguide_jax.metrics import frechet, suite
from progguide_jax.runtime import config as config_lib
from progguide_jax.runtime import digests, files, locking, sharding, upgrades
from progguide_jax.scoring import embedding, eval_checks, extraction, making
from progguide_jax.systems import build, validation


class RealImages(NamedTuple):
    """What samples are scored against. about: what made it (of a public file: its name
    and a digest); statistics of all images, and of each class or None; labels int32 [M]
    of statistics.features."""

    about: dict
    statistics: suite.Reference
    per_class: list[suite.Reference] | None
    labels: np.ndarray | None


def refer(config, workdir: str) -> None:
    """Write WORKDIR/references/NAME.npz for config.eval.split of config.data.

    mu float64 [D], sigma [D,D] (ddof 1), features float32 [M,D] and labels int32 [M]
    of eval.reference_features images, class_mu [K,D] and class_sigma [K,D,D] with
    eval.per_class, and about, a JSON text that says what made them. NAME.json beside it
    says the same. The same command goes on where it was killed.
    """
    validation.validate(config)
    eval_checks.check_eval(config)
    config = build.identified(config, workdir)
    _find_or_make(config, workdir, load_extractor(config))


def load_extractor(config) -> extraction.Extractor:
    """That of config.eval, on all devices."""
    mesh = sharding.mesh()
    sharding.check_batch(config.eval.batch_size, mesh, "eval.batch_size")
    return extraction.load(config.eval.features, mesh, config.eval.weights)


def find(config, workdir: str, extractor: extraction.Extractor) -> RealImages:
    """The statistics that config.eval asks for, made first if the workdir lacks them.

    eval.reference may be a file of ours or a public .npz with mu and sigma. ValueError
    if it is of another extractor, split or dimension.
    """
    path = config.eval.reference
    config = build.identified(config, workdir)
    if path:
        arrays = _load(path)
    else:
        path = made_path(config, workdir, extractor)
        arrays = _find_or_make(config, workdir, extractor).arrays
    reference = _parse(path, arrays, config.eval.per_class)
    _check_fit(config, reference, extractor, path)
    return reference


def made_path(config, workdir: str, extractor: extraction.Extractor) -> epath.Path:
    """Where `refer` writes: its main settings, and a digest of all."""
    config = build.identified(config, workdir)
    digest = digests.json_digest(_settings(config, extractor))[:6]
    name = f"{config.data.name}_{config.eval.split}_{extractor.name}_{digest}.npz"
    return epath.Path(workdir) / "references" / name


def read(path: str, per_class: bool = False) -> RealImages:
    """A file of `refer`, or a public one with mu and sigma (pytorch-fid, EDM).

    per_class: whether the statistics of the classes are wanted, where there are any.
    """
    return _parse(path, _load(path), per_class)


def _load(path: str) -> dict[str, np.ndarray]:
    if not regular.is_file(path):
        raise FileNotFoundError(
            f"no reference statistics at {path}: python -m eval.reference makes them, "
            "or set --config.eval.reference to an .npz with mu and sigma"
        )
    try:
        return files.load_npz(path)
    except files.Damaged as error:  # it may be another's
        raise ValueError(
            f"{path} holds no reference statistics: {error.why}"
        ) from error


def _parse(path, arrays: dict[str, np.ndarray], per_class: bool) -> RealImages:
    if not {"mu", "sigma"} <= set(arrays):
        raise ValueError(
            f"{path} holds {npz.listed(sorted(arrays))}: reference statistics need mu "
            "and sigma"
        )
    features, labels = arrays.get("features"), arrays.get("labels")
    whole = _reference(path, arrays["mu"].reshape(-1), arrays["sigma"], features)
    if features is not None and labels is not None:
        _expect(path, "labels", labels, "iu", features.shape[:1])
    classes = None
    if per_class and "class_mu" in arrays:
        if not {"class_sigma", "features", "labels"} <= set(arrays):
            raise ValueError(f"{path} lacks arrays of its classes: make it again")
        means, covariances = arrays["class_mu"], arrays["class_sigma"]
        _expect(path, "class_mu", means, "f", (*means.shape[:1], len(whole.mean)))
        _expect(path, "class_sigma", covariances, "f", (*means.shape, means.shape[1]))
        classes = [
            _reference(path, mean, covariance, features[labels == label])
            for label, (mean, covariance) in enumerate(
                zip(means, covariances, strict=True)
            )
        ]
    if "about" in arrays:  # settings and images: the last bits of moments may differ
        about = _about(path, arrays["about"])
    else:
        moments = digests.digest([whole.mean, whole.covariance])
        about = {"file": os.path.basename(path), "moments": moments}
    return RealImages(about, whole, classes, labels)


def _reference(path, mean, covariance, features) -> suite.Reference:
    """Moments and features; ValueError if they are none."""
    _expect(path, "mu", mean, "fiu", mean.shape)
    mean, dim = np.asarray(mean, np.float64), len(mean)
    if covariance.shape != (dim, dim) or not dim:
        raise ValueError(
            f"{path}: mu has {dim} dimensions and sigma is {covariance.shape}: "
            "the file is damaged, make it again"
        )
    _expect(path, "sigma", covariance, "fiu", (dim, dim))
    if features is not None:
        _expect(path, "features", features, "f", (*features.shape[:1], dim))
    covariance = np.asarray(covariance, np.float64)
    scale = np.abs(covariance).max()
    if not np.allclose(covariance, covariance.T, rtol=0, atol=1e-6 * scale):
        raise ValueError(f"{path}: sigma is not symmetric, so it is no covariance")
    root = frechet.root(covariance)
    if not np.allclose(root @ root.T, covariance, rtol=0, atol=1e-4 * scale):
        raise ValueError(
            f"{path}: sigma has negative eigenvalues, so it is no covariance: the file "
            "is damaged, make it again"
        )
    return suite.Reference(mean, covariance, features, root)


def _expect(path, name: str, array: np.ndarray, kinds: str, shape: tuple) -> None:
    """ValueError unless an array has one of the kinds, the shape and finite values."""
    good = array.ndim > 0 and array.dtype.kind in kinds and array.shape == shape
    if not good or not np.all(np.isfinite(array)):
        what = "values that are not finite" if good else array.dtype
        raise ValueError(
            f"{path}: {name} is {list(array.shape)} of {what}, expected finite numbers "
            f"{list(shape)}: the file is damaged, make it again"
        )


def _about(path, text: np.ndarray) -> dict:
    """What made a file of ours: the names of its features, data and split."""
    try:
        about = json.loads(str(text))
        _ = about["features"]["name"], about["features"]["weights"]
        _ = about["data"]["name"], about["data"].get("digest"), about["split"]
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise ValueError(
            f"{path}: what made it cannot be read: the file is damaged, make it again"
        ) from error
    return about


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
                "images",
                _data_about(config).get("digest"),
                about["data"].get("digest"),
                "data.dir",
            ),
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
    features_dim, _ = extraction.widths(extractor, build.image_shape(config))
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
    return config_lib.as_json(
        {
            "features": extractor.origin,
            "split": config.eval.split,
            "data": _data_about(config),
            "kept": config.eval.reference_features,
            "seed": config.eval.seed,
            "per_class": config.eval.per_class,
        }
    )


def _data_about(config) -> dict:
    """`build.data_about`, with the digest of the split that is the reference."""
    about, split = build.data_about(config), config.eval.split
    if "digest" in about and split != "train":
        about["digest"] = data.identify(config.data.name, config.data.dir, split)
    return about


def _find_or_make(config, workdir: str, extractor) -> results.Result:
    path = made_path(config, workdir, extractor)
    settings = _settings(config, extractor)
    _adopt(path, settings)
    record = path.with_suffix(".json")
    result = results.find(record, settings)
    if result is not None:
        logging.info("already there: %s", path)
    else:
        with locking.hold(path):
            result = results.find_or_make(
                record,
                settings,
                lambda: making.make(config, extractor, settings, path),
            )
            embedding.remove_parts(path)
    return result


def _adopt(path: epath.Path, settings: dict) -> None:
    """Take over a file of the first version, which had another digest in its name and
    said only inside what made it."""
    record = path.with_suffix(".json")
    if jax.process_index() != 0 or record.exists():
        return
    for old in path.parent.glob(path.name.rpartition("_")[0] + "_*.npz"):
        if old.with_suffix(".json").exists():
            continue
        try:
            about = _about(old, files.load_npz(old)["about"])
        except (KeyError, ValueError):
            continue
        data = upgrades.upgrade({"data": about["data"]})["data"]
        about["data"] = {k: data.get(k) for k in settings["data"]}
        if all(about.get(k) == v for k, v in settings.items()):
            old.replace(path)
            files.save_json(record, {"made_by": about})
            return
