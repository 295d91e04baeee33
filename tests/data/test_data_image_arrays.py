"""An .npz as data: the names that it may have, and what is refused."""

import numpy as np
import pytest

from progguide_jax import data

SETTINGS = dict(name="npz", image_size=5, channels=3, num_classes=3, num_examples=1)
X = np.random.default_rng(0).integers(0, 256, (7, 5, 5, 3), np.uint8)
Y = np.arange(7) % 3


def write(path, **arrays):
    np.savez(path, **{k: v for k, v in arrays.items() if v is not None})
    return path


def load(path, **changes):
    return data.load(**(SETTINGS | {"dir": str(path)} | changes))


def failure(path, kind=ValueError, **changes):
    with pytest.raises(kind) as error:
        load(path, **changes)
    assert "\n" not in str(error.value)
    return str(error.value)


@pytest.mark.parametrize(
    "images, labels", [("x_train", "y_train"), ("images", "labels"), ("arr_0", "arr_1")]
)
@pytest.mark.parametrize("dtype", [np.uint8, np.int32, np.int64])
def test_names_and_kinds_of_labels(tmp_path, images, labels, dtype):
    path = write(tmp_path / "mine.npz", **{images: X, labels: Y.astype(dtype)})
    for y in (Y, Y[:, None]):
        write(path, **{images: X, labels: y.astype(dtype), "other": np.zeros(2)})
        found = load(path)
        assert np.array_equal(found.images, X) and found.images.dtype == np.uint8
        assert np.array_equal(found.labels, Y) and found.labels.dtype == np.int32
        assert found.num_classes == 3 and found.images.flags.c_contiguous


def test_grey(tmp_path):
    for x in (X[..., 0], X[..., :1]):
        path = write(tmp_path / "a.npz", images=x, labels=Y)
        assert np.array_equal(load(path, channels=1).images, X[..., :1])
        assert "data.channels=3 does not fit npz: set data.channels=1" in failure(path)


def test_splits(tmp_path):
    path = write(tmp_path / "a.npz", x_train=X, y_train=Y, x_test=X[4:6], y_test=Y[4:6])
    found = load(path, split="test")
    assert np.array_equal(found.images, X[4:6]) and found.labels.tolist() == [1, 2]
    assert found.num_classes == 3  # those of train
    write(path, x_train=X, y_train=Y, x_test=X[:1], y_test=np.array([3]))
    assert "labels of test are 3 ... 3, those of train 0 ... 2" in failure(
        path, split="test"
    )
    write(path, x_test=X, y_test=Y)
    assert "has no split train, it holds x_test" in failure(path)
    assert "has no split train" in failure(path, split="test")
    write(path, images=X, labels=Y)
    message = failure(path, split="test")
    assert "has no split test, it holds images, labels" in message
    assert "eval.split=train" in message


@pytest.mark.parametrize(
    "settings, words",
    [
        (
            {"image_size": 8},
            "data.image_size=8 does not fit npz: set data.image_size=5",
        ),
        ({"channels": 1}, "data.channels=1 does not fit npz: set data.channels=3"),
        ({"num_classes": 9}, "data.num_classes=9 does not fit npz: set data.num_c"),
    ],
)
def test_settings_that_do_not_fit(tmp_path, settings, words):
    path = write(tmp_path / "a.npz", images=X, labels=Y)
    assert words in failure(path, **settings)


@pytest.mark.parametrize(
    "change, words",
    [
        ({"images": X / 255}, "images are float64 [7, 5, 5, 3]"),
        ({"images": X[:, :4]}, "images are uint8 [7, 4, 5, 3]"),
        ({"images": X.transpose(0, 3, 1, 2)}, "images are uint8 [7, 3, 5, 5]"),
        ({"images": X[..., :2]}, "images are uint8 [7, 5, 5, 2]"),
        ({"images": X[:0], "labels": Y[:0]}, "holds no images"),
        ({"labels": None}, "labels are float64 [0], expected integers [7]"),
        ({"labels": Y[:6]}, "labels are int64 [6], expected integers [7]"),
        ({"labels": Y * 1.0}, "labels are float64 [7]"),
        (
            {"labels": Y + 1},
            "labels of train are 1, 2, 3: number the 3 classes 0 ... 2",
        ),
        ({"labels": Y - 1}, "labels of train are -1, 0, 1"),
        ({"labels": Y * 2}, "labels of train are 0, 2, 4"),
        ({"images": np.array([None])}, "Object arrays"),
    ],
)
def test_wrong_arrays_are_named(tmp_path, change, words):
    path = write(tmp_path / "a.npz", **({"images": X, "labels": Y} | change))
    message = failure(path)
    assert words in message and str(path) in message


def test_places_that_hold_no_data(tmp_path):
    assert "data.dir is empty" in failure("")
    assert "does not exist" in failure(tmp_path / "gone.npz", FileNotFoundError)
    assert "is a folder" in failure(tmp_path)
    path = write(tmp_path / "a.npz", images=X, labels=Y)
    whole = path.read_bytes()
    for content in (b"", b"text", whole[:200], whole[: len(whole) // 2]):
        path.write_bytes(content)
        assert f"{path}: not an .npz" in failure(path)
        with pytest.raises(ValueError, match="not an .npz"):
            data.identify("npz", str(path))


def test_the_digest_is_of_the_arrays_not_of_the_file(tmp_path):
    path = write(tmp_path / "a.npz", x_train=X, y_train=Y)
    digest = data.identify("npz", str(path))
    assert len(load(path, digest=digest).labels) == 7
    np.savez_compressed(
        tmp_path / "b.npz", x_test=X[:2], y_test=Y[:2], y_train=Y, x_train=X
    )
    assert data.identify("npz", str(tmp_path / "b.npz")) == digest
    assert data.identify("npz", str(tmp_path / "b.npz"), "test") != digest
    other = X.copy()
    other[3, 2, 1, 0] ^= 1
    for arrays in ((other, Y), (X, Y[::-1])):
        write(path, x_train=arrays[0], y_train=arrays[1])
        assert data.identify("npz", str(path)) != digest
        assert "holds other images" in failure(path, digest=digest)
