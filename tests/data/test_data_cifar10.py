"""CIFAR-10 from every official form: identical arrays, and one line when damaged.

The forms are written here by hand from their descriptions, with a few images each.
"""

import gzip
import hashlib
import io
import json
import os
import pickle
import struct
import tarfile

import numpy as np
import pytest
from PIL import Image

from progguide_jax.data import cifar10, cifar10_files

SPLITS = {"train": 15, "test": 4}
TRAIN_FILES = [f"data_batch_{i}" for i in range(1, 6)]
REAL = os.environ.get("PROGGUIDE_CIFAR10_DIR", "")


@pytest.fixture
def truth():
    """split -> (images uint8 [N,32,32,3], labels list)."""
    random = np.random.default_rng(0)
    return {
        split: (
            random.integers(0, 256, (n, 32, 32, 3), dtype=np.uint8),
            [int(k) for k in random.integers(0, 10, n)],
        )
        for split, n in SPLITS.items()
    }


def planes(image):
    """1024 red bytes row by row, then green, then blue."""
    return bytes(
        image[row, column, channel]
        for channel in range(3)
        for row in range(32)
        for column in range(32)
    )


def batches_of(truth):
    """(file stem, images, labels): three train images a file, one test file."""
    images, labels = truth["train"]
    for i, name in enumerate(TRAIN_FILES):
        yield name, images[3 * i : 3 * i + 3], labels[3 * i : 3 * i + 3]
    yield "test_batch", *truth["test"]


def write_binary(folder, truth):
    folder = folder / "cifar-10-batches-bin"
    folder.mkdir(parents=True)
    for name, images, labels in batches_of(truth):
        records = [bytes([k]) + planes(x) for x, k in zip(images, labels, strict=True)]
        (folder / f"{name}.bin").write_bytes(b"".join(records))
    return folder


class Python2Pickler(pickle._Pickler):
    """Protocol 2 as Python 2 wrote it: byte strings as BINSTRING, numpy before 2."""

    dispatch = pickle._Pickler.dispatch.copy()

    def save_bytes(self, obj):
        self.write(pickle.BINSTRING + struct.pack("<i", len(obj)) + obj)
        self.memoize(obj)

    def save_str(self, obj):
        self.save_bytes(obj.encode())

    def save_global(self, obj, name=None):
        module = obj.__module__.replace("numpy._core", "numpy.core")
        self.write(f"c{module}\n{name or obj.__name__}\n".encode())
        self.memoize(obj)

    dispatch[bytes] = save_bytes
    dispatch[str] = save_str
    dispatch[type] = save_global
    dispatch[type(np.empty(0).__reduce__()[0])] = save_global


def write_python(folder, truth, protocol="python 2"):
    folder = folder / "cifar-10-batches-py"
    folder.mkdir(parents=True)
    for name, images, labels in batches_of(truth):
        data = np.stack([np.frombuffer(planes(x), np.uint8) for x in images])
        content = {b"data": data, b"labels": labels, b"batch_label": b"a batch"}
        with (folder / name).open("wb") as file:
            if protocol == "python 2":
                Python2Pickler(file, 2).dump(content)
            else:
                pickle.dump(content, file, protocol)
    return folder


def write_npz(folder, truth, column=False):
    folder.mkdir(exist_ok=True)
    arrays = {}
    for split, (images, labels) in truth.items():
        arrays[f"x_{split}"] = images
        labels = np.array(labels, np.uint8)
        arrays[f"y_{split}"] = labels[:, None] if column else labels
    np.savez(folder / "cifar10.npz", **arrays)
    return folder / "cifar10.npz"


def pack(write, folder, truth):
    """The official tar.gz of a folder of batches."""
    batches = write(folder / "unpacked", truth)
    kind = "binary" if batches.name.endswith("bin") else "python"
    path = folder / f"cifar-10-{kind}.tar.gz"
    with tarfile.open(path, "w:gz") as tar:
        tar.add(batches, batches.name)
    return path


def varint(n):
    return bytes([n]) if n < 128 else bytes([n & 127 | 128]) + varint(n >> 7)


def field(number, payload):
    """A length-delimited protocol buffer field."""
    return varint(number << 3 | 2) + varint(len(payload)) + payload


