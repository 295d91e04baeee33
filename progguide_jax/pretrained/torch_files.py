"""Files of torch.save, old and new, and of torch.jit.save, read without torch."""

import io
import struct
import zipfile
from collections.abc import Callable, Mapping
from typing import Any, BinaryIO

import numpy as np

from progguide_jax.pretrained import raw_arrays, torch_names, torch_pickle

_MAGIC = 0x1950A86A20F9469CFC6C
_PROTOCOL = 1001
_NODES = (torch_names.Tensor, torch_names.Module, dict)
_MAX_LEAVES = 100_000
_MAX_NAME = 1000  # characters
# What zipfile raises for damaged archives: wrong offsets end in a seek that fails,
# RuntimeError means a password, NotImplementedError an unknown compression.
_ZIP_ERRORS = (
    zipfile.BadZipFile,
    zipfile.LargeZipFile,
    EOFError,
    NotImplementedError,
    OSError,
    RuntimeError,
    struct.error,
)


def read_zip(file: BinaryIO, size: int) -> dict[str, np.ndarray]:
    """The tensors of a zip archive of torch.save (from 1.6 on) or torch.jit.save.

    Constants of TorchScript, which have no name, come as "constants/0" and so on.
    ValueError if the archive is damaged or something else.
    """
    try:
        with zipfile.ZipFile(file) as archive:
            return _read_archive(archive, size)
    except _ZIP_ERRORS as error:
        raise ValueError(f"truncated or damaged zip archive ({error})") from error


def _read_archive(archive: zipfile.ZipFile, size: int) -> dict[str, np.ndarray]:
    names = archive.namelist()
    pickles = [name for name in names if name.endswith("/data.pkl")]
    if len(pickles) != 1:
        raise ValueError(
            "a zip archive without the data.pkl of torch: it holds "
            f"{', '.join(names[:3]) or 'nothing'}"
        )
    # torch does not compress what is read here: no entry is larger than the file.
    stored = (i for i in archive.infolist() if i.compress_type == zipfile.ZIP_STORED)
    if sum(info.file_size for info in stored) > size:
        raise ValueError("damaged zip archive: its entries are larger than the file")
    root = pickles[0].removesuffix("data.pkl")
    little = True
    if f"{root}byteorder" in names:
        order = _entry(archive, f"{root}byteorder")
        if order not in (b"little", b"big"):
            raise ValueError(f"damaged: its byte order is {order[:20]!r}")
        little = order == b"little"
    tensors = _read_pickle(archive, f"{root}data.pkl", f"{root}data/", little)
    if f"{root}constants.pkl" in names:
        constants = _read_pickle(
            archive, f"{root}constants.pkl", f"{root}constants/", little
        )
        tensors |= {f"constants/{name}": value for name, value in constants.items()}
    return tensors


def _read_pickle(
    archive: zipfile.ZipFile, name: str, folder: str, little: bool
) -> dict[str, np.ndarray]:
    """The tensors of one pickle, whose storages are the entries of a folder."""
    tree, _ = torch_pickle.load(io.BytesIO(_entry(archive, name)))
    if type(tree) is tuple:  # the constants of TorchScript; a Tensor is a subclass
        tree = dict(enumerate(tree))
    named = tensors(tree)
    return _arrays(named, lambda key: _entry(archive, f"{folder}{key}"), little)


def _entry(archive: zipfile.ZipFile, name: str) -> bytes:
    """The content of an entry, its checksum compared."""
    try:
        info = archive.getinfo(name)
    except KeyError:
        raise ValueError(f"damaged zip archive: it has no {name}") from None
    if info.compress_type != zipfile.ZIP_STORED:
        raise ValueError(f"its {name} is compressed, which torch never does")
    return archive.read(info)


