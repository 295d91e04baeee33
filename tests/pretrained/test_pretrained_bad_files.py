"""Damaged, foreign and hostile files: one line that names them, and nothing is run."""

import gzip
import io
import os
import pathlib
import pickle
import random
import struct
import tarfile
import zipfile

import checkpoint_files as files
import numpy as np
import pytest

from progguide_jax.pretrained import locate, readers

GOLDEN = pathlib.Path(__file__).parents[1] / "golden"
CHECKPOINTS = [
    "checkpoint_zip.pt",
    "checkpoint_legacy.pt",
    "checkpoint_script.pt",
    "checkpoint.safetensors",
    "graph_def.pb",
]


def refusal(path) -> str:
    """The one line with which a file is refused."""
    with pytest.raises(ValueError) as caught:
        readers.read(path)
    message = str(caught.value)
    assert message.startswith(str(path))
    assert "\n" not in message
    return message.removeprefix(f"{path}: ")


class Harm:
    """Creates a file when it is unpickled."""

    def __init__(self, path):
        self.path = str(path)

    def __reduce__(self):
        return os.mkdir, (self.path,)


@pytest.mark.parametrize("protocol", range(6))
@pytest.mark.parametrize("form", ["plain", "legacy", "zip", "constants"])
def test_nothing_is_executed(tmp_path, form, protocol):
    """The payload does its harm in Python's own reader, not in ours."""
    payload = pickle.dumps({"a": Harm(tmp_path / "harm")}, protocol)
    if form == "plain":
        (tmp_path / "x").write_bytes(payload)
    elif form == "legacy":
        parts = map(files.dump, [0x1950A86A20F9469CFC6C, 1001, {}])
        (tmp_path / "x").write_bytes(b"".join(parts) + payload)
    elif form == "zip":
        files.write_zip(tmp_path / "x", {}, {}, **{"data.pkl": payload})
    else:
        files.write_zip(tmp_path / "x", {}, {}, **{"constants.pkl": payload})
    message = refusal(tmp_path / "x")
    if form != "plain" or protocol >= 2:  # older pickles are not even taken for one
        assert f"{os.mkdir.__module__}.mkdir" in message
    assert not (tmp_path / "harm").exists()
    pickle.loads(payload)
    assert (tmp_path / "harm").exists()


FLOATS = np.float32([5, 6]).tobytes()
MEMORY = files.storage("0", "float32", 2)
REBUILD = files.Global("torch._utils", "_rebuild_tensor_v2")


def allowed_twice(*memories):
    return {str(i): files.tensor(m, 0, (1,), (1,)) for i, m in enumerate(memories)}


