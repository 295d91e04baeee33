"""Images to be scored, from files as numpy and Pillow write them."""

import hashlib
import io
import struct
import tracemalloc
import zlib

import numpy as np
import pytest
from PIL import Image

from progguide_jax.data import image_sets


@pytest.fixture
def images():
    random = np.random.default_rng(0)
    return random.integers(0, 256, (12, 6, 5, 3), dtype=np.uint8)


def failure(path, kind=ValueError):
    with pytest.raises(kind) as error:
        image_sets.read(str(path))
    message = str(error.value)
    assert str(path) in message and "\n" not in message and len(message) < 600
    return message


def save(path, image, mode=None):
    path.parent.mkdir(parents=True, exist_ok=True)
    file = Image.fromarray(image)
    (file.convert(mode) if mode else file).save(path, "png")
    return path


def check(found, images, labels):
    assert found.images.dtype == np.uint8
    np.testing.assert_array_equal(found.images, images)
    if labels is None:
        assert found.labels is None
    else:
        assert found.labels.dtype == np.int32
        np.testing.assert_array_equal(found.labels, labels)
    n, h, w, c = images.shape
    content = f"({n}, {h}, {w}, {c}) {labels is None}".encode()
    content += b"".join(bytes(image.ravel().tolist()) for image in images)
    if labels is not None:
        content += b"".join(int(c).to_bytes(4, "little") for c in labels)
    assert found.digest == hashlib.sha256(content).hexdigest()[:16]


@pytest.mark.parametrize("write", [np.savez, np.savez_compressed])
@pytest.mark.parametrize("dtype", [np.int32, np.int64, np.uint8])
def test_our_samples_and_those_of_the_adm_suite(tmp_path, images, write, dtype):
    labels = np.arange(12).astype(dtype) % 5
    write(tmp_path / "ours.npz", images=images, labels=labels, seeds=np.arange(12))
    write(tmp_path / "adm.npz", images, labels)
    write(tmp_path / "bare.npz", images)
    for name in ("ours", "adm"):
        check(image_sets.read(str(tmp_path / f"{name}.npz")), images, np.arange(12) % 5)
    check(image_sets.read(str(tmp_path / "bare.npz")), images, None)


def test_grey_samples(tmp_path, images):
    np.savez(tmp_path / "a.npz", images=images[..., :1])
    check(image_sets.read(str(tmp_path / "a.npz")), images[..., :1], None)


def test_a_samples_folder_is_its_npz_and_not_its_grid(tmp_path, images):
    np.savez(tmp_path / "samples.npz", images=images, labels=np.arange(12))
    save(tmp_path / "grid.png", images[0])
    check(image_sets.read(str(tmp_path)), images, np.arange(12))


def test_arrays_in_the_order_of_fortran(tmp_path, images):
    np.savez(tmp_path / "a.npz", np.asfortranarray(images))
    check(image_sets.read(str(tmp_path / "a.npz")), images, None)


def test_png_folder_in_natural_order(tmp_path, images):
    names = [f"img{i}.png" for i in range(11)] + ["img11b.PNG"]
    for i in np.random.default_rng(1).permutation(12):
        save(tmp_path / names[i], images[i])
    (tmp_path / "notes.txt").write_text("no image")
    (tmp_path / ".hidden.png").write_text("no image")
    check(image_sets.read(str(tmp_path)), images, None)


@pytest.mark.parametrize(
    "names, labels, order",
    [
        (["dog", "cat", "ship"], [1, 0, 2], [1, 0, 2]),
        (["7", "10", "00"], [7, 10, 0], [2, 0, 1]),
        (["c10", "c2", "x"], [0, 1, 2], [1, 0, 2]),  # labels as ImageFolder has them
        (["7", "10", "b"], [1, 0, 2], [0, 1, 2]),
    ],
)
def test_sub_folders_are_classes(tmp_path, images, names, labels, order):
    for i, name in enumerate(names):
        for j in range(4):
            save(tmp_path / name / f"{j}.png", images[4 * i + j])
    rows = [4 * i + j for i in order for j in range(4)]
    expected = [labels[i] for i in order for _ in range(4)]
    check(image_sets.read(str(tmp_path)), images[rows], expected)


def test_no_classes_if_an_image_is_outside(tmp_path, images):
    save(tmp_path / "z.png", images[0])
    save(tmp_path / "a" / "0.png", images[1])
    (tmp_path / "empty").mkdir()
    check(image_sets.read(str(tmp_path)), images[:2], None)


def test_the_same_pixels_have_the_same_digest(tmp_path, images):
    np.savez(tmp_path / "a.npz", images)
    for i, image in enumerate(images):
        save(tmp_path / "folder" / f"{i}.png", image)
    np.savez(tmp_path / "b.npz", images[::-1])
    a, b, folder = (
        image_sets.read(f"{tmp_path / n}") for n in ("a.npz", "b.npz", "folder")
    )
    assert a.digest == folder.digest != b.digest


