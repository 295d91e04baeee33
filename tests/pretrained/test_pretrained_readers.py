"""Checkpoints are read as the libraries that wrote them read them."""

import pathlib
import pickle
import struct
import subprocess
import sys
import zipfile

import checkpoint_files as files
import numpy as np
import pytest

from progguide_jax.pretrained import readers

GOLDEN = pathlib.Path(__file__).parents[1] / "golden"


def golden(name: str) -> dict[str, np.ndarray]:
    with np.load(GOLDEN / "checkpoint.npz") as data:
        prefix = f"{name}/"
        return {
            k.removeprefix(prefix): data[k] for k in data.files if k.startswith(prefix)
        }


def assert_same(found, expected):
    """The same names, dtypes, shapes and bits."""
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        assert found[name].dtype == value.dtype, name
        assert found[name].shape == value.shape, name
        assert found[name].tobytes() == value.tobytes(), name


def some(rng, dtype: str, shape) -> np.ndarray:
    """Random bits of a dtype, infinities and NaN among them."""
    if dtype == "bool":
        return rng.integers(0, 2, shape).astype(bool)
    size = int(np.prod(shape)) * np.dtype(dtype).itemsize
    return np.frombuffer(rng.bytes(size), dtype).reshape(shape)


@pytest.mark.parametrize(
    ("file", "expected"),
    [
        ("checkpoint_zip.pt", "torch"),
        ("checkpoint_legacy.pt", "torch"),
        ("checkpoint_script.pt", "script"),
        ("checkpoint.safetensors", "safetensors"),
    ],
)
def test_files_of_torch_and_safetensors(file, expected):
    """checkpoint.npz is what torch itself reads (make_checkpoints.py)."""
    assert_same(readers.read(GOLDEN / file), golden(expected))


def test_the_content_decides_not_the_name(tmp_path):
    for file in GOLDEN.glob("checkpoint*.*"):
        if file.suffix in (".pt", ".safetensors"):
            copy = tmp_path / "weights.bin"
            copy.write_bytes(file.read_bytes())
            assert_same(readers.read(copy), readers.read(file))


def test_a_graph_of_tensorflow():
    """graph_def.npz is what tf.make_ndarray gives (make_graph_def.py)."""
    with np.load(GOLDEN / "graph_def.npz") as data:
        assert_same(readers.read(GOLDEN / "graph_def.pb"), dict(data))


def strided(base: np.ndarray) -> dict[str, np.ndarray]:
    """Views of base [4,6] such as PyTorch may save."""
    return {
        "whole": base,
        "transposed": base.T,
        "row": base[2],
        "column": base[:, 5],
        "steps": base[1::2, ::3],
        "last": base[3:, 5:],
        "scalar": base[3:, 5:].reshape(()),
        "expanded": np.broadcast_to(base[1, 2:3], (7, 3)),
        "empty": base[:0],
    }


@pytest.mark.parametrize("dtype", files.STORAGES)
@pytest.mark.parametrize("legacy", [False, True])
def test_torch_round_trip(tmp_path, dtype, legacy):
    """Every dtype and stride, bit for bit; numpy's own views are the oracle."""
    base = some(np.random.default_rng(0), dtype, (4, 6))
    memory = files.storage("7", dtype, base.size, legacy)
    expected = {k: np.asarray(v) for k, v in strided(base).items()}
    tree = {k: files.tensor(memory, *files.views(base, v)) for k, v in expected.items()}
    if legacy:
        files.write_legacy(tmp_path / "x", tree, {"7": (base.size, base.tobytes())})
    else:
        files.write_zip(tmp_path / "x", tree, {"7": base.tobytes()})
    assert_same(readers.read(tmp_path / "x"), expected)


@pytest.mark.parametrize("dtype", files.SAFE_NAMES)
def test_safetensors_round_trip(tmp_path, dtype):
    rng = np.random.default_rng(1)
    expected = {"a": some(rng, dtype, (2, 3)), "b": some(rng, dtype, ())}
    header, position = {"__metadata__": {"format": "np"}}, 0
    for name, value in expected.items():
        header[name] = {
            "dtype": files.SAFE_NAMES[dtype],
            "shape": value.shape,
            "data_offsets": [position, position := position + value.nbytes],
        }
    data = b"".join(v.tobytes() for v in expected.values())
    (tmp_path / "x").write_bytes(files.safetensors(header, data))
    assert_same(readers.read(tmp_path / "x"), expected)