def read_legacy(file: BinaryIO, size: int) -> dict[str, np.ndarray]:
    """The tensors of a file of torch.save before 1.6: pickles, then the storages.

    ValueError if the file is damaged or something else.
    """
    magic, _ = torch_pickle.load(file)
    if type(magic) is not int or magic != _MAGIC:
        raise ValueError("a pickle, but not a file of torch.save")
    protocol, _ = torch_pickle.load(file)
    if type(protocol) is not int or protocol != _PROTOCOL:
        version = protocol if type(protocol) is int and abs(protocol) < 2**63 else "?"
        raise ValueError(f"torch's old format in version {version}, not {_PROTOCOL}")
    machine, _ = torch_pickle.load(file)
    little = not isinstance(machine, dict) or machine.get("little_endian") is not False
    tree, storages = torch_pickle.load(file)
    keys, _ = torch_pickle.load(file)
    if (
        not isinstance(keys, list)
        or any(type(key) is not str for key in keys)
        or sorted(keys) != sorted(storages)
    ):
        raise ValueError("damaged: its storages are not those that its tensors use")
    named = tensors(tree)
    used = {tensor.storage.key for tensor in named.values()}
    data = {}
    for key in keys:
        storage = storages[key]
        num_bytes = storage.numel * raw_arrays.ITEM_BYTES[storage.dtype]
        stored = int.from_bytes(file.read(8), "little" if little else "big")
        if file.tell() + num_bytes > size:
            raise ValueError(f"truncated: the file ends in its storage {key}")
        if stored != storage.numel:
            raise ValueError(
                f"damaged: storage {key} has {stored} values, not {storage.numel}"
            )
        if key in used:
            data[key] = file.read(num_bytes)
        else:
            file.seek(num_bytes, io.SEEK_CUR)
    return _arrays(named, data.__getitem__, little)


def _arrays(
    tensors: Mapping[str, torch_names.Tensor],
    read: Callable[[str], bytes],
    little: bool,
) -> dict[str, np.ndarray]:
    """The tensors, given read(key of a storage) -> its bytes."""
    values: dict[str, np.ndarray] = {}
    arrays = {}
    for name, tensor in tensors.items():
        key, dtype, numel = tensor.storage
        if key not in values:
            data = read(key)
            if len(data) != numel * raw_arrays.ITEM_BYTES[dtype]:
                raise ValueError(
                    f"damaged: storage {key} of {numel} {dtype} has {len(data)} bytes"
                )
            values[key] = raw_arrays.decode(data, dtype, little)
        arrays[name] = _view(tensor, values[key])
    return arrays


def tensors(tree: Any) -> dict[str, torch_names.Tensor]:
    """Every tensor below a loaded object, by its names joined with dots.

    Where the object has no tensor of its own but a dict under "state_dict" or else
    "model", as training checkpoints have, then only those below it, without that name.
    Numbers, strings, lists and tuples (with what they hold) are left out.
    """
    if isinstance(tree, dict):
        for name in ("state_dict", "model"):
            inner = tree.get(name)
            own = any(isinstance(value, torch_names.Tensor) for value in tree.values())
            if isinstance(inner, dict) and not own and (found := _flat(inner)):
                return found
    return _flat(tree)


def _flat(tree: Any) -> dict[str, torch_names.Tensor]:
    found: dict[str, torch_names.Tensor] = {}
    visited = 0

    def visit(node: Any, name: str, depth: int) -> None:
        nonlocal visited
        if len(name) > _MAX_NAME:  # a long one may come before many others
            raise ValueError(f"a name of more than {_MAX_NAME} characters")
        if isinstance(node, torch_names.Tensor):
            if name in found:
                raise ValueError(f"two tensors have the name {name!r}")
            found[name] = node
        inner = node.attributes if isinstance(node, torch_names.Module) else node
        for key, child in inner.items() if isinstance(inner, dict) else ():
            visited += 1
            if visited > _MAX_LEAVES or depth > 100:  # small pickles can say so much
                raise ValueError("its dicts are nested without end")
            if isinstance(child, _NODES):
                visit(child, f"{name}.{key}" if depth else str(key), depth + 1)

    visit(tree, "", 0)
    return found


def _view(tensor: torch_names.Tensor, values: np.ndarray) -> np.ndarray:
    """The tensor, given the values [numel] of its storage; read-only, shares memory."""
    storage, offset, size, stride = tensor
    if 0 in size:
        return np.empty(size, values.dtype)
    last = offset + sum((n - 1) * s for n, s in zip(size, stride, strict=True))
    if last >= len(values):
        raise ValueError(
            f"a tensor of size {list(size)}, stride {list(stride)} and offset {offset} "
            f"reaches out of its storage {storage.key} of {len(values)} values"
        )
    # The stride of an axis of length 1 means nothing, and may be any number.
    strides = [
        s * values.itemsize if n > 1 else 0 for n, s in zip(size, stride, strict=True)
    ]
    return np.lib.stride_tricks.as_strided(
        values[offset:], size, strides, writeable=False
    )