@pytest.mark.parametrize(
    ("tree", "message"),
    [
        (files.Global("os", "system"), "'os.system'"),
        (files.Global("builtins", "eval"), "'builtins.eval'"),
        (files.Global("torch", "load"), "'torch.load'"),
        (files.Global("torch.nn.modules.linear", "Linear"), "linear.Linear'"),
        (files.Global("torch._utils", "_rebuild_qtensor"), "_rebuild_qtensor'"),
        (files.Global("torch", "ComplexFloatStorage"), "ComplexFloatStorage'"),
        (files.Global("collections", "OrderedDict.fromkeys"), "fromkeys'"),
        (files.Global("__torch__", "A").module, "holds no tensors"),
        (files.Persistent("x"), "no storage"),
        (files.Persistent(("module", 1, 2, 3)), "no storage"),
        (files.storage("0", "float32", -1), "no storage"),
        (allowed_twice(MEMORY, files.storage("0", "int32", 2)), "used as two types"),
        (allowed_twice(files.storage("1", "float32", 2)), "it has no archive/data/1"),
        (allowed_twice(files.storage("0", "float32", 3)), "has 8 bytes"),
        (allowed_twice(files.storage("0", "float16", 2)), "has 8 bytes"),
        # outside the storage
        (files.tensor(MEMORY, 0, (3,), (1,)), "reaches out"),
        (files.tensor(MEMORY, 2, (), ()), "reaches out"),
        (files.tensor(MEMORY, 1, (2,), (1,)), "reaches out"),
        (files.tensor(MEMORY, 0, (2, 2), (1, 1)), "reaches out"),
        (files.tensor(MEMORY, 0, (2,), (2**62,)), "reaches out"),
        (files.tensor(MEMORY, -1, (1,), (1,)), "offset -1"),
        (files.tensor(MEMORY, 1, (2,), (-1,)), "stride (-1,)"),
        (files.tensor(MEMORY, 0, (-1,), (1,)), "size (-1,)"),
        (files.tensor(MEMORY, 0, (1,), (1, 1)), "stride (1, 1)"),
        (files.tensor(MEMORY, 0, (1.0,), (1,)), "no integer of 64 bits"),
        (files.tensor("0", 0, (1,), (1,)), "size (1,)"),
        (files.tensor(MEMORY, 0, (1,) * 99, (1,) * 99), "99"),
        (files.Call(REBUILD, (MEMORY, 0, (1,), (1,), False, {}, {"neg": True})), "neg"),
        (files.Call(REBUILD, ()), "missing"),
        (files.Call(3, ()), "not callable"),
        # no state may change what is allowed
        (files.Instance(files.Global("torch", "FloatStorage"), {}), "cannot read"),
        ({"a": files.tensor(MEMORY, 0, (1,), (1,)), "n": 1, "a.b": None} |
         {"a": {"b": files.tensor(MEMORY, 0, (1,), (1,))}} |
         {"a.b": files.tensor(MEMORY, 0, (1,), (1,))}, "two tensors have the name"),
        ({"n": 1}, "holds no tensors"),
        ([files.tensor(MEMORY, 0, (1,), (1,))], "holds no tensors"),
    ],
)  # fmt: skip
def test_bad_pickles(tmp_path, tree, message):
    files.write_zip(tmp_path / "x", tree, {"0": FLOATS})
    assert message in refusal(tmp_path / "x")


def test_no_pickle_alters_the_next_one(tmp_path):
    """BUILD sets attributes; on what all pickles share it must fail or do nothing."""
    shared = [
        ("collections", "OrderedDict"),
        ("torch._utils", "_rebuild_tensor_v2"),
        ("torch", "FloatStorage"),
        ("torch", "Size"),
        ("torch", "float32"),
        ("__torch__", "A"),
    ]
    state = {"__doc__": "changed", "function": 1, "dtype": "int8", "items": 2}
    for name in shared:
        for value in (state, (None, state)):
            code = files.code(files.Global(*name)) + files.code(value) + b"b."
            entry = {"data.pkl": b"\x80\x02" + code}
            files.write_zip(tmp_path / "x", None, {}, **entry)
            refusal(tmp_path / "x")
    tree = allowed_twice(MEMORY)
    files.write_zip(tmp_path / "x", tree, {"0": FLOATS})
    assert readers.read(tmp_path / "x")["0"].tolist() == [5]


@pytest.mark.parametrize(
    ("opcodes", "message"),
    [
        (b"}r\xff\xff\xff\x7f.", "memo index 2147483647"),  # would fill 32 GiB
        (b"}p2147483647\n.", "memo index 2147483647"),
        (b"}q\x00(K\x01h\x00u.", "nested without end"),
        (b"X\xff\xff\xff\x7fabc.", "cannot read its pickle"),
        (b"\x8e" + b"\xff" * 7 + b"\x7fabc.", "cannot read its pickle"),
        (b"\x82\x01.", "cannot read its pickle"),
        (b"}", "cannot read its pickle"),
        (b".", "cannot read its pickle"),
        (b"", "cannot read its pickle"),
        (b"}q\x00" + b"".join(b"}q%c(K\x00h%cK\x01h%cu" % (i, i - 1, i - 1)
                              for i in range(1, 40)) + b".", "nested without end"),
    ],
)  # fmt: skip
def test_small_pickles_with_large_claims(tmp_path, opcodes, message):
    payload = b"\x80\x02" + opcodes
    files.write_zip(tmp_path / "x", None, {}, **{"data.pkl": payload})
    assert message in refusal(tmp_path / "x")


