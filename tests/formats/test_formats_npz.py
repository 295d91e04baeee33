"""Arrays of an .npz: those that numpy wrote, and an error for what is no such file."""

import io
import struct
import tracemalloc
import zipfile

import numpy as np
import pytest

from progguide_jax.formats import npz

ARRAYS = {
    "images": np.arange(96, dtype=np.uint8).reshape(2, 4, 4, 3),
    "fortran": np.asfortranarray(np.arange(6.0).reshape(2, 3)),
    "scalar": np.array(2.5, np.float32),
    "empty": np.zeros((0, 3), np.int64),
    "text": np.array("about, with a ö"),
    "bytes": np.array([b"ab", b"c"]),
    "flags": np.array([True, False]),
    "big": np.arange(3, dtype=">i4"),
    "complex": np.array([1 + 2j]),
}


def packed(members, compression=zipfile.ZIP_STORED) -> io.BytesIO:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", compression) as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    return file


def member(array, **header) -> bytes:
    """An .npy of an array, whose header says something else."""
    said = repr(np.lib.format.header_data_from_array_1_0(array) | header).encode()
    said = said.ljust(117) + b"\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(said)) + said + array.tobytes()


def refusal(file) -> str:
    with pytest.raises(ValueError) as error:
        found = npz.Npz(file)
        for name in found.names:
            found[name]
    message = str(error.value)
    assert "\n" not in message and len(message) < 400
    return message


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_what_numpy_wrote(save):
    file = io.BytesIO()
    save(file, **ARRAYS)
    found = npz.Npz(file)
    assert found.names == list(ARRAYS)
    for name, array in ARRAYS.items():
        np.testing.assert_array_equal(found[name], array)
        assert found[name].dtype == array.dtype and found[name].flags.writeable
        assert found[name].flags.f_contiguous == array.flags.f_contiguous


@pytest.mark.parametrize(
    "header, words",
    [
        ({"shape": (2,)}, "32 bytes for float64"),  # numpy: other content
        ({"shape": (5,)}, "32 bytes for float64"),
        ({"shape": (10**9, 10**9)}, "32 bytes"),
        ({"shape": (-1,)}, "not read here"),
        ({"shape": 4}, "shape"),
        ({"shape": (4.0,)}, "shape"),
        ({"descr": "<V8"}, "not read here"),
        ({"descr": [("a", "<f8")]}, "not read here"),
        ({"descr": "|O"}, "Object arrays"),
        ({"descr": "no such type"}, "descr"),
        ({"fortran_order": 3}, "fortran_order"),
    ],
)
def test_headers_that_say_something_else(header, words):
    assert words in refusal(packed({"x.npy": member(np.arange(4.0), **header)}))


def test_a_single_array():
    for array in ARRAYS.values():
        file = io.BytesIO()
        np.save(file, array)
        found = npz.read_npy(file)
        np.testing.assert_array_equal(found, array)
        assert found.dtype == array.dtype
    good = member(np.arange(4.0))
    for bad in (
        b"",
        good[:-1],
        good + b"x",
        b"PK" + good,
        good.replace(b"(4,)", b"(8,)"),
    ):
        with pytest.raises(ValueError):
            npz.read_npy(io.BytesIO(bad))


def test_members_that_are_no_arrays():
    array = member(np.arange(4.0))
    assert "it has no labels" in refusal_of("labels", packed({"x.npy": array}))
    assert "magic" in refusal(packed({"notes.txt": b"words, not numbers"}))
    assert "compression" in refusal(packed({"x.npy": array}, zipfile.ZIP_LZMA))
    file = packed({"x.npy": array})
    for place in (6, file.getvalue().index(b"PK\x01\x02") + 8):  # the flags, twice
        file.getbuffer()[place] |= 1
    assert "encrypted" in refusal(file)
    with pytest.warns(UserWarning, match="Duplicate"):
        twice = io.BytesIO()
        with zipfile.ZipFile(twice, "w") as archive:
            archive.writestr("x.npy", array)
            archive.writestr("x.npy", member(np.arange(9.0)))
    assert "one name" in refusal(twice)


def refusal_of(name, file) -> str:
    with pytest.raises(ValueError) as error:
        npz.Npz(file)[name]
    return str(error.value)


def test_a_bomb_is_refused_before_it_is_unpacked():
    """70 MB of zeros in 70 kB; the size that is stated is compared first."""
    zeros = bytes(7 * 10**7)
    file = packed({"x.npy": zeros}, zipfile.ZIP_DEFLATED)
    del zeros
    tracemalloc.start()
    assert "70000000 bytes" in refusal(file)
    assert tracemalloc.get_traced_memory()[1] < 10**6
    tracemalloc.stop()


def test_a_directory_that_lost_a_member_or_its_name():
    """numpy would read a file of one array: no error says that there were two."""
    whole = packed({k: member(np.arange(4.0)) for k in ("a.npy", "b.npy")}).getvalue()
    place = whole.rindex(b"PK\x01\x02")
    renamed = bytearray(whole)
    renamed[whole.rindex(b"b.npy")] = ord("c")
    assert "two names" in refusal(io.BytesIO(renamed))
    end = bytearray(whole[whole.index(b"PK\x05\x06") :])
    end[8:16] = struct.pack("<HHI", 1, 1, place - whole.index(b"PK\x01\x02"))
    lost = io.BytesIO(whole[:place] + end)
    with np.load(lost) as found:
        assert found.files == ["a"]
    assert "a part of it is missing" in refusal(lost)


def test_every_cut_and_every_missing_part_is_refused():
    whole = packed({k: member(np.arange(4.0)) for k in ("a.npy", "b.npy")}).getvalue()
    for size in range(len(whole)):
        refusal(io.BytesIO(whole[:size]))
    for start in range(0, len(whole) - 20, 7):
        refusal(io.BytesIO(whole[:start] + whole[start + 20 :]))


def test_names_in_an_error_are_few_and_short():
    assert npz.listed([]) == "nothing"
    assert npz.listed(["x" * 99, "y"]) == f"{'x' * 40}, y"
    assert npz.listed(map(str, range(99))).endswith("7, ... (99 in all)")