def test_labels_and_shape_are_part_of_the_digest(images):
    labels = np.arange(len(images), dtype=np.int32)
    n, h, w, c = images.shape
    other = images.reshape(n, h // 2, w * 2, c)
    digests = [
        image_sets.digest(images, None),
        image_sets.digest(images, labels),
        image_sets.digest(images, labels[::-1]),
        image_sets.digest(other, labels),
    ]
    assert len(set(digests)) == 4


@pytest.mark.parametrize(
    "change, words",
    [
        ({"images": np.zeros((3, 4, 4, 3), np.float32)}, "float32 [3, 4, 4, 3]"),
        ({"images": np.zeros((3, 4, 4, 3), np.int64)}, "int64 [3, 4, 4, 3]"),
        ({"images": np.zeros((3, 3, 4, 4), np.uint8)}, "uint8 [3, 3, 4, 4]"),
        ({"images": np.zeros((3, 4, 4), np.uint8)}, "uint8 [3, 4, 4]"),
        ({"images": np.zeros((3, 4, 4, 2), np.uint8)}, "uint8 [3, 4, 4, 2]"),
        ({"images": np.zeros((3, 4, 4, 4), np.uint8)}, "uint8 [3, 4, 4, 4]"),
        ({"images": np.zeros((0, 4, 4, 3), np.uint8)}, "no images"),
        ({"labels": np.zeros(2, np.int32)}, "labels are int32 [2]"),
        ({"labels": np.zeros((3, 1), np.int32)}, "labels are int32 [3, 1]"),
        ({"labels": np.zeros(3)}, "labels are float64 [3]"),
        ({"labels": np.array([0, -1, 2])}, "labels are int64 [3] from -1 on"),
        ({"labels": np.zeros(0, np.int32)}, "labels are int32 [0]"),
        ({"labels": np.array([0, None, 1])}, "Object arrays"),
        ({"images": np.array([None, "x"])}, "Object arrays"),
        ({"images": None}, "neither images nor arr_0, it holds labels"),
        ({"images": None, "labels": None}, "it holds nothing"),
        ({"images": None, "samples": np.zeros(3)}, "it holds labels, samples"),
    ],
)
def test_wrong_arrays_are_named(tmp_path, change, words):
    arrays = {"images": np.zeros((3, 4, 4, 3), np.uint8), "labels": np.arange(3)}
    arrays = {k: v for k, v in (arrays | change).items() if v is not None}
    np.savez(tmp_path / "a.npz", **arrays)
    assert words in failure(tmp_path / "a.npz")


def test_damaged_and_foreign_files_are_named(tmp_path, images):
    path = tmp_path / "a.npz"
    np.savez(path, images)
    whole = path.read_bytes()
    flipped = bytearray(whole)
    flipped[len(whole) // 2] ^= 1
    for data in (b"", whole[:100], whole[:-10], bytes(flipped), b"text", b"\x80\x04N."):
        path.write_bytes(data)
        assert "not a samples.npz" in failure(path)
    np.save(tmp_path / "a.npy", images)
    assert "not a samples.npz" in failure(tmp_path / "a.npy")
    failure(tmp_path / "gone", FileNotFoundError)


@pytest.mark.parametrize("mode", ["L", "RGBA", "P", "1", "LA"])
def test_pngs_that_are_not_rgb_are_named(tmp_path, images, mode):
    save(tmp_path / "0.png", images[0])
    save(tmp_path / "1.png", images[1], mode)
    message = failure(tmp_path)
    assert f"{tmp_path / '1.png'}: a PNG of mode {mode}" in message


def chunk(kind, data):
    crc = struct.pack(">I", zlib.crc32(kind + data))
    return struct.pack(">I", len(data)) + kind + data + crc


def test_sixteen_bits_are_refused(tmp_path):
    """A 1 x 1 RGB image by the PNG specification: Pillow would read it as 8 bits."""
    head = struct.pack(">IIBBBBB", 1, 1, 16, 2, 0, 0, 0)
    pixels = zlib.compress(b"\0" + bytes(range(6)))
    parts = [chunk(b"IHDR", head), chunk(b"IDAT", pixels), chunk(b"IEND", b"")]
    (tmp_path / "a.png").write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(parts))
    assert "mode RGB with 16 bits" in failure(tmp_path)


def test_the_first_two_sizes_are_named(tmp_path, images):
    for i, image in enumerate([images[0], images[1], images[2, :4], images[3, :3]]):
        save(tmp_path / f"{i}.png", image)
    message = failure(tmp_path)
    assert f"{tmp_path / '0.png'} is 5 x 6 pixels and " in message
    assert f"{tmp_path / '2.png'} is 5 x 4:" in message


def test_damaged_pngs_are_named(tmp_path, images):
    save(tmp_path / "0.png", images[0])
    path = save(tmp_path / "1.png", images[1])
    whole, jpeg = path.read_bytes(), io.BytesIO()
    flipped = bytearray(whole)
    flipped[60] ^= 16  # a pixel
    Image.fromarray(images[1]).save(jpeg, "jpeg")
    for data in (b"", whole[:20], whole[:80], bytes(flipped), b"text", jpeg.getvalue()):
        path.write_bytes(data)
        assert f"{path}: not a PNG, or damaged" in failure(tmp_path)


def test_other_folders_are_refused(tmp_path, images):
    assert "holds no PNG" in failure(tmp_path)
    save(tmp_path / "a" / "b" / "0.png", images[0])
    assert f"{tmp_path / 'a' / 'b'}: a folder two levels" in failure(tmp_path)
    (tmp_path / "x.JPG").write_bytes(b"")
    assert f"{tmp_path / 'x.JPG'}: images in a folder must be PNG" in failure(tmp_path)


@pytest.mark.parametrize("form", ["npz", "folder"])
def test_memory_holds_the_images_once(tmp_path, form):
    images = np.random.default_rng(0).integers(0, 256, (40, 128, 128, 3), np.uint8)
    path = tmp_path / "a.npz"
    np.savez(path, images)
    if form == "folder":
        path = tmp_path / "folder"
        for i, image in enumerate(images):
            save(path / f"{i}.png", image)
    tracemalloc.start()
    found = image_sets.read(str(path))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    np.testing.assert_array_equal(found.images, images)
    assert peak < 1.3 * images.nbytes
