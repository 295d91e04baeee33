"""Batches without iterator state: batch k is a pure function of (seed, k)."""

import collections
import functools
from collections.abc import Callable, Iterator
from concurrent import futures
from typing import Any, NamedTuple

import numpy as np

# Second word of the Philox key: independent streams of one seed.
ORDER_STREAM, FLIP_STREAM, DATA_STREAM = 0, 1, 2


class Dataset(NamedTuple):
    """images uint8 or float32 [N,H,W,C], labels int32 [N], both on the host."""

    images: np.ndarray
    labels: np.ndarray
    num_classes: int


def philox(seed: int, stream: int, counter: int = 0) -> np.random.Philox:
    """Random bits at (seed, stream, counter); reaching a counter costs nothing."""
    key = np.array([seed % 2**64, stream], np.uint64)
    return np.random.Philox(key=key, counter=np.array([0, 0, 0, counter], np.uint64))


@functools.lru_cache(maxsize=4)
def _epoch_order(seed: int, epoch: int, num_examples: int) -> np.ndarray:
    """A permutation int64 [num_examples] for one epoch (read-only, it is cached)."""
    # Raw bits stay the same in all versions of numpy, Generator.permutation may not.
    bits = philox(seed, ORDER_STREAM, epoch).random_raw(num_examples)
    order = np.argsort(bits, kind="stable")
    order.flags.writeable = False
    return order


def indices(seed: int, step: int, batch_size: int, num_examples: int) -> np.ndarray:
    """Indices int64 [batch_size] of the examples in batch `step`.

    Each epoch is a permutation of its own; batches run on across its end, so every
    example is seen equally often and no remainder is dropped.
    """
    if step < 0 or batch_size < 1 or num_examples < 1:
        raise ValueError(
            f"no batch {step} of {batch_size} from {num_examples} examples: step must "
            "be >= 0, the two sizes >= 1"
        )
    position = int(step) * batch_size  # a Python int: no overflow in long runs
    end = position + batch_size
    parts = []
    while position < end:
        epoch, start = divmod(position, num_examples)
        stop = min(num_examples, start + end - position)
        parts.append(_epoch_order(int(seed), epoch, num_examples)[start:stop])
        position += stop - start
    return np.concatenate(parts)


def batch(
    dataset: Dataset,
    seed: int,
    step: int,
    batch_size: int,
    flip: bool,
    rows: slice = slice(None),  # noqa: B008  (slices are immutable)
) -> dict[str, np.ndarray]:
    """The `rows` of global batch `step`: image [n,H,W,C], label [n], index [n].

    image is float32 in [-1, 1] (uint8 becomes x / 127.5 - 1, float passes through),
    label and index (into the data set) int32. With `flip`, every image is mirrored left
    to right with probability 1/2, drawn from (seed, step) for the whole batch: a host
    that holds some rows gets what one host alone would hold in them.
    """
    index = indices(seed, step, batch_size, len(dataset.labels))[rows]
    mirrored = None
    if flip:
        bits = philox(seed, FLIP_STREAM, step).random_raw(batch_size)
        mirrored = (bits >> np.uint64(63)).astype(bool)[rows]
    return take(dataset, index, mirrored)


def take(
    dataset: Dataset, index: np.ndarray, mirrored: np.ndarray | None = None
) -> dict[str, np.ndarray]:
    """The examples `index` [n] as `batch` gives them; `mirrored` bool [n]."""
    image = dataset.images[index]
    if mirrored is not None:
        image[mirrored] = image[mirrored, :, ::-1]
    if image.dtype == np.uint8:
        image = np.divide(image, np.float32(127.5), dtype=np.float32)
        image -= np.float32(1)
    return {
        "image": np.asarray(image, np.float32),
        "label": dataset.labels[index],
        "index": index.astype(np.int32),
    }


def prefetch(
    fn: Callable[[int], Any], first: int, last: int, depth: int = 2
) -> Iterator[tuple[int, Any]]:
    """(step, fn(step)) for first <= step < last; a thread works up to `depth` ahead.

    An exception in fn(step) is raised when that step is due. The thread ends with the
    iterator: exhausted, closed or dropped.
    """
    if depth < 1:
        raise ValueError(f"prefetch depth must be >= 1, not {depth}")
    return _prefetch(fn, first, last, depth)


def _prefetch(fn, first, last, depth):
    pool = futures.ThreadPoolExecutor(1, thread_name_prefix="prefetch")
    try:
        # At most `depth` results exist, so the worker never waits for the consumer.
        ahead = collections.deque(
            pool.submit(fn, step) for step in range(first, min(first + depth, last))
        )
        for step in range(first, last):
            result = ahead.popleft().result()
            if step + depth < last:
                ahead.append(pool.submit(fn, step + depth))
            yield step, result
    finally:
        pool.shutdown(cancel_futures=True)