def test_an_expanded_tensor_takes_no_memory(tmp_path):
    """2^50 values that are one: a view."""
    tree = {"a": files.tensor(MEMORY, 1, (2**25, 2**25), (0, 0))}
    files.write_zip(tmp_path / "x", tree, {"0": FLOATS})
    found = readers.read(tmp_path / "x")["a"]
    assert found.shape == (2**25, 2**25) and found[-1, -1] == 6
    (tmp_path / "y").write_bytes(files.constant("a", 1, (2**25, 2**25)))
    assert readers.read(tmp_path / "y")["a"].shape == (2**25, 2**25)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "empty"),
        (b"version https://git-lfs.github.com/spec/v1\noid", "a git-lfs pointer"),
        (b"\n\n<!DOCTYPE html><html>", "a web page"),
        (b"<?xml version='1.0'?><Error>AccessDenied", "a web page or XML"),
        (b'{"metadata": {}, "weight_map": {}}', "JSON"),
        (gzip.compress(b"x", mtime=0), "a gzip archive: unpack it"),
        (b"\x89HDF\r\n\x1a\n", "HDF5"),
        (b"\x93NUMPY\x01\x00", "a numpy array"),
        (b"hello, world", "begins with b'hello, w'"),
        (pickle.dumps([1, 2]), "a pickle, but not a file of torch.save"),
        (files.dump(0x1950A86A20F9469CFC6C) + files.dump(1002), "version 1002"),
        (b"PK\x03\x04 and no more", "truncated or damaged zip archive"),
    ],
)
def test_files_that_are_something_else(tmp_path, content, message):
    (tmp_path / "x").write_bytes(content)
    assert message in refusal(tmp_path / "x")


def test_archives_that_are_something_else(tmp_path):
    np.savez(tmp_path / "x.npz", a=1)
    assert "without the data.pkl of torch: it holds a.npy" in refusal(
        tmp_path / "x.npz"
    )
    with tarfile.open(tmp_path / "x.tar", "w") as archive:
        archive.addfile(tarfile.TarInfo("a"), io.BytesIO())
    assert "a tar archive" in refusal(tmp_path / "x.tar")
    with pytest.raises(ValueError, match="is a folder"):
        readers.read(tmp_path)
    with pytest.raises(FileNotFoundError, match="missing does not exist"):
        readers.read(tmp_path / "missing")


def test_a_graph_that_leaves_out_too_much(tmp_path):
    """Two values of 2^27, or of 2^23 in each of three constants: 3 GB, and 0.6."""
    two = files.field(5, np.array([1, 2], "<f4").tobytes())
    path = tmp_path / "x"
    path.write_bytes(files.constant("a", 1, (2**27,), two))
    assert "2 values for float32 [134217728], the rest left out" in refusal(path)
    path.write_bytes(b"".join(files.constant(n, 1, (2**23,), two) for n in "abc"))
    assert "the constant c: 2 values for float32 [8388608]" in refusal(path)


def test_an_error_has_few_characters(tmp_path):
    entry = {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}
    path = tmp_path / "x"
    header = {"n" * 10**5: entry, "m": entry}
    path.write_bytes(files.safetensors(header, bytes(4)))
    assert len(refusal(path)) < 500 and refusal(path).endswith(
        "overlaps the one before"
    )
    entry = {"dtype": "F32", "shape": [2**62] * 10**4, "data_offsets": [0, 4]}
    path.write_bytes(files.safetensors({"n": entry}, bytes(4)))
    assert len(refusal(path)) < 500 and "has shape" in refusal(path)