def png(image):
    file = io.BytesIO()
    Image.fromarray(image).save(file, "png")
    return file.getvalue()


def tf_example(name, image, label):
    """tf.train.Example, serialized: map<string, Feature> of bytes and int64 lists."""
    features = {
        "id": field(1, field(1, name.encode())),
        "image": field(1, field(1, png(image))),
        "label": field(3, field(1, varint(label))),
    }
    entries = [
        field(1, field(1, key.encode()) + field(2, value))
        for key, value in features.items()
    ]
    return field(1, b"".join(entries))


def write_tfds(folder, truth, stored="array_record"):
    """What TFDS leaves in its data_dir: shuffled records and two JSON files."""
    from array_record.python import array_record_module

    folder = folder / "cifar10" / "3.0.2"
    folder.mkdir(parents=True)
    splits = []
    for split, (images, labels) in truth.items():
        path = folder / f"cifar10-{split}.{stored}-00000-of-00001"
        writer = array_record_module.ArrayRecordWriter(str(path), "group_size:1")
        order = np.random.default_rng(1).permutation(len(labels))
        for i in order:
            writer.write(tf_example(f"{split}_{i:05d}", images[i], labels[i]))
        writer.close()
        template = "{DATASET}-{SPLIT}.{FILEFORMAT}-{SHARD_X_OF_Y}"
        lengths = [str(len(labels))]
        splits.append(
            {"name": split, "filepathTemplate": template, "shardLengths": lengths}
        )
    info = {"name": "cifar10", "version": "3.0.2", "fileFormat": stored}
    (folder / "dataset_info.json").write_text(json.dumps(info | {"splits": splits}))
    module = "tensorflow_datasets.core.features."
    shape = {"dimensions": ["32", "32", "3"]}
    features = {
        "id": {"pythonClassName": module + "text_feature.Text", "text": {}},
        "image": {
            "pythonClassName": module + "image_feature.Image",
            "image": {"dtype": "uint8", "shape": shape},
        },
        "label": {
            "pythonClassName": module + "class_label_feature.ClassLabel",
            "classLabel": {"numClasses": "10"},
        },
    }
    top = {
        "pythonClassName": module + "features_dict.FeaturesDict",
        "featuresDict": {"features": features},
    }
    (folder / "features.json").write_text(json.dumps(top))
    return folder


FORMS = {
    "binary": lambda d, t: write_binary(d, t).parent,
    "binary folder itself": write_binary,
    "binary tar.gz": lambda d, t: pack(write_binary, d, t).parent,
    "python": lambda d, t: write_python(d, t).parent,
    "python folder itself": write_python,
    "python, protocol 2 of Python 3": lambda d, t: write_python(d, t, 2),
    "python, protocol 4": lambda d, t: write_python(d, t, 4),
    "python, protocol 5": lambda d, t: write_python(d, t, 5),
    "python tar.gz itself": lambda d, t: pack(write_python, d, t),
    "npz": lambda d, t: write_npz(d, t).parent,
    "npz itself, labels [N,1]": lambda d, t: write_npz(d, t, column=True),
    "tfds": lambda d, t: write_tfds(d, t).parent.parent,
    "tfds version folder": write_tfds,
}


@pytest.mark.parametrize("form", FORMS)
def test_every_form_gives_the_same_arrays(form, truth, tmp_path):
    place = FORMS[form](tmp_path, truth)
    for split, (images, labels) in truth.items():
        data = cifar10.load(str(place), split, expected=len(labels))
        np.testing.assert_array_equal(data.images, images)
        np.testing.assert_array_equal(data.labels, labels)
        assert data.images.dtype == np.uint8 and data.images.flags.c_contiguous
        assert data.labels.dtype == np.int32 and data.num_classes == 10


def failure(place, split="train", kind=ValueError, expected=None):
    """The message of a failing load, which is one line without a stray quote."""
    with pytest.raises(kind) as caught:
        cifar10.load(str(place), split, expected)
    message = str(caught.value)
    assert "\n" not in message and len(message) < 700
    return message