def test_a_safetensors_header_may_have_any_length(tmp_path):
    """Its length comes first, and some begin as zip archives and pickles do."""
    entry = {"dtype": "U8", "shape": [1], "data_offsets": [0, 1]}
    shortest = len(files.safetensors({"__metadata__": {"": ""}, "a": entry})) - 8
    for start in b"\n", b"{", b"<", b"\x80", b"PK":
        length = int.from_bytes(start, "little")
        length += 256 * (length < shortest)
        note = {"": "x" * (length - shortest)}
        data = files.safetensors({"__metadata__": note, "a": entry}, b"7")
        assert int.from_bytes(data[:8], "little") == length
        (tmp_path / "x").write_bytes(data)
        assert readers.read(tmp_path / "x")["a"].tolist() == [55]


def test_bfloat16_is_read_exactly(tmp_path):
    """All 65,536 of them: the two upper bytes of the float32 are the ones stored."""
    bits = np.arange(2**16, dtype=np.uint16)
    data = bits.astype("<u2").tobytes()
    upper = np.stack([0 * bits, bits], axis=1).astype("<u2").view("<f4").reshape(-1)
    entry = {"dtype": "BF16", "shape": [2**16], "data_offsets": [0, len(data)]}
    (tmp_path / "a").write_bytes(files.safetensors({"x": entry}, data))
    memory = files.storage("0", "bfloat16", 2**16)
    tree = {"x": files.tensor(memory, 0, (2**16,), (1,))}
    files.write_zip(tmp_path / "b", tree, {"0": data})
    listed = files.field(13, b"".join(map(files.varint, bits.tolist())))
    (tmp_path / "c").write_bytes(files.constant("x", 14, (2**16,), listed))
    for name in "abc":
        assert_same(readers.read(tmp_path / name), {"x": upper})


def test_other_byte_orders(tmp_path):
    values = np.array([1, -2, 3], ">i4")
    memory = files.storage("0", "int32", 3)
    tree = {"x": files.tensor(memory, 0, (3,), (1,))}
    files.write_zip(tmp_path / "x", tree, {"0": values.tobytes()}, byteorder=b"big")
    assert readers.read(tmp_path / "x")["x"].tolist() == [1, -2, 3]
    assert readers.read(tmp_path / "x")["x"].dtype == np.int32
    old = {"0": values.astype("<i4").tobytes()}
    files.write_zip(tmp_path / "y", tree, old, byteorder=None)  # torch before 2.1
    assert readers.read(tmp_path / "y")["x"].tolist() == [1, -2, 3]


def one(value: float, key: str = "0") -> files.Call:
    return files.tensor(files.storage(key, "float32", 2), int(value), (1,), (1,))


@pytest.mark.parametrize(
    ("tree", "names"),
    [
        ({"a": one(0), "n": 3, "s": "x", "none": None, "f": 0.5}, ["a"]),
        ({"a": {"b": {"c": one(0)}}, "d": {1: one(1)}}, ["a.b.c", "d.1"]),
        ({"state_dict": {"a": one(0)}, "optimizer": {"m": one(1)}}, ["a"]),
        ({"model": {"a": {"b": one(0)}}, "ema": {"a": one(1)}}, ["a.b"]),
        ({"state_dict": {"a": one(0)}, "model": {"b": one(1)}}, ["a"]),
        # not a training checkpoint: these are its modules
        ({"model": {"a": one(0)}, "head": one(1)}, ["model.a", "head"]),
        ({"state_dict": {"n": 1}, "net": {"a": one(0)}}, ["net.a"]),
        # lists are left out with what they hold
        ({"a": one(0), "list": [one(1)], "tuple": (one(1),)}, ["a"]),
        (files.Call(files.Global("collections", "OrderedDict"), ([["a", one(0)]],)),
         ["a"]),
        (one(0), [""]),
        ({"p": files.Call(files.Global("torch._utils", "_rebuild_parameter"),
                          (one(0), True, {})),
          "dtype": files.Global("torch", "float16"),
          "size": files.Call(files.Global("torch", "Size"), ((1, 2),))}, ["p"]),
        (files.Instance(files.Global("__torch__.a.b", "Net"),
                        {"training": True, "conv": files.Instance(
                            files.Global("__torch__", "Conv"), {"w": one(1)})}),
         ["conv.w"]),
    ],
)  # fmt: skip
def test_names_of_nested_tensors(tmp_path, tree, names):
    files.write_zip(tmp_path / "x", tree, {"0": np.float32([5, 6]).tobytes()})
    assert list(readers.read(tmp_path / "x")) == names


