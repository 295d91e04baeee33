"""Finding the files of pretrained weights that other programs have downloaded."""

import glob
import hashlib
import itertools
import os
import re
from collections.abc import Iterator, Sequence
from typing import NamedTuple

_KEY = "--config.eval.weights=FILE"
_MD5 = re.compile(r"[0-9a-f]{32}_")  # NVIDIA's downloads have it before their name


class WeightFile(NamedTuple):
    """A file of weights as it is published.

    sha256: the whole digest or its beginning, "" = unknown. repo: "owner/name" on the
    Hugging Face hub, where it is one of several files of its name.
    """

    name: str
    sha256: str = ""
    repo: str = ""


class Found(NamedTuple):
    """A file of weights on this machine and its whole digest."""

    path: str
    sha256: str


def find(known: Sequence[WeightFile], path: str = "") -> Found:
    """One of the known files, or the file that the user names.

    path: a file, under any name; a folder to look in; or "": the folder of the
    environment variable PROGGUIDE_WEIGHTS, then the caches of torch, NVIDIA's dnnlib,
    CLIP, the Hugging Face hub, and ~/.cache/progguide_jax. FileNotFoundError if there
    is none; ValueError if a file with the name of a known one has another digest.
    """
    path = os.path.expanduser(path)
    if path and not os.path.exists(path):
        raise FileNotFoundError(f"no weights: {path} does not exist: mend {_KEY}")
    if path and not os.path.isdir(path) and not os.path.isfile(path):
        raise ValueError(f"{path} is no file of weights: mend {_KEY}")
    if path and not os.path.isdir(path):
        return _checked(known, path)
    folders = [path] if path else [*_folders(), _hub()]
    places = itertools.chain.from_iterable(_candidates(known, f) for f in folders)
    place = next(itertools.chain(places, [] if path else _hub_files(known)), "")
    if place:
        return _checked(known, place)
    names = dict.fromkeys(f"{f.repo}/{f.name}" if f.repo else f.name for f in known)
    raise FileNotFoundError(
        f"no weights: found none of {', '.join(names)} in {', '.join(folders)}: "
        f"download one and set {_KEY}"
    )


def _checked(known: Sequence[WeightFile], path: str) -> Found:
    with open(path, "rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    name = _plain(os.path.basename(path))
    expected = [f.sha256.lower() for f in known if f.name == name and f.sha256]
    if expected and not any(digest.startswith(sha256) for sha256 in expected):
        raise ValueError(
            f"{path}: sha256 {digest[:16]}..., expected "
            f"{' or '.join(sha256[:16] for sha256 in expected)}...: it is damaged or "
            "another file: download it again, or rename it if that is what you want"
        )
    return Found(path, digest)


def _candidates(known: Sequence[WeightFile], folder: str) -> Iterator[str]:
    """The known files in a folder, in the order of `known`."""
    names = sorted(os.listdir(folder)) if os.path.isdir(folder) else []
    for file in known:
        inner = os.path.join(folder, file.repo.rpartition("/")[2], file.name)
        if file.repo and os.path.isfile(inner):  # as a clone of its repository has it
            yield inner
        for name in names:
            place = os.path.join(folder, name)
            if _plain(name) == file.name and os.path.isfile(place):
                yield place


def _plain(name: str) -> str:
    return _MD5.sub("", name, count=1)


def _hub_files(known: Sequence[WeightFile]) -> Iterator[str]:
    """The known files in the cache of the Hugging Face hub."""
    for file in known:
        if file.repo:
            repo = glob.escape(f"models--{file.repo.replace('/', '--')}")
            snapshots = os.path.join(glob.escape(_hub()), repo, "snapshots", "*")
            places = glob.glob(os.path.join(snapshots, glob.escape(file.name)))
            yield from filter(os.path.isfile, sorted(places))  # or links to nothing


def _folders() -> list[str]:
    """Where to look for files that lie flat in a folder."""
    torch_home = os.environ.get("TORCH_HOME") or _cache("torch")
    own = os.environ.get("PROGGUIDE_WEIGHTS")
    return [
        *([os.path.expanduser(own)] if own else []),
        os.path.join(os.path.expanduser(torch_home), "hub", "checkpoints"),
        os.path.join(_cache("dnnlib"), "downloads"),
        _cache("clip"),
        _cache("progguide_jax"),
    ]


def _hub() -> str:
    home = os.environ.get("HF_HOME") or _cache("huggingface")
    hub = os.environ.get("HF_HUB_CACHE") or os.path.join(home, "hub")
    return os.path.expanduser(hub)


def _cache(name: str) -> str:
    base = os.environ.get("XDG_CACHE_HOME") or os.path.join("~", ".cache")
    return os.path.join(os.path.expanduser(base), name)