def test_a_pipe_is_no_checkpoint(tmp_path):
    os.mkfifo(tmp_path / "x")
    assert "is no file" in refusal(tmp_path / "x")
    with pytest.raises(ValueError, match="no file of weights"):
        locate.find([], str(tmp_path / "x"))


def test_damaged_archives(tmp_path):
    path = tmp_path / "x"
    tree = {"a": files.tensor(MEMORY, 0, (2,), (1,))}
    files.write_zip(path, tree, {"0": FLOATS})
    data = path.read_bytes()
    path.write_bytes(data.replace(FLOATS, np.float32([5, 7]).tobytes()))
    assert "CRC" in refusal(path)
    files.write_zip(path, tree, {"0": FLOATS}, byteorder=b"middle")
    assert "byte order is b'middle'" in refusal(path)
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("x/data.pkl", files.dump(tree))
    assert "compressed" in refusal(path)
    # a directory said to lie elsewhere, so that entries begin before the file
    files.write_zip(path, tree, {"0": FLOATS})
    data = bytearray(path.read_bytes())
    start = int.from_bytes(data[-6:-2], "little")
    data[-6:-2] = (start + 1000).to_bytes(4, "little")
    path.write_bytes(data)
    assert "truncated or damaged zip archive" in refusal(path)
    # an entry that claims more than the file has
    files.write_zip(path, tree, {"0": FLOATS})
    sizes = struct.pack("<II", 8, 8)
    path.write_bytes(path.read_bytes().replace(sizes, struct.pack("<II", 2**31, 2**31)))
    assert "larger than the file" in refusal(path)


def test_damaged_old_files(tmp_path):
    memory = files.storage("0", "float32", 2, legacy=True)
    tree = {"a": files.tensor(memory, 0, (2,), (1,))}
    path = tmp_path / "x"
    files.write_legacy(path, tree, {"0": (3, FLOATS)})
    assert "storage 0 has 3 values, not 2" in refusal(path)
    files.write_legacy(path, tree, {"1": (2, FLOATS)})
    assert "its storages are not those" in refusal(path)
    files.write_legacy(path, tree, {})
    assert "its storages are not those" in refusal(path)
    huge = files.storage("0", "float32", 2**40, legacy=True)
    tree = {"a": files.tensor(huge, 0, (2,), (1,))}
    files.write_legacy(path, tree, {"0": (2**40, FLOATS)})
    assert "truncated" in refusal(path)
    view = files.storage("0", "float32", 2, legacy=True).id[:-1] + (("1", 0, 1),)
    tree = {"a": files.tensor(files.Persistent(view), 0, (1,), (1,))}
    files.write_legacy(path, tree, {"0": (2, FLOATS)})
    assert "no storage" in refusal(path)


def entry(dtype="U8", shape=(4,), offsets=(0, 4), **others):
    return {"dtype": dtype, "shape": list(shape), "data_offsets": list(offsets)}


