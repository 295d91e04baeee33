"""Folders of pictures as data: what is found, how it is resized, what is refused."""

import shutil
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from progguide_jax import data
from progguide_jax.data import image_folder

SETTINGS = dict(name="folder", image_size=8, channels=3, num_examples=1)


def noise(*shape, seed=0):
    return np.random.default_rng(seed).integers(0, 256, shape, np.uint8)


def save(path, pixels, **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    image = pixels if isinstance(pixels, Image.Image) else Image.fromarray(pixels)
    image.save(path, **options)
    return path


def fill(root, *names, count=2):
    """`count` pictures of 8 x 8 for each class; {class: their pixels}."""
    return {
        name: [
            save_and_keep(root / name / f"{i}.png", noise(8, 8, 3, seed=10 * k + i))
            for i in range(count)
        ]
        for k, name in enumerate(names)
    }


def save_and_keep(path, pixels):
    save(path, pixels)
    return pixels


def load(root, **changes):
    return data.load(**(SETTINGS | {"dir": str(root), "num_classes": 2} | changes))


def failure(root, kind=ValueError, **changes):
    with pytest.raises(kind) as error:
        load(root, **changes)
    assert "\n" not in str(error.value)
    return str(error.value)


# --- what is found ---


@pytest.mark.parametrize("suffix", ["png", "PNG", "bmp", "webp"])
def test_pictures_of_the_right_size_come_back_to_the_bit(tmp_path, suffix):
    pixels = noise(6, 8, 8, 3)
    for i in range(6):
        name = f"{'cat' if i % 2 else 'dog'}/{i}.{suffix}"
        save(tmp_path / name, pixels[i], **({"lossless": True} if "w" in name else {}))
    found = load(tmp_path)
    np.testing.assert_array_equal(found.images, pixels[[1, 3, 5, 0, 2, 4]])
    assert found.images.dtype == np.uint8 and found.labels.dtype == np.int32
    assert found.labels.tolist() == [0, 0, 0, 1, 1, 1] and found.num_classes == 2


def test_grey_pictures_come_back_to_the_bit(tmp_path):
    pixels = noise(4, 8, 8)
    for i in range(4):
        save(tmp_path / f"{i // 2}" / f"{i}.png", pixels[i])
    assert np.array_equal(load(tmp_path, channels=1).images[..., 0], pixels)
    colour = load(tmp_path).images  # of a grey picture: three equal channels
    assert np.array_equal(colour, np.repeat(pixels[..., None], 3, -1))


def test_colours_become_grey_by_their_luminance(tmp_path):
    """ITU-R 601: 0.299 R + 0.587 G + 0.114 B."""
    colours = [(255, 0, 0), (0, 255, 0), (0, 0, 255)]
    for i, colour in enumerate(colours):
        save(tmp_path / f"{i}" / "0.png", Image.new("RGB", (8, 8), colour))
    images = load(tmp_path, channels=1, num_classes=3).images
    assert images[:, 0, 0, 0].tolist() == [76, 150, 29]


@pytest.mark.parametrize(
    "names, order",
    [
        (["b", "a", "c"], ["a", "b", "c"]),
        (["10", "2", "1"], ["1", "2", "10"]),  # numbers, by value
        (["c10", "c2", "x"], ["c10", "c2", "x"]),
    ],
)
def test_classes_are_in_order(tmp_path, names, order):
    fill(tmp_path, *names)
    found = image_folder.find(str(tmp_path), "train")
    assert found.classes == order and found.labels.tolist() == [0, 0, 1, 1, 2, 2]
    assert [f.parent.name for f in found.files[::2]] == order


def test_what_is_hidden_or_no_picture_is_ignored(tmp_path):
    fill(tmp_path, "a", "b")
    (tmp_path / ".git").mkdir()
    (tmp_path / "a" / ".0.png").write_text("no picture")
    (tmp_path / "a" / "notes.txt").write_text("no picture")
    (tmp_path / "README").write_text("no picture")
    assert len(load(tmp_path).labels) == 4


def test_splits(tmp_path):
    train = fill(tmp_path / "train", "a", "b")
    test = fill(tmp_path / "test", "b", count=3)
    assert np.array_equal(load(tmp_path).images, train["a"] + train["b"])
    found = load(tmp_path, split="test")
    assert np.array_equal(found.images, test["b"]) and found.labels.tolist() == [1] * 3
    fill(tmp_path / "test", "c")
    assert "test/c: a class that split train does not have" in failure(
        tmp_path, split="test"
    )


def test_train_can_be_a_class(tmp_path):
    fill(tmp_path, "bus", "train")
    assert image_folder.find(str(tmp_path), "train").classes == ["bus", "train"]
    message = failure(tmp_path, split="test")
    assert "has no split test" in message and "eval.split=train" in message


# --- how it is resized ---


@pytest.mark.parametrize("width, height", [(40, 21), (13, 64), (5, 3), (8, 9)])
def test_the_short_side_is_resized_and_the_middle_cut_out(tmp_path, width, height):
    """By hand with Pillow."""
    pixels = noise(height, width, 3)
    save(tmp_path / "0.png", pixels)
    scale = 8 / min(width, height)
    wide, high = (int(side * scale + 0.5) for side in (width, height))
    whole = np.asarray(
        Image.fromarray(pixels).resize((wide, high), Image.Resampling.BICUBIC)
    )
    top, left = (high - 8) // 2, (wide - 8) // 2
    expected = whole[top : top + 8, left : left + 8]
    assert np.array_equal(image_folder.read(tmp_path / "0.png", 8, 3), expected)


def test_small_pictures_are_antialiased(tmp_path):
    """A chequerboard of single pixels is grey from afar, not black or white."""
    board = np.indices((64, 64)).sum(0) % 2 * np.uint8(255)
    save(tmp_path / "0.png", board.astype(np.uint8))
    small = image_folder.read(tmp_path / "0.png", 8, 1).astype(float)
    assert np.abs(small - 127.5).max() < 3


def test_a_picture_is_turned_as_its_camera_says(tmp_path):
    """Orientation 6: the top of the scene is on the left of the file."""
    pixels = np.zeros((8, 8, 3), np.uint8)
    pixels[:, :4] = 255
    exif = Image.Exif()
    exif[0x0112] = 6
    save(tmp_path / "0.png", pixels, exif=exif)
    turned = image_folder.read(tmp_path / "0.png", 8, 3)
    assert np.all(turned[:4] == 255) and np.all(turned[4:] == 0)


@pytest.mark.parametrize("alpha, red", [(255, 0), (0, 255), (51, 204)])
def test_transparent_pictures_are_on_white(tmp_path, alpha, red):
    save(tmp_path / "0.png", Image.new("RGBA", (8, 8), (0, 255, 255, alpha)))
    expected = [red, 255, 255]
    assert image_folder.read(tmp_path / "0.png", 8, 3)[3, 3].tolist() == expected


def test_palettes(tmp_path):
    pixels = np.kron(noise(2, 2, 3), np.ones((4, 4, 1), np.uint8))
    save(tmp_path / "0.png", Image.fromarray(pixels).quantize(4))
    assert np.array_equal(image_folder.read(tmp_path / "0.png", 8, 3), pixels)


def test_of_sixteen_bits_the_high_eight_stay(tmp_path):
    """A grey 8 x 8 PNG by its specification, with the values 0, 1000, 2000, ..."""
    values = np.arange(64) * 1000
    rows = values.astype(">u2").reshape(8, 8)
    content = zlib.compress(b"".join(b"\0" + row.tobytes() for row in rows))
    head = struct.pack(">IIBBBBB", 8, 8, 16, 0, 0, 0, 0)
    chunks = ((b"IHDR", head), (b"IDAT", content), (b"IEND", b""))
    file = b"\x89PNG\r\n\x1a\n"
    for kind, body in chunks:
        crc = struct.pack(">I", zlib.crc32(kind + body))
        file += struct.pack(">I", len(body)) + kind + body + crc
    (tmp_path / "0.png").write_bytes(file)
    found = image_folder.read(tmp_path / "0.png", 8, 1)
    assert found.ravel().tolist() == [int(v) // 256 for v in values]


# --- what is refused ---


def test_settings_that_do_not_fit(tmp_path):
    fill(tmp_path, "a", "b", "c")
    (tmp_path / "a" / "0.png").write_bytes(b"")  # refused before anything is decoded
    assert "data.num_classes=2 does not fit folder: set data.num_classes=3" in (
        failure(tmp_path)
    )
    assert "data.channels=2" in failure(tmp_path, channels=2, num_classes=3)


def test_places_that_hold_no_data(tmp_path):
    assert "data.dir is empty: set" in failure("")
    assert "does not exist" in failure(tmp_path / "gone", FileNotFoundError)
    assert "no sub-folder holds pictures (.png, .jpg" in failure(tmp_path)
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "x.txt").write_text("")
    assert "no sub-folder holds pictures" in failure(tmp_path)
    assert "is no folder" in failure(tmp_path / "a" / "x.txt")


def test_pictures_without_a_class(tmp_path):
    fill(tmp_path, "a", "b")
    (tmp_path / "empty").mkdir()
    assert "empty: holds no picture" in failure(tmp_path, num_classes=3)
    (tmp_path / "empty").rmdir()
    save(tmp_path / "a" / "more" / "0.png", noise(8, 8, 3))
    assert "a/more: a folder two levels below" in failure(tmp_path)
    shutil.rmtree(tmp_path / "a" / "more")
    save(tmp_path / "0.jpg", noise(8, 8, 3))
    assert "0.jpg: lies beside the classes" in failure(tmp_path)


@pytest.mark.parametrize("content", [b"", b"text", "half", "gif"])
def test_damaged_files_are_named(tmp_path, content):
    pixels = fill(tmp_path, "a", "b", count=40)["a"][0]
    path = tmp_path / "b" / "7.jpg"
    if content == "gif":
        save(path, noise(8, 8), format="gif")
    elif content == "half":
        save(path, pixels)
        path.write_bytes(path.read_bytes()[:300])
    else:
        path.write_bytes(content)
    assert f"{path}: no picture, or damaged (" in failure(tmp_path)


# --- which data they are ---


def test_the_digest_is_of_the_pictures_not_of_the_place(tmp_path):
    fill(tmp_path / "here" / "train", "a", "b")
    digest = data.identify("folder", str(tmp_path / "here"))
    assert len(load(tmp_path / "here", digest=digest).labels) == 4
    shutil.copytree(tmp_path / "here" / "train", tmp_path / "there")
    fill(tmp_path / "here" / "test", "a")  # of another split
    for place in ("here", "there"):
        assert data.identify("folder", str(tmp_path / place)) == digest
    assert data.identify("folder", str(tmp_path / "here"), "test") != digest
    found = [digest]
    for change in (
        lambda: save(tmp_path / "there" / "a" / "9.png", noise(8, 8, 3)),
        lambda: (tmp_path / "there" / "a" / "9.png").rename(
            tmp_path / "there" / "b" / "9.png"
        ),
        lambda: save(tmp_path / "there" / "b" / "9.png", noise(9, 9, 3)),
        lambda: (tmp_path / "there" / "b").rename(tmp_path / "there" / "c"),
    ):
        change()
        found.append(data.identify("folder", str(tmp_path / "there")))
    assert len(set(found)) == 5
    message = failure(tmp_path / "there", digest=digest)
    assert "holds other images" in message and f"data.digest={found[-1]}" in message
