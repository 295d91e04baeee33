"""The arrays of an .npz, none of them made before its file is known to hold it.

`numpy.load` makes an array of the size that a header states, stops where that header
says, without comparing the checksum behind it, and raises what zipfile, zlib and its
own parser happen to raise. Here an array has exactly the bytes of its member, whose
checksum is compared, and what is wrong is a ValueError.
"""

import contextlib
import math
import struct
import zipfile
from collections.abc import Iterable, Iterator
from typing import BinaryIO

import numpy as np

_CHUNK = 1 << 16  # bytes read at once
# what a member may hold: this many bytes, or as many times those that it has in the
# file; images and statistics shrink to a tenth at best
_ALWAYS, _TIMES = 1 << 26, 100
_DESCRIPTOR = 24  # bytes
_KINDS = "biufcSU"  # numbers and text: whatever has no fields


class Npz:
    """An open .npz: the names of its arrays, and each array by its name."""

    def __init__(self, file: BinaryIO):
        """ValueError if the file is no .npz, or damaged."""
        with _damages():
            self._archive = zipfile.ZipFile(file)
            members = self._archive.infolist()
            _check_places(file, members, self._archive.start_dir)
            self._members = {m.filename.removesuffix(".npy"): m for m in members}
            if len(self._members) != len(members):
                raise ValueError("two of its arrays have one name")

    @property
    def names(self) -> list[str]:
        return list(self._members)

    def checksum(self, name: str) -> tuple[int, int] | None:
        """(CRC, bytes) that the file states of an array; None if it is not there."""
        member = self._members.get(name)
        return member and (member.CRC, member.file_size)

    def __getitem__(self, name: str) -> np.ndarray:
        """The array of a name; ValueError if it is not there, damaged or no array."""
        if name not in self._members:
            raise ValueError(f"it has no {name}, it holds {listed(self.names)}")
        with _damages(name):
            return self._read(self._members[name])

    def _read(self, member: zipfile.ZipInfo) -> np.ndarray:
        if member.flag_bits & 1:
            raise ValueError("it is encrypted: write it without a password")
        if member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            raise ValueError("its compression is none of numpy's")
        if member.file_size > max(_ALWAYS, _TIMES * member.compress_size):
            raise ValueError(
                f"it is said to have {member.file_size} bytes, from "
                f"{member.compress_size} in the file"
            )
        with self._archive.open(member) as stream:
            return _array(stream, member.file_size)


def read_npy(file: BinaryIO) -> np.ndarray:
    """The array of an .npy; ValueError if it is none, or damaged."""
    with _damages():
        size = file.seek(0, 2)
        file.seek(0)
        return _array(file, size)


def _array(stream: BinaryIO, size: int) -> np.ndarray:
    """The array of a stream of `size` bytes."""
    shape, fortran, dtype = _header(stream)
    count = size - stream.tell()
    if math.prod(shape) * dtype.itemsize != count:
        raise ValueError(f"{count} bytes for {dtype} {list(shape)[:8]}")
    data = np.empty(count, np.uint8)
    for start in range(0, count, _CHUNK):
        part = data[start : start + _CHUNK]
        if stream.readinto(part) != len(part):
            raise ValueError("it is cut short")
    if stream.read(1):  # reading the end compares the checksum of a member
        raise ValueError("it is longer than it says")
    return data.view(dtype).reshape(shape, order="F" if fortran else "C")


def _check_places(file: BinaryIO, members: list[zipfile.ZipInfo], end: int) -> None:
    """ValueError unless the members fill the file up to `end`, each under its own name:
    a directory that lost one, or its name, would make a smaller file of it."""
    position = 0
    for member in sorted(members, key=lambda m: m.header_offset):
        # behind a member may stand its checksum and sizes once more
        if not 0 <= member.header_offset - position <= (_DESCRIPTOR if position else 0):
            raise ValueError("a part of it is missing")
        file.seek(member.header_offset)
        header = file.read(30)
        lengths = struct.unpack("<HH", header[26:])  # of the name and the extra field
        if file.read(lengths[0]) != member.orig_filename.encode():
            raise ValueError("one of its arrays has two names")
        position = member.header_offset + 30 + sum(lengths) + member.compress_size
    if not 0 <= end - position <= _DESCRIPTOR:
        raise ValueError("a part of it is missing")


def _header(stream) -> tuple[tuple[int, ...], bool, np.dtype]:
    """(shape, whether in the order of Fortran, dtype)."""
    version = np.lib.format.read_magic(stream)
    read = {
        (1, 0): np.lib.format.read_array_header_1_0,
        (2, 0): np.lib.format.read_array_header_2_0,
    }
    if version not in read:
        raise ValueError(f"an array of format {version}")
    shape, fortran, dtype = read[version](stream)
    if dtype.hasobject:
        raise ValueError("Object arrays are not read: save numbers")
    if dtype.kind not in _KINDS or min(shape, default=0) < 0:
        raise ValueError(f"{str(dtype)[:60]} {list(shape)[:8]} is not read here")
    return shape, fortran, dtype


def listed(names: Iterable[str], most: int = 8) -> str:
    """The first names, shortened, for an error."""
    names = list(names)
    shown = ", ".join(name[:40] for name in names[:most]) or "nothing"
    return shown if len(names) <= most else f"{shown}, ... ({len(names)} in all)"


@contextlib.contextmanager
def _damages(name: str = "") -> Iterator[None]:
    """Whatever is raised by what is damaged, as a ValueError of one line."""
    try:
        yield
    except Exception as error:  # zipfile, zlib, tokenize and numpy raise many types
        first = " ".join(str(error)[:200].split())
        known = type(error) is ValueError
        reason = first if known else f"{type(error).__name__}: {first}"
        raise ValueError(f"{name[:40]}: {reason}" if name else reason) from error
