"""Batches: a pure function of (seed, step), flipped per image, cut into host rows."""

import contextlib
import threading
import time

import numpy as np
import pytest

from progguide_jax.data import batches

WORD = 2**64 - 1


def philox4x64(counter, key):
    """Philox4x64-10 in plain Python (Salmon et al., SC 2011, section 3.3)."""
    c, k = list(counter), list(key)
    for _ in range(10):
        a, b = 0xD2E7470EE14C6C93 * c[0], 0xCA5A826395121157 * c[2]
        c = [(b >> 64) ^ c[1] ^ k[0], b & WORD, (a >> 64) ^ c[3] ^ k[1], a & WORD]
        k = [(k[0] + 0x9E3779B97F4A7C15) & WORD, (k[1] + 0xBB67AE8584CAA73B) & WORD]
    return c


def random_words(seed, stream, counter, size):
    # numpy counts up before it draws, so the first block is that of counter 1.
    blocks = (
        philox4x64([i + 1, 0, 0, counter], [seed, stream]) for i in range(size // 4 + 1)
    )
    return [word for block in blocks for word in block][:size]


def dataset(num_examples, size=4, dtype=np.uint8):
    """Image i has i in every pixel, but for a left column of 200."""
    images = np.broadcast_to(
        np.arange(num_examples)[:, None, None, None], (num_examples, size, size, 3)
    ).astype(dtype)
    images[:, :, 0] = 200
    labels = np.arange(num_examples, dtype=np.int32) % 7
    return batches.Dataset(images, labels, 7)


def test_philox_in_this_file_gives_the_published_vector():
    # kat_vectors of Random123, philox4x64 with 10 rounds, zero key and counter.
    expected = [
        0x16554D9ECA36314C,
        0xDB20FE9D672D0FDC,
        0xD7E772CEE186176B,
        0x7E68B68AEC7BA23B,
    ]
    assert philox4x64([0] * 4, [0] * 2) == expected


@pytest.mark.parametrize("seed, epoch", [(0, 0), (3, 0), (3, 5)])
def test_order_of_an_epoch_sorts_philox_words(seed, epoch):
    words = random_words(seed, batches.ORDER_STREAM, epoch, 50)
    expected = sorted(range(50), key=words.__getitem__)
    steps = range(epoch * 10, epoch * 10 + 10)
    found = np.concatenate([batches.indices(seed, k, 5, 50) for k in steps])
    np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("batch_size", [1, 4, 10, 23])
def test_batches_run_on_across_epochs_that_are_permutations(batch_size):
    steps = -(-30 // batch_size)
    stream = np.concatenate(
        [batches.indices(7, k, batch_size, 10) for k in range(steps)]
    )
    epochs = stream[:30].reshape(3, 10)
    np.testing.assert_array_equal(np.sort(epochs), np.tile(np.arange(10), (3, 1)))
    assert len({tuple(epoch) for epoch in epochs}) == 3
    assert stream.dtype == np.int64


def test_far_batches_need_no_walk_and_no_32_bits():
    start = time.perf_counter()
    index = batches.indices(0, 10**10, 128, 50_000)
    assert time.perf_counter() - start < 2
    position = 10**10 * 128
    epoch, offset = divmod(position, 50_000)
    whole = batches.indices(0, epoch, 50_000, 50_000)
    np.testing.assert_array_equal(index, whole[offset : offset + 128])


def test_batch_depends_on_seed_and_step_alone():
    data = dataset(40)
    first = [batches.batch(data, 1, k, 8, True) for k in range(12)]
    for k in reversed(range(12)):
        again = batches.batch(data, 1, np.int32(k), 8, True)
        for name in first[k]:
            np.testing.assert_array_equal(first[k][name], again[name])
    other = batches.batch(data, 2, 0, 8, True)
    assert not np.array_equal(other["index"], first[0]["index"])


def test_batch_is_the_indexed_examples():
    data = dataset(40)
    found = batches.batch(data, 5, 3, 16, False)
    index = batches.indices(5, 3, 16, 40)
    np.testing.assert_array_equal(found["index"], index)
    np.testing.assert_array_equal(found["label"], index % 7)
    pixels = (found["image"][:, 0, 1, 0].astype(np.float64) + 1) * 127.5
    np.testing.assert_allclose(pixels, index, atol=1e-4)
    kinds = {name: values.dtype.name for name, values in found.items()}
    assert kinds == {"image": "float32", "label": "int32", "index": "int32"}


def test_each_image_is_flipped_on_a_bit_of_its_own():
    data = dataset(64)
    for step in (0, 9):
        words = random_words(4, batches.FLIP_STREAM, step, 64)
        expected = np.array([word >> 63 for word in words], bool)
        image = batches.batch(data, 4, step, 64, True)["image"]
        left, right = image[:, 0, 0, 0] > 0.5, image[:, 0, -1, 0] > 0.5
        np.testing.assert_array_equal(right, expected)
        np.testing.assert_array_equal(left, ~expected)
        plain = batches.batch(data, 4, step, 64, False)["image"]
        upright = np.where(expected[:, None, None, None], np.flip(image, 2), image)
        np.testing.assert_array_equal(upright, plain)


def test_half_of_the_images_are_flipped():
    data = dataset(100)
    flipped = [
        batches.batch(data, 0, k, 100, True)["image"][:, 0, -1, 0] > 0.5
        for k in range(100)
    ]
    assert abs(np.mean(flipped) - 0.5) < 5 * 0.5 / 100  # 5 standard deviations
    per_batch = np.mean(flipped, axis=1)
    assert 0.2 < per_batch.min() and per_batch.max() < 0.8


@pytest.mark.parametrize("hosts", [2, 4, 8])
def test_rows_of_the_hosts_make_up_the_global_batch(hosts):
    data = dataset(30)
    whole = batches.batch(data, 2, 6, 16, True)
    n = 16 // hosts
    parts = [
        batches.batch(data, 2, 6, 16, True, slice(i * n, (i + 1) * n))
        for i in range(hosts)
    ]
    for name in whole:
        joined = np.concatenate([part[name] for part in parts])
        np.testing.assert_array_equal(joined, whole[name])


def test_uint8_becomes_minus_one_to_one():
    images = np.arange(256, dtype=np.uint8).reshape(256, 1, 1, 1)
    data = batches.Dataset(images, np.zeros(256, np.int32), 1)
    found = batches.batch(data, 0, 0, 256, False)
    levels = found["image"][np.argsort(found["index"]), 0, 0, 0]
    assert levels[0] == -1 and levels[255] == 1
    np.testing.assert_allclose(levels, np.linspace(-1, 1, 256), rtol=0, atol=1.2e-7)


def test_float_images_pass_through_and_the_data_set_stays():
    images = np.random.default_rng(0).normal(0, 9, (20, 4, 4, 1)).astype(np.float32)
    data = batches.Dataset(images.copy(), np.zeros(20, np.int32), 1)
    found = batches.batch(data, 0, 0, 20, False)
    np.testing.assert_array_equal(found["image"], images[found["index"]])
    batches.batch(data, 0, 0, 20, True)["image"][:] = 0
    np.testing.assert_array_equal(data.images, images)


def test_impossible_batches_are_refused():
    for step, batch_size, num_examples in [(-1, 4, 9), (0, 0, 9), (0, 4, 0)]:
        with pytest.raises(ValueError, match="must be >= 0"):
            batches.indices(0, step, batch_size, num_examples)


def prefetch_threads():
    return [t for t in threading.enumerate() if t.name.startswith("prefetch")]


def test_prefetch_gives_every_step_in_order_from_a_thread():
    found = list(batches.prefetch(lambda k: (k, threading.get_ident()), 3, 40, depth=3))
    assert [step for step, _ in found] == list(range(3, 40))
    assert [k for _, (k, _) in found] == list(range(3, 40))
    assert {thread for _, (_, thread) in found}.isdisjoint({threading.get_ident()})
    assert list(batches.prefetch(str, 5, 5)) == []
    assert not prefetch_threads()


@pytest.mark.parametrize("depth", [1, 2, 5])
def test_prefetch_works_ahead_by_its_depth_and_no_more(depth):
    calls = []
    steps = batches.prefetch(lambda k: calls.append(k), 0, 100, depth)
    next(steps)
    deadline = time.monotonic() + 5
    while len(calls) < depth + 1 and time.monotonic() < deadline:
        time.sleep(0.001)
    time.sleep(0.05)
    assert calls == list(range(depth + 1))
    steps.close()


def test_prefetch_raises_when_the_bad_step_is_due():
    def fn(step):
        if step == 4:
            raise OSError("disk gone")
        return step

    seen = []
    with pytest.raises(OSError, match="disk gone"):
        for step, _ in batches.prefetch(fn, 0, 9, depth=4):
            seen.append(step)
    assert seen == [0, 1, 2, 3]
    assert not prefetch_threads()


def test_prefetch_thread_ends_when_the_consumer_stops():
    for step, _ in batches.prefetch(lambda k: k, 0, 10**9):
        if step == 5:
            break
    assert not prefetch_threads()
    with pytest.raises(ZeroDivisionError):
        with contextlib.closing(batches.prefetch(lambda k: k, 0, 10**9)) as steps:
            for _ in steps:
                raise ZeroDivisionError
    assert not prefetch_threads()


def test_prefetch_depth_is_checked_at_the_call():
    with pytest.raises(ValueError, match="depth must be >= 1"):
        batches.prefetch(str, 0, 3, depth=0)
