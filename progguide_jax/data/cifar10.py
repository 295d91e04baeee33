"""CIFAR-10 (Krizhevsky 2009) as uint8 arrays, the same from every official form."""

import hashlib
import importlib.util
import logging
from collections.abc import Iterator

import numpy as np
from etils import epath

from progguide_jax.data import batches, cifar10_files, reading

NUM_CLASSES = 10
SIZES = {"train": 50_000, "test": 10_000}
_SHAPE = (32, 32, 3)
_REMEDY = (
    "set config.data.dir to a folder with the official batches (cifar-10-batches-bin "
    "or cifar-10-batches-py, or their .tar.gz) or cifar10.npz, or let TFDS prepare it: "
    "pip install 'progguide-jax[train]'; for your own images set config.data.name to "
    "folder or npz"
)
_log = logging.getLogger(__name__)


def load(
    data_dir: str = "", split: str = "train", expected: int | None = None
) -> batches.Dataset:
    """A split in official order: images uint8 [N,32,32,3], labels int32 [N].

    data_dir: a folder (local or gs://) with the official binary or python batches,
    their .tar.gz, cifar10.npz (x_train, y_train, x_test, y_test) or a prepared TFDS
    data set, looked for in this order; or such a .npz or .tar.gz itself; "" is the
    TFDS default. A set that TFDS has not prepared is prepared where tensorflow is
    installed. expected: the N to insist on. FileNotFoundError if there is no data set;
    ValueError naming the file if it is damaged.
    """
    if split not in SIZES:
        raise ValueError(f"CIFAR-10 has the splits train and test, not {split!r}")
    parts = [_checked(part) for part in _find(data_dir, split)]
    images = np.concatenate([part.images for part in parts])
    labels = np.concatenate([part.labels for part in parts])
    if expected is not None and len(labels) != expected:
        counts = ", ".join(f"{part.where}: {len(part.labels)}" for part in parts)
        raise ValueError(
            f"CIFAR-10 {split} split holds {len(labels)} images, expected {expected} "
            f"({counts}): fetch the data again, or set config.data.num_examples"
        )
    digest = hashlib.sha256(images).hexdigest()[:16]
    _log.info(
        "cifar10 %s: %d images, sha256 %s, %s",
        split,
        len(labels),
        digest,
        parts[0].where,
    )
    return batches.Dataset(images, labels, NUM_CLASSES)


def prepared(data_dir: str = "") -> str:
    """The folder of the data set that TFDS has prepared in its data_dir, or ""."""
    import tensorflow_datasets as tfds

    place = epath.Path(tfds.builder("cifar10", data_dir=data_dir or None).data_path)
    return str(place) if (place / "dataset_info.json").exists() else ""


def _find(data_dir: str, split: str) -> list[cifar10_files.Part]:
    """Looks the forms up in the order that `load` documents."""
    if not data_dir:
        return _tfds("", split)
    place = epath.Path(data_dir).expanduser()
    if not place.exists():
        raise FileNotFoundError(f"no CIFAR-10: {place} does not exist: {_REMEDY}")
    if not place.is_dir():
        if place.suffix == ".npz":
            return cifar10_files.read_npz(place, split)
        for layout in cifar10_files.LAYOUTS:
            if place.name == layout.tarball:
                return cifar10_files.read_tarball(place, layout, split)
        raise ValueError(f"{place} is not a form of CIFAR-10: {_REMEDY}")
    for layout in cifar10_files.LAYOUTS:
        names = layout.files("train") + layout.files("test")
        for folder in (place, place / layout.folder):
            if any((folder / name).exists() for name in names):
                return cifar10_files.read_folder(folder, layout, split)
    if (place / "cifar10.npz").exists():
        return cifar10_files.read_npz(place / "cifar10.npz", split)
    for layout in cifar10_files.LAYOUTS:
        if (place / layout.tarball).exists():
            return cifar10_files.read_tarball(place / layout.tarball, layout, split)
    return _tfds(str(place), split)