@pytest.mark.parametrize(
    ("header", "message"),
    [
        ({"a": entry(offsets=(0, 5), shape=(5,))}, "truncated"),
        ({"a": entry(offsets=(0, 2**50), shape=(2**50,))}, "truncated"),
        ({"a": entry(offsets=(1, 4), shape=(3,))}, "'a' follows a gap"),
        ({"a": entry(), "b": entry(offsets=(2, 4), shape=(2,))}, "'b' overlaps"),
        ({"a": entry(offsets=(0, 3), shape=(3,))}, "1 bytes after the last tensor"),
        ({"a": entry(shape=(3,))}, "'a' U8 [3] has 4 bytes"),
        ({"a": entry("F32", (4,))}, "'a' F32 [4] has 4 bytes"),
        ({"a": entry("F8_E4M3")}, "dtype 'F8_E4M3'"),
        ({"a": entry(["F32"])}, "dtype ['F32']"),
        ({"a": entry(shape=(-4, -1))}, "shape [-4, -1]"),
        ({"a": entry(shape=(4.0,))}, "shape [4.0]"),
        ({"a": entry(offsets=(4, 0))}, "data_offsets [4, 0]"),
        ({"a": entry(offsets=(0, True))}, "data_offsets"),
        ({"a": entry(offsets=(0,))}, "data_offsets"),
        ({"a": {}}, "data_offsets None"),
        ({"a": 3}, "data_offsets None"),
        (b'{"a": 1, "a": 1}', "a name occurs twice"),
        (b"{" + b'"a":[' * 100_000, "damaged safetensors header"),
        (b"{]", "damaged safetensors header"),
        (b"{\xff\xfe", "damaged safetensors header"),
    ],
)
def test_damaged_safetensors(tmp_path, header, message):
    (tmp_path / "x").write_bytes(files.safetensors(header, b"1234"))
    assert message in refusal(tmp_path / "x")


def test_a_safetensors_header_longer_than_the_file(tmp_path):
    (tmp_path / "x").write_bytes(struct.pack("<Q", 1000) + b'{"a": ')
    assert "a safetensors header of 1000 bytes in a file of 14" in refusal(
        tmp_path / "x"
    )


FLOAT = files.field(4, struct.pack("<ff", 1, 2))


@pytest.mark.parametrize(
    ("graph", "message"),
    [
        (files.constant("a", 1, (3,), FLOAT), "the constant a: 8 bytes for float32"),
        (files.constant("a", 8, (1,), FLOAT), "the constant a: type 8"),
        (files.constant("a", 1, (-1,), FLOAT), "the constant a: its shape is"),
        (files.constant("a", 3, (1,), files.field(7, 1), files.field(7, 2)),
         "2 values for int32"),
        (files.constant("a", 3, (2**40,), files.field(7, 1), files.field(7, 2)),
         "2 values for int32"),
        (files.constant("a", 1, (1,), files.field(5, 2**40)), "integers for float32"),
        (files.constant("a", 1, (1,), files.field(5, b"12")), "the constant a"),
        (files.constant("a", 1, (2,), FLOAT) * 2, "two constants have the name a"),
        (files.constant("a", 1, (2,), FLOAT) + files.field(9, b"x"), "field 9"),
        (files.constant("a", 1, (2,), FLOAT)[:-1], "truncated"),
        (files.constant("a", 7, (1,), files.field(8, b"text")), "holds no tensors"),
    ],
)  # fmt: skip
def test_damaged_graphs(tmp_path, graph, message):
    (tmp_path / "x").write_bytes(graph)
    assert message in refusal(tmp_path / "x")


@pytest.mark.parametrize("name", CHECKPOINTS)
def test_truncated_files(tmp_path, name):
    """Every prefix is refused; a graph's may be a smaller graph, cut between nodes."""
    data = (GOLDEN / name).read_bytes()
    whole = readers.read(GOLDEN / name)
    path = tmp_path / "x"
    for length in [*range(0, len(data), 101), len(data) - 1]:
        path.write_bytes(data[:length])
        if name != "graph_def.pb":
            refusal(path)
            continue
        try:
            assert len(readers.read(path)) < len(whole)
        except ValueError:
            refusal(path)


@pytest.mark.parametrize("name", CHECKPOINTS)
def test_flipped_bytes(tmp_path, name):
    """A damaged file is read or refused, with no other kind of error."""
    data = (GOLDEN / name).read_bytes()
    draw = random.Random(name)
    path = tmp_path / "x"
    for _ in range(50):
        damaged = bytearray(data)
        for _ in range(draw.choice([1, 1, 4])):
            damaged[draw.randrange(len(data))] = draw.randrange(256)
        path.write_bytes(damaged)
        try:
            readers.read(path)
        except ValueError:
            refusal(path)
