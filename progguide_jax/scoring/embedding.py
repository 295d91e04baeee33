"""Features of many images, kept on the way.

Until the result at `path` that needs them is whole they lie in the folder NAME.parts
beside it, so that the same command goes on where it was killed.
"""

import contextlib
import json
import logging
import time
from typing import Any

import jax
import numpy as np
from etils import epath

from progguide_jax.runtime import files, sharding, stopping
from progguide_jax.scoring import extraction

_SECONDS = 30.0  # of work, the most that a kill costs


def embed(
    extractor: extraction.Extractor,
    images: np.ndarray,
    batch_size: int,
    what: str,
    path: epath.Path,
    made_by: dict[str, Any],
    with_logits: bool = True,
) -> tuple[np.ndarray, np.ndarray | None]:
    """(features float32 [N,D], logits float32 [N,K] or None) of all images, on every
    host; those that a killed run of the same made_by left are not made again.

    path: the file that is made of them; made_by: all that they depend on.
    InterruptedError after SIGTERM or Ctrl-C, when the batch it is at is saved.
    """
    extraction.check_images(extractor, images, what)
    dim, num_logits = extraction.widths(extractor, images.shape[1:])
    arrays = {"features": np.empty((len(images), dim), np.float32)}
    if with_logits and num_logits is not None:
        arrays["logits"] = np.empty((len(images), num_logits), np.float32)
    host, folder = jax.process_index() == 0, _folder(path)
    text = json.dumps(made_by, sort_keys=True)
    there = _fill(arrays, folder, text) if host else 0
    there = int(sharding.from_host_0(np.array(there)))
    if there:
        for values in arrays.values():
            values[:there] = sharding.from_host_0(values[:there])
        logging.info("the features of %d images are there: going on", there)
    saved, since = there, time.monotonic()
    stream = extraction.extract(extractor, images, batch_size, what, there)
    with stopping.Stop() as stop, contextlib.closing(stream):
        for rows, *batch in stream:
            for values, part in zip(arrays.values(), batch, strict=False):
                values[rows] = part
            stopped = stop.asked()
            if host and (stopped or time.monotonic() - since >= _SECONDS):
                part = {name: v[saved : rows.stop] for name, v in arrays.items()}
                files.save_npz(folder / f"{saved:08d}.npz", **part, made_by=text)
                saved, since = rows.stop, time.monotonic()
            if stopped:
                raise stopping.interrupted(f"{rows.stop} of {len(images)} images")
    return arrays["features"], arrays.get("logits")


def remove_parts(path: epath.Path) -> None:
    """What `embed` kept on the way, once the result at `path` is whole."""
    if jax.process_index() == 0:
        _folder(path).rmtree(missing_ok=True)


def _fill(arrays: dict[str, np.ndarray], folder: epath.Path, made_by: str) -> int:
    """Fill the first rows from the parts in `folder`, as far as they have no gap; how
    many. A part that is damaged or was made by another is none."""
    end = 0
    for path in sorted(folder.glob("*.npz")):
        try:
            part = files.load_npz(path)
        except files.Damaged as error:
            files.set_aside(error)
            continue
        if int(path.stem) == end and str(part["made_by"]) == made_by:
            first, end = end, end + len(part["features"])
            for name, values in arrays.items():
                values[first:end] = part[name]
    return end


def _folder(path) -> epath.Path:
    return epath.Path(path).with_suffix(".parts")
