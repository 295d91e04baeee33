"""Any common checkpoint file -> {name: array}; nothing in it is executed.

Formats are told apart by their content: safetensors, torch.save in its zip and its
older form, TorchScript, frozen TensorFlow graphs.
"""

import os
from typing import BinaryIO

import numpy as np

from progguide_jax.formats import regular
from progguide_jax.pretrained import graph_def, safetensors_file, torch_files

_HEAD = 512
_LONGEST = 300  # characters of what is wrong with a file
# first bytes -> what such a file is
_FOREIGN = (
    (b"version https://git-lfs", "a git-lfs pointer, not the file: run `git lfs pull`"),
    (b"\x1f\x8b", "a gzip archive: unpack it"),
    (b"\x89HDF", "an HDF5 file, which is not read here"),
    (b"\x93NUMPY", "a numpy array, not a checkpoint"),
    (b"<", "a web page or XML, not the weights: download it again"),
    (b"{", "JSON text, not weights: perhaps the index of a checkpoint in parts"),
)


def read(path: str) -> dict[str, np.ndarray]:
    """Every tensor of a checkpoint file by its name there; dots join nested names.

    dtypes are those of the file, bfloat16 as float32. Arrays may be read-only, share
    memory and have any strides. Of torch files: see torch_files.tensors for what is
    left out, torch_files.read_zip for TorchScript; of a GraphDef: constants that are
    not strings. FileNotFoundError, or ValueError, one line with the path, saying what
    the file is instead.
    """
    path = os.path.expanduser(path)
    if not os.path.exists(path):
        raise FileNotFoundError(f"no checkpoint: {path} does not exist")
    if os.path.isdir(path):
        raise ValueError(f"{path} is a folder: name the checkpoint file in it")
    if not regular.is_file(path):
        raise ValueError(f"{path} is no file: name a checkpoint file")
    with open(path, "rb") as file:
        try:
            tensors = _read(file, os.path.getsize(path))
        except OSError:
            raise
        except Exception as error:  # a damaged file can raise almost anything
            reason = " ".join(str(error).split()) or type(error).__name__
            if len(reason) > _LONGEST:  # names in the file may be long
                reason = f"{reason[: _LONGEST // 2]} ... {reason[-_LONGEST // 2 :]}"
            raise ValueError(f"{path}: {reason}") from error
    if not tensors:
        raise ValueError(f"{path}: a checkpoint that holds no tensors")
    return tensors


def _read(file: BinaryIO, size: int) -> dict[str, np.ndarray]:
    head = file.read(_HEAD)
    file.seek(0)
    if not head:
        raise ValueError("empty: download it again")
    # safetensors first: it begins with a number, which may look like the others.
    if safetensors_file.looks_like(head):
        return safetensors_file.read(file, size)
    if head.startswith(b"PK"):
        return torch_files.read_zip(file, size)
    if head.startswith(b"\x80"):
        return torch_files.read_legacy(file, size)
    if graph_def.looks_like(head):
        return graph_def.read(memoryview(file.read()))
    text = head.lstrip(b"\xef\xbb\xbf \t\r\n")
    for start, what in _FOREIGN:
        if text.startswith(start):
            raise ValueError(what)
    if head[257:262] == b"ustar":
        raise ValueError("a tar archive: unpack it")
    raise ValueError(
        f"not a checkpoint that is read here (it begins with {head[:8]!r}): readable "
        "are safetensors, files of torch.save and torch.jit.save, frozen GraphDef .pb"
    )