def _checked(part: cifar10_files.Part) -> cifar10_files.Part:
    """The part with labels as int32, if its arrays are what CIFAR-10 must hold."""
    where, images, labels = part
    if images.dtype != np.uint8 or images.ndim != 4 or images.shape[1:] != _SHAPE:
        raise ValueError(
            f"{where}: images are {images.dtype} {list(images.shape)}, expected uint8 "
            "[N, 32, 32, 3]: set config.data.name=npz if they are not CIFAR-10"
        )
    if labels.dtype.kind not in "iu" or labels.shape != images.shape[:1]:
        raise ValueError(
            f"{where}: labels are {labels.dtype} {list(labels.shape)}, expected "
            f"integers [{len(images)}], one for each image"
        )
    if not len(images):
        raise ValueError(f"{where}: holds no images: fetch it again")
    wrong = np.flatnonzero((labels < 0) | (labels >= NUM_CLASSES))
    if len(wrong):
        raise ValueError(
            f"{where}: label {labels[wrong[0]]} at image {wrong[0]}, expected 0 to "
            f"{NUM_CLASSES - 1}: the file is damaged or not CIFAR-10"
        )
    # The official files hold colour planes: without a copy, gathers would be slow.
    return cifar10_files.Part(
        where, np.ascontiguousarray(images), labels.astype(np.int32)
    )


def _tfds(data_dir: str, split: str) -> list[cifar10_files.Part]:
    """A prepared data set: array_record without tensorflow, tfrecord with it."""
    import tensorflow_datasets as tfds

    if data_dir and (epath.Path(data_dir) / "dataset_info.json").exists():
        builder = tfds.builder_from_directory(data_dir)
    else:
        builder = tfds.builder("cifar10", data_dir=data_dir or None)
    if not (epath.Path(builder.data_path) / "dataset_info.json").exists():
        _prepare(builder, data_dir)
    where = str(builder.data_path)
    if builder.info.file_format.value == "tfrecord" and not _has_tensorflow():
        raise ValueError(
            f"{where}: stored as tfrecord, which only tensorflow reads: "
            "pip install 'progguide-jax[train]'"
        )
    try:
        total = builder.info.splits[split].num_examples
        examples = _tfds_examples(builder, split)
        examples = reading.progress(examples, "CIFAR-10 from TFDS", total)
        rows = [(e["id"], e["image"], e["label"]) for e in examples]
        ids, images, labels = (np.stack(column) for column in zip(*rows, strict=True))
    except Exception as error:  # array_record and tensorflow have their own kinds
        raise ValueError(
            f"{where}: cannot read the TFDS data set "
            f"({reading.reason(error)}); if it is damaged, "
            "delete the folder and prepare it again"
        ) from error
    order = np.argsort(ids)  # train_00000, ...: TFDS stores them shuffled
    return [cifar10_files.Part(where, images[order], labels[order])]


def _tfds_examples(builder, split: str) -> Iterator[dict]:
    # Blocks, because one by one takes twice as long.
    try:
        source = builder.as_data_source(split)
    except NotImplementedError:  # not a format with random access
        dataset = builder.as_dataset(split=split, batch_size=1000)
        for block in dataset.as_numpy_iterator():
            for i in range(len(block["id"])):
                yield {key: values[i] for key, values in block.items()}
        return
    for start in range(0, len(source), 1000):
        yield from source.__getitems__(range(start, min(start + 1000, len(source))))


def _prepare(builder, data_dir: str) -> None:
    """Lets TFDS download CIFAR-10 and write it as array_record."""
    where = data_dir or builder.data_path
    if not _has_tensorflow():
        raise FileNotFoundError(f"no CIFAR-10 in {where}: {_REMEDY}")
    _log.warning(
        "TFDS downloads CIFAR-10 (170 MB) to %s; config.data.dir can name another copy",
        builder.data_path,
    )
    try:
        builder.download_and_prepare(file_format="array_record")
    except Exception as error:  # network, disk, checksum
        raise OSError(
            f"TFDS could not prepare CIFAR-10 in {where} "
            f"({reading.reason(error)}): set config.data.dir to a folder "
            "with the official batches or cifar10.npz"
        ) from error


def _has_tensorflow() -> bool:
    return importlib.util.find_spec("tensorflow") is not None
