"""A folder of pictures as a data set: its sub-folders are the classes."""

import hashlib
import io
from concurrent import futures
from typing import NamedTuple

import numpy as np
from etils import epath
from PIL import Image, ImageOps

from progguide_jax.data import reading

SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp")
_FORMATS = ("PNG", "JPEG", "WEBP", "BMP")
_HOW = "set config.data.dir to a folder with one sub-folder of pictures for each class"


class Pictures(NamedTuple):
    """The files of a split, class by class, labels int32 [N] and the classes' names."""

    files: list[epath.Path]
    labels: np.ndarray
    classes: list[str]


def find(data_dir: str, split: str) -> Pictures:
    """The pictures of a split, none of them opened.

    Classes are ordered by name, or by value if all names are numbers, and the files of
    each by name. `train` and `test` in data_dir are the splits if train holds folders;
    else split train is all of data_dir. Test may lack classes. Hidden files and those
    without one of SUFFIXES are ignored. ValueError or FileNotFoundError, one line.
    """
    folder = _split(data_dir, split)
    classes = _classes(_split(data_dir, "train"))
    found = classes if split == "train" else _classes(folder)
    for name, files in found.items():
        if name not in classes:
            raise ValueError(f"{folder / name}: a class that split train does not have")
        if not files and split == "train":
            raise ValueError(
                f"{folder / name}: holds no picture ({', '.join(SUFFIXES)}): remove "
                "the folder, for every folder is a class"
            )
    names = list(classes)
    labels = np.repeat(
        [names.index(n) for n in found], [len(f) for f in found.values()]
    )
    files = [file for inside in found.values() for file in inside]
    return Pictures(files, labels.astype(np.int32), names)


def digest(data_dir: str, split: str) -> str:
    """16 hex digits of sha256 over the files of a split: class, name and size of each.
    The same wherever the folder lies."""
    result = hashlib.sha256()
    for file in find(data_dir, split).files:
        line = f"{file.parent.name}/{file.name} {file.stat().length}\n"
        result.update(line.encode(errors="surrogateescape"))
    return result.hexdigest()[:16]


def decode(files: list[epath.Path], size: int, channels: int) -> np.ndarray:
    """uint8 [N,size,size,channels] of picture files, by as many threads as help."""
    images = np.empty((len(files), size, size, channels), np.uint8)

    def put(i):
        images[i] = read(files[i], size, channels)

    with futures.ThreadPoolExecutor() as pool:  # Pillow lets other threads run
        done = pool.map(put, range(len(files)))
        for _ in reading.progress(done, "pictures", len(files)):
            pass
    return images


def read(path: epath.Path, size: int, channels: int) -> np.ndarray:
    """uint8 [size,size,channels] of a picture of any size, grey if channels is 1.

    Turned as its camera says, on white where it is transparent; then the short side is
    resized to `size` (bicubic, antialiased) and the middle cut out.
    """
    try:
        data = io.BytesIO(path.read_bytes())
        with Image.open(data, formats=_FORMATS) as file:
            image = _opaque(ImageOps.exif_transpose(file))
        image = image.convert("L" if channels == 1 else "RGB")
        short = min(image.size)
        # exact integers, rounded half up: no picture depends on a float
        width, height = (
            (2 * side * size + short) // (2 * short) for side in image.size
        )
        if image.size != (width, height):
            image = image.resize((width, height), Image.Resampling.BICUBIC)
        left, top = (width - size) // 2, (height - size) // 2
        image = image.crop((left, top, left + size, top + size))
    except Exception as error:  # damaged files fail in any way
        raise ValueError(
            f"{path}: no picture, or damaged ({reading.reason(error)}): remove it or "
            "fetch it again"
        ) from error
    return np.asarray(image).reshape(size, size, channels)


def _opaque(image: Image.Image) -> Image.Image:
    """Eight bits a value, and white where the picture is transparent."""
    if image.mode.startswith("I"):  # 16 bits, of which `convert` would keep the low 8
        return Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
    if not image.has_transparency_data:
        return image
    image = image.convert("RGBA")
    return Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)


def _split(data_dir: str, split: str) -> epath.Path:
    """The folder of the classes of a split."""
    root = epath.Path(data_dir).expanduser()
    if not data_dir:
        raise ValueError(f"data.dir is empty: {_HOW}")
    if not root.exists():
        raise FileNotFoundError(f"data.dir: {root} does not exist: {_HOW}")
    if not root.is_dir():
        raise ValueError(f"data.dir: {root} is no folder: {_HOW}")
    train = root / "train"
    halves = train.is_dir() and any(e.is_dir() for e in reading.visible(train))
    if split == "train":
        return train if halves else root
    if not halves or not (root / split).is_dir():
        raise ValueError(
            f"data.dir: {root} has no split {split}: put the classes into sub-folders "
            f"train and {split} of it, or set config.eval.split=train"
        )
    return root / split


def _classes(folder: epath.Path) -> dict[str, list[epath.Path]]:
    """{class: its pictures}; ValueError where no class would be found for a picture."""
    pictures, others = _list(folder)
    if pictures:
        raise ValueError(
            f"{pictures[0]}: lies beside the classes: put every picture into the "
            "sub-folder of its class"
        )
    found = {}
    for place in others:
        if place.is_dir():
            found[place.name], inner = _list(place)
            for deeper in inner:
                if deeper.is_dir():
                    raise ValueError(
                        f"{deeper}: a folder two levels below {folder}: only the "
                        "classes themselves are read"
                    )
    if not any(found.values()):
        raise ValueError(
            f"{folder}: no sub-folder holds pictures ({', '.join(SUFFIXES)}): {_HOW}"
        )
    order = int if reading.are_numbers(list(found)) else str
    return {name: found[name] for name in sorted(found, key=order)}


def _list(folder: epath.Path) -> tuple[list[epath.Path], list[epath.Path]]:
    """(pictures, everything else) directly in a folder, without what is hidden."""
    inside = reading.visible(folder)
    pictures = [e for e in inside if e.suffix.lower() in SUFFIXES]
    return pictures, [e for e in inside if e.suffix.lower() not in SUFFIXES]