def test_missing_data_names_both_remedies(tmp_path, monkeypatch):
    monkeypatch.setattr(cifar10, "_has_tensorflow", lambda: False)
    for place in (tmp_path, tmp_path / "typo"):
        message = failure(place, kind=FileNotFoundError)
        assert str(place) in message and "config.data.dir" in message
        assert "official batches" in message
        assert "pip install 'progguide-jax[train]'" in message
    (tmp_path / "notes.txt").write_text("no data")
    assert "config.data.dir" in failure(tmp_path / "notes.txt")


def test_tfds_prepares_array_record_where_tensorflow_is(truth, tmp_path, monkeypatch):
    import tensorflow_datasets as tfds

    def prepare(builder, *, file_format):
        assert builder.name == "cifar10"
        write_tfds(tmp_path, truth, file_format)
        builder.info.set_file_format(file_format, override=True)
        builder.info.read_from_directory(builder.data_dir)

    monkeypatch.setattr(cifar10, "_has_tensorflow", lambda: True)
    monkeypatch.setattr(tfds.core.DatasetBuilder, "download_and_prepare", prepare)
    data = cifar10.load(str(tmp_path), "test")
    np.testing.assert_array_equal(data.images, truth["test"][0])

    def fail(builder, **_):
        raise ConnectionError("no route\nto host")

    monkeypatch.setattr(tfds.core.DatasetBuilder, "download_and_prepare", fail)
    (tmp_path / "offline").mkdir()
    message = failure(tmp_path / "offline", kind=OSError)
    assert "no route" in message and "config.data.dir" in message


def test_tfrecord_needs_tensorflow(truth, tmp_path, monkeypatch):
    monkeypatch.setattr(cifar10, "_has_tensorflow", lambda: False)
    write_tfds(tmp_path, truth, stored="tfrecord")
    message = failure(tmp_path)
    assert "tfrecord" in message and "pip install 'progguide-jax[train]'" in message


def test_damaged_tfds_records_are_named(truth, tmp_path):
    folder = write_tfds(tmp_path, truth)
    path = folder / "cifar10-train.array_record-00000-of-00001"
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    message = failure(tmp_path)
    assert str(folder) in message and "prepare it again" in message


def test_truncated_binary_batch_is_named(truth, tmp_path):
    path = write_binary(tmp_path, truth) / "data_batch_4.bin"
    path.write_bytes(path.read_bytes()[:-1])
    message = failure(tmp_path)
    assert str(path) in message and "9218 bytes" in message and "3073" in message
    path.write_bytes(b"")
    message = failure(tmp_path)
    assert str(path) in message and "no images" in message


def test_missing_batches_are_counted_and_named(truth, tmp_path):
    path = write_binary(tmp_path, truth) / "data_batch_2.bin"
    path.write_bytes(path.read_bytes()[:3073])
    message = failure(tmp_path, expected=15)
    assert "13 images, expected 15" in message and f"{path}: 1" in message
    path.unlink()
    message = failure(tmp_path, kind=FileNotFoundError)
    assert f"{path} is missing" in message and "data_batch_5.bin" in message
    assert len(cifar10.load(str(tmp_path), "test").labels) == 4


def test_a_label_above_nine_is_named(truth, tmp_path):
    truth["train"][1][7] = 10
    path = write_binary(tmp_path, truth) / "data_batch_3.bin"
    message = failure(tmp_path)
    assert f"{path}: label 10 at image 1, expected 0 to 9" in message


class Call:
    """Pickles as a call of function(*arguments)."""

    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


@pytest.mark.parametrize("protocol", [0, 2, 4])
def test_a_pickle_cannot_call_anything(truth, tmp_path, protocol):
    folder = write_python(tmp_path, truth)
    for function, argument in [(os.mkdir, str(tmp_path / "made")), (eval, "1 / 0")]:
        content = {"data": Call(function, argument), "labels": [1]}
        (folder / "data_batch_1").write_bytes(pickle.dumps(content, protocol))
        message = failure(tmp_path)
        assert str(folder / "data_batch_1") in message
        assert "it asks for " in message and f".{function.__name__})" in message
    assert not (tmp_path / "made").exists()