def test_storages_that_no_named_tensor_uses_are_not_read(tmp_path):
    """A damaged optimizer does not spoil the weights; the old format skips it."""
    data = np.float32([5, 6]).tobytes()
    tree = {"state_dict": {"a": one(1)}, "optimizer": {"m": one(0, "1")}}
    files.write_zip(tmp_path / "x", tree, {"0": data})
    assert readers.read(tmp_path / "x")["a"].tolist() == [6]

    def old(key):
        memory = files.storage(key, "float32", 2, legacy=True)
        return files.tensor(memory, 1, (1,), (1,))

    tree = {"state_dict": {"a": old("0")}, "optimizer": {"m": old("1")}}
    stored = {"1": (2, b"\xff" * 8), "0": (2, data)}
    files.write_legacy(tmp_path / "y", tree, stored)
    assert_same(readers.read(tmp_path / "y"), {"a": np.float32([6])})


def test_lists_of_values_in_a_graph(tmp_path):
    """Unpacked, packed, shortened and absent values (tensor.proto)."""
    fixed = struct.pack("<f", 1.5)
    three = b"".join(files.varint(5 << 3 | 5) + fixed for _ in range(3))
    cases = {
        "unpacked": (files.constant("x", 1, (3,), three), np.float32([1.5] * 3)),
        "filled": (files.constant("x", 1, (2, 2), files.field(5, fixed)),
                   np.full((2, 2), 1.5, np.float32)),
        "last repeated": (files.constant("x", 1, (2, 2),
                                         files.field(5, struct.pack("<ff", 1, 2))),
                          np.float32([[1, 2], [2, 2]])),
        "zeros": (files.constant("x", 9, (2,)), np.zeros(2, np.int64)),
        "varints": (files.constant("x", 3, (2,), files.field(7, -3), files.field(7, 9)),
                    np.int32([-3, 9])),
    }  # fmt: skip
    for data, expected in cases.values():
        (tmp_path / "x").write_bytes(data)
        assert_same(readers.read(tmp_path / "x"), {"x": expected})


def test_a_node_may_have_any_length(tmp_path):
    """A GraphDef begins with a line feed and a length, which may look like text."""
    for n in range(1, 140):
        (tmp_path / "x").write_bytes(files.constant("x" * n, 1, ()))
        assert list(readers.read(tmp_path / "x")) == ["x" * n]


def test_neither_torch_nor_jax_is_imported():
    program = (
        "import sys; from progguide_jax.pretrained import readers; "
        f"readers.read({str(GOLDEN / 'checkpoint_zip.pt')!r}); "
        "print({'jax', 'torch', 'flax', 'tensorflow'} & set(sys.modules))"
    )
    run = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert run.stdout.strip() == "set()"


@pytest.mark.slow
def test_against_the_libraries(tmp_path):
    """Fresh files of the installed torch and safetensors."""
    torch = pytest.importorskip("torch")
    library = pytest.importorskip("safetensors.torch")
    torch.manual_seed(2)
    layer = torch.nn.TransformerEncoderLayer(8, 2, 16)
    state = layer.state_dict() | {"b": torch.randn(5).bfloat16()}
    state = {k: v.clone() for k, v in state.items()}
    expected = {k: v.float().numpy() for k, v in state.items()}
    torch.save(state, tmp_path / "zip")
    torch.save(state, tmp_path / "old", _use_new_zipfile_serialization=False)
    torch.save(state, tmp_path / "four", pickle_protocol=4)
    library.save_file(state, tmp_path / "safe")
    for name in ("zip", "old", "four"):
        assert_same(readers.read(tmp_path / name), expected)
    assert_same(readers.read(tmp_path / "safe"), dict(sorted(expected.items())))
    torch.jit.save(torch.jit.script(layer.eval()), tmp_path / "script")
    found = readers.read(tmp_path / "script")
    assert_same(
        {k: found[k] for k in layer.state_dict()},
        {k: expected[k] for k in layer.state_dict()},
    )


def test_the_writers_of_these_tests_write_what_python_reads(tmp_path):
    """The oracle of the hand-made files: pickle and zipfile of Python."""
    value = {"a": [1, -(2**70), 255, 0.5], "b": (None, True, "é"), 3: {}}
    assert pickle.loads(files.dump(value)) == value
    files.write_zip(tmp_path / "x", value, {"0": b"abc"})
    with zipfile.ZipFile(tmp_path / "x") as archive:
        assert archive.testzip() is None
        assert archive.read("archive/data/0") == b"abc"