def crafted(dtype: str, state) -> bytes:
    """A batch whose array [1,3072] has a dtype with a state of its own."""
    array = b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\n(K\x00tU\x01btR"
    made = b"cnumpy\ndtype\n(U\x02" + dtype.encode() + b"K\x00K\x01tR"
    made += pickle.dumps(state, 2)[2:-1] + b"b"
    filled = b"(K\x01(K\x01M\x00\x0ct" + made + b"\x89U\x04abcdtb"
    return b"\x80\x02}(U\x04data" + array + filled + b"U\x06labels]K\x01au."


@pytest.mark.parametrize(
    "dtype, state",
    [
        # fields that hold objects where the type says eight bytes: numpy would follow
        # the pixels as pointers, and the interpreter would end
        ("V8", (3, "|", None, ("a",), {"a": ("O", 0)}, 8, 1, 63)),
        ("V8", (3, "|", ("O", (1,)), None, None, 8, 1, 63)),
        ("O8", (3, "|", None, None, None, -1, -1, 63)),
        ("u1", (3, "|", None, ("a",), {"a": ("u1", 0)}, 1, 1, 0)),
        ("u1", "text"),
    ],
)
def test_no_dtype_is_built_by_a_pickle(truth, tmp_path, dtype, state):
    path = write_python(tmp_path, truth) / "data_batch_1"
    path.write_bytes(crafted(dtype, state))
    message = failure(tmp_path)
    assert str(path) in message and ("an array of" in message or "a dtype" in message)


@pytest.mark.parametrize("kind", ["python", "binary"])
def test_an_archive_is_read_to_its_checksum(truth, tmp_path, kind):
    """Every flipped bit of the members and of the CRC behind them is seen."""
    write = write_python if kind == "python" else write_binary
    path = pack(write, tmp_path, truth)
    whole = path.read_bytes()
    for place in [*range(60, len(whole), len(whole) // 15), *range(-8, 0)]:
        broken = bytearray(whole)
        broken[place] ^= 1
        path.write_bytes(broken)
        assert str(path) in failure(tmp_path)


@pytest.mark.parametrize("archive", [True, False])
def test_a_file_of_the_published_size_has_the_published_digest(
    truth, tmp_path, monkeypatch, archive
):
    path = pack(write_python, tmp_path, truth)
    place = path if archive else tmp_path / "unpacked"
    if not archive:
        path = tmp_path / "unpacked" / "cifar-10-batches-py" / "data_batch_2"
    content = path.read_bytes()
    md5 = hashlib.md5(content).hexdigest()
    published = {path.name: (len(content), md5)}
    monkeypatch.setattr(cifar10_files, "PUBLISHED", published)
    assert len(cifar10.load(str(place)).labels) == 15
    monkeypatch.setitem(published, path.name, (len(content), md5[::-1]))
    message = failure(place)
    assert str(path) in message and "another md5" in message
    monkeypatch.setitem(published, path.name, (len(content) + 1, md5[::-1]))
    assert len(cifar10.load(str(place)).labels) == 15  # somebody's own


def test_an_archive_that_would_fill_the_memory_is_refused(tmp_path, monkeypatch):
    """A member that says 2 GB, and zeros without end."""
    monkeypatch.setattr(cifar10_files, "_MOST", 2**20)
    path = tmp_path / "cifar-10-binary.tar.gz"
    info = tarfile.TarInfo("cifar-10-batches-bin/data_batch_1.bin")
    for size, there in ((2**31, 0), (2**21, 2**21)):
        info.size = size
        path.write_bytes(gzip.compress(info.tobuf() + bytes(there)))
        message = failure(tmp_path)
        assert f"{size} bytes" in message and "fetch it again" in message
        assert len(message) < 400
    info.name = "other"
    path.write_bytes(gzip.compress(info.tobuf() + bytes(2**21)))
    assert f"more than {2**20} bytes" in failure(tmp_path)


def test_what_is_no_file_is_named(truth, tmp_path):
    folder = write_binary(tmp_path, truth)
    for name in ("cifar-10-binary.tar.gz", "cifar10.npz"):
        os.mkfifo(tmp_path / name)
        assert "is no file" in failure(tmp_path / name)
    (folder / "data_batch_3.bin").unlink()
    (folder / "data_batch_3.bin").mkdir()
    assert "is no file" in failure(tmp_path)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"not a pickle",
        pickle.dumps([1, 2]),
        pickle.dumps({"labels": [1]}),
        pickle.dumps({"data": "text", "labels": [1]}),
        pickle.dumps({"data": np.zeros((2, 3071), np.uint8), "labels": [1, 2]}),
        pickle.dumps({"data": np.zeros((2, 3072), np.float32), "labels": [1, 2]}),
        pickle.dumps({"data": np.zeros((2, 3072), np.uint8), "labels": [1]}),
        pickle.dumps({"data": np.zeros((2, 3072), np.uint8), "labels": ["a", "b"]}),
        pickle.dumps({"data": np.zeros((2, 3072), np.uint8), "labels": [1, 2]})[:-99],
    ],
)
def test_damaged_python_batches_are_named(truth, tmp_path, content):
    path = write_python(tmp_path, truth) / "data_batch_5"
    path.write_bytes(content)
    message = failure(tmp_path)
    assert str(path) in message
    assert "expected" in message or "official python batch" in message


@pytest.mark.parametrize(
    "change, words",
    [
        ({"x_train": np.zeros((4, 3, 32, 32), np.uint8)}, "uint8 [4, 3, 32, 32]"),
        ({"x_train": np.zeros((4, 32, 32, 3), np.float32)}, "float32 [4, 32, 32, 3]"),
        ({"y_train": np.zeros(4)}, "labels are float64 [4], expected integers [4]"),
        ({"y_train": np.zeros(3, np.int64)}, "expected integers [4]"),
        ({"y_train": np.array([0, 1, -1, 2])}, "label -1 at image 2"),
        ({"y_train": None}, "y_train"),
        ({"y_train": np.array([0, 1, None, 2])}, "y_train"),
    ],
)
def test_a_wrong_npz_is_named(tmp_path, change, words):
    arrays = {"x_train": np.zeros((4, 32, 32, 3), np.uint8), "y_train": np.arange(4)}
    arrays = {k: v for k, v in (arrays | change).items() if v is not None}
    np.savez(tmp_path / "cifar10.npz", **arrays)
    message = failure(tmp_path)
    assert str(tmp_path / "cifar10.npz") in message and words in message


def test_a_truncated_npz_is_named(truth, tmp_path):
    path = write_npz(tmp_path, truth)
    whole = path.read_bytes()
    for size in (0, 100, len(whole) // 2, len(whole) - 10):
        path.write_bytes(whole[:size])
        assert str(path) in failure(tmp_path)


@pytest.mark.parametrize("write", [write_binary, write_python])
def test_a_damaged_archive_is_named(truth, tmp_path, write):
    path = pack(write, tmp_path, truth)
    whole = path.read_bytes()
    for size in (0, 100, len(whole) // 2):
        path.write_bytes(whole[:size])
        message = failure(tmp_path)
        assert str(path) in message and "fetch it again" in message
    with tarfile.open(path, "w:gz"):
        pass
    assert "holds no cifar-10-batches" in failure(tmp_path)


def test_splits_have_two_names():
    assert "train and test" in failure("", split="val")


@pytest.mark.skipif(not REAL, reason="PROGGUIDE_CIFAR10_DIR names no CIFAR-10 folder")
def test_real_data_has_the_published_statistics():
    """Channel mean and std of the train split; 5,000 and 1,000 images of each class."""
    train = cifar10.load(REAL, "train", expected=50_000)
    test = cifar10.load(REAL, "test", expected=10_000)
    x = train.images.reshape(-1, 3) / 255
    np.testing.assert_allclose(x.mean(0), [0.4913997, 0.4821584, 0.4465309], atol=1e-6)
    np.testing.assert_allclose(x.std(0), [0.247032, 0.243485, 0.261588], atol=5e-6)
    np.testing.assert_array_equal(np.bincount(train.labels), [5000] * 10)
    np.testing.assert_array_equal(np.bincount(test.labels), [1000] * 10)
    assert train.labels[:5].tolist() == [6, 9, 9, 4, 1]  # frog, 2 trucks, deer, car
