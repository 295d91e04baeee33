"""Small pickles that say much: refused in little time and memory."""

import collections
import io
import pickle
import subprocess
import sys

import checkpoint_files as files
import numpy as np
import pytest

from progguide_jax.pretrained import convert, readers, torch_pickle

READ = """
import os, resource, sys
import numpy as np
from progguide_jax.pretrained import convert, readers

def read(path):
    resource.setrlimit(resource.RLIMIT_AS, (2**31, 2**31))
    resource.setrlimit(resource.RLIMIT_CPU, (10, 10))
    like = {"x": np.zeros(6), "y": np.zeros(6)}
    shapes = {"x": np.ravel, "y": np.ones_like}
    rules = [convert.Renaming("a", name, shape) for name, shape in shapes.items()]
    try:
        convert.convert(readers.read(path), rules, like)
    except ValueError as error:
        print(error, flush=True)

for line in sys.stdin:
    if not os.fork():
        read(line.strip())
        os._exit(0)
    print("status", os.wait()[1], flush=True)
"""


@pytest.fixture(scope="module")
def limited():
    """path -> how it is refused, in 2 GiB of address space and 10 s of one core."""
    process = subprocess.Popen(
        [sys.executable, "-c", READ],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={"OPENBLAS_NUM_THREADS": "1", "PYTHONPATH": ":".join(sys.path)},
    )

    def refusal(path) -> str:
        process.stdin.write(f"{path}\n")
        process.stdin.flush()
        lines = [process.stdout.readline()]
        while lines[-1] and not lines[-1].startswith("status"):
            lines.append(process.stdout.readline())
        assert lines[1:] == ["status 0\n"], lines
        assert len(lines[0]) < 1000
        return lines[0]

    with process:
        yield refusal
        process.stdin.close()


# A tuple of two of a tuple of two ...: 2^60 of the innermost.
DOUBLED = b")" + b"q\x00h\x00\x86" * 60
DEEP = b")" + b"\x85" * 150_000
MEMORY = files.storage("0", "float32", 2)
ROWS = b"](" + b"N" * 30_000 + b"eq\x01"
HUGE = b"\x8b\x00\x00\x10\x00" + b"\x7f" * 2**20 + b"q\x01"


def jit(kind: str) -> bytes:
    return files.code(files.Global("torch.jit._pickle", f"build_{kind}list"))


def rebuild(*arguments: bytes) -> bytes:
    """A call of _rebuild_tensor_v2; arguments: opcodes."""
    name = files.code(files.Global("torch._utils", "_rebuild_tensor_v2"))
    return name + b"(" + b"".join(arguments) + b"tR"


def many(value: bytes, function: bytes, first: bytes = b"") -> bytes:
    """first, then a list of 30,000 calls of a function with the value 1 of the memo."""
    put = function + b"q\x02"
    return value + put + b"](" + b"h\x02h\x01\x85R" * 30_000 + b"e."


SIZE = files.code(files.Global("torch", "Size"))
ORDERED = files.code(files.Global("collections", "OrderedDict"))
ENTRIES = b"](" + b"".join(
    b"J%bN\x86" % i.to_bytes(4, "little") for i in range(10_000)
) + b"eq\x01"  # fmt: skip
ONE = files.code(files.tensor(MEMORY, 0, (1,), (1,)))
FULL = files.code({str(i): False for i in range(30_000)}) + b"q\x01"
MODULUS = 2**61 - 1  # of Python's hash of integers


@pytest.mark.parametrize(
    ("opcodes", "message"),
    [
        pytest.param(b")" + b"2\x86" * 60 + b"Q.", "opcode DUP", id="dup"),
        pytest.param(DOUBLED + b"Q.", "no storage", id="storage"),
        pytest.param(
            files.code(("storage", files.Global("torch", "FloatStorage")))[:-1]
            + DOUBLED + b"X\x03\x00\x00\x00cpuK\x01tQ.", "no storage", id="key"),
        pytest.param(b"}" + DOUBLED + b"K\x01s.", "tuple for a key", id="dict"),
        pytest.param(b"}" + DEEP + b"K\x01s.", "tuple for a key", id="deep"),
        pytest.param(DEEP + b".", "holds no tensors", id="deep value"),
        pytest.param(b"\x8f(" + DOUBLED + b"\x90.", "holds no tensors", id="set"),
        pytest.param(b"(" + DOUBLED + b"\x91.", "holds no tensors", id="frozenset"),
        pytest.param(DOUBLED + b")R.", "not callable", id="function"),
        pytest.param(SIZE + DOUBLED + b"\x81.", "makes an object", id="class"),
        pytest.param(DOUBLED + b"}b.", "where a Module belongs", id="state"),
        pytest.param(DOUBLED + b"h\x00\x93.", "where a str belongs", id="global"),
        pytest.param(rebuild(files.code(MEMORY), b"K\x00", DOUBLED, b")", b"\x89N"),
                     "64 bits", id="size"),
        pytest.param(rebuild(files.code(MEMORY), DOUBLED, b")", b")", b"\x89N"),
                     "64 bits", id="offset"),
        pytest.param(rebuild(files.code(MEMORY), b"K\x00))\x89N", DOUBLED),
                     "where a dict belongs", id="metadata"),
        pytest.param(rebuild(files.code(MEMORY), b"K\x00))\x89N}K\x01", DOUBLED, b"s"),
                     "the bit '1'", id="a bit"),
        pytest.param(many(ROWS, jit("int")), "holds no tensors", id="lists"),
        pytest.param(many(ROWS, SIZE), "at most 64", id="sizes of a list"),
        pytest.param(many(ENTRIES, ORDERED), "many dicts of one list", id="dicts"),
        pytest.param(ROWS + b"](" + rebuild(
            files.code(MEMORY), b"K\x00h\x01h\x01\x89N") * 3000 + b"e.",
            "at most 64", id="sizes"),
        pytest.param(FULL + b"](" + rebuild(
            files.code(MEMORY), b"K\x00))\x89Nh\x01") * 30_000 + b"e.",
            "many metadata", id="many bits"),
        pytest.param(HUGE + b"](" + rebuild(
            files.code(MEMORY), b"K\x00(", b"h\x01" * 60, b"t(", b"h\x01" * 60, b"t",
            b"\x89N") * 1000 + b"e.", "64 bits", id="huge integers"),
        pytest.param(b"}(" + b"".join(
            files.code(k * MODULUS) + b"N" for k in range(1, 100_000)) + b"u.",
            "more than 60 bits", id="keys of one hash"),
        pytest.param(b"N" + b"".join(
            b"p-%d\n" % (k * MODULUS) for k in range(1, 100_000)) + b".",
            "memo index -", id="memo of one hash"),
        pytest.param(b"}K\x01" + ONE + b"q\x01sX\x00\x00\x01\x00" + b"n" * 2**16 + b"}("
                     + b"".join(files.code(str(i)) + b"h\x01" for i in range(40_000))
                     + b"us.", "more than 1000 characters", id="names"),
        pytest.param(b"c" + b"n" * 2**22, "cannot read its pickle", id="no line"),
    ],
)  # fmt: skip
def test_small_pickles_are_refused_soon(limited, tmp_path, opcodes, message):
    """Each would take more than 2 GiB, 10 s or the stack of the machine."""
    payload = b"\x80\x02" + opcodes
    files.write_zip(tmp_path / "x", None, {"0": bytes(8)}, **{"data.pkl": payload})
    assert message in limited(tmp_path / "x")


def legacy(path, *parts: bytes) -> None:
    first = files.dump(0x1950A86A20F9469CFC6C)
    path.write_bytes(first + b"".join(parts) + bytes(100))


DOUBLED_PART = b"\x80\x02" + DOUBLED + b"."
START = files.dump(1001) + files.dump({})


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        ([DOUBLED_PART], "in version ?, not 1001"),
        ([files.dump(2**70)], "in version ?, not 1001"),
        (
            [files.dump(1001), DOUBLED_PART, files.dump({}), files.dump([])],
            "no tensors",
        ),
        ([START, files.dump({}), b"\x80\x02](" + DOUBLED + b"e."], "its storages are"),
        ([START, b"\x80\x04\x8d" + (2**40).to_bytes(8, "little")], "remain"),
        ([START, b"\x80\x04\x8e" + (2**40).to_bytes(8, "little")], "remain"),
    ],
)
def test_small_old_files_are_refused_soon(limited, tmp_path, parts, message):
    legacy(tmp_path / "x", *parts)
    assert message in limited(tmp_path / "x")


@pytest.mark.parametrize("keys", [[0], ["0", "0"], [None], ("0",), ["0", 1]])
def test_keys_of_an_old_file_are_strings(tmp_path, keys):
    memory = files.storage("0", "float32", 2, legacy=True)
    tree = {"a": files.tensor(memory, 0, (2,), (1,))}
    legacy(tmp_path / "x", START, files.dump(tree), files.dump(keys))
    with pytest.raises(ValueError, match="its storages are not those") as caught:
        readers.read(tmp_path / "x")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("form", ["torch", "graph"])
def test_an_expanded_tensor_is_not_copied_to_be_refused(limited, tmp_path, form):
    """2^50 values that are one, for a variable of six."""
    if form == "torch":
        tree = {"a": files.tensor(MEMORY, 1, (2**25, 2**25), (0, 0))}
        files.write_zip(tmp_path / "x", tree, {"0": bytes(8)})
    else:
        (tmp_path / "x").write_bytes(files.constant("a", 1, (2**25, 2**25)))
    assert "of the wrong shape: a [33554432,33554432] for [6]" in limited(
        tmp_path / "x"
    )


def test_an_expanded_tensor_of_the_right_shape_fits(tmp_path):
    """torch.save writes expand()'s result with a stride of 0."""
    tree = {"a": files.tensor(MEMORY, 1, (6,), (0,))}
    files.write_zip(tmp_path / "x", tree, {"0": np.float32([5, 7]).tobytes()})
    rules = [convert.Renaming("a", "x")]
    like = {"x": np.zeros(6, np.float32)}
    found = convert.convert(readers.read(tmp_path / "x"), rules, like)
    assert found["x"].tolist() == [7] * 6


def test_the_stride_of_a_single_item_means_nothing(tmp_path):
    tree = {"a": files.tensor(MEMORY, 1, (1, 1), (2**63 - 1, 3))}
    files.write_zip(tmp_path / "x", tree, {"0": np.float32([5, 7]).tobytes()})
    assert readers.read(tmp_path / "x")["a"].tolist() == [[7]]


def values():
    shared = ("x", [1, 2])
    return {
        "numbers": [0, 1, -1, 255, 256, 65535, -(2**31), 2**31, 2**70, -(2**3000)],
        "floats": [0.5, -1e300, float("inf")],
        "texts": ["", "é", "\u20ac\n\\", "x" * 300, "y" * 70_000],
        "rest": (None, True, False, (), (1,), (1, 2), (1, 2, 3), (1, 2, 3, 4)),
        "shared": [shared, shared, {"again": shared}],
        3: {i: str(i) for i in range(2000)},
        None: {},
        2.5: list(range(2000)),
        True: [[], [[]]],
    }


@pytest.mark.parametrize("protocol", range(6))
def test_containers_as_python_writes_them(protocol):
    """What pickle.dumps writes, in every protocol; the position behind it."""
    file = io.BytesIO(b"before" + pickle.dumps(values(), protocol) + b"after")
    file.seek(6)
    found, _ = torch_pickle.load(file)
    assert found == values() and list(found) == list(values())
    assert repr(found) == repr(values())
    assert found["shared"][0] is found["shared"][2]["again"]
    assert file.read() == b"after"
    ordered = collections.OrderedDict(values())
    found, _ = torch_pickle.load(io.BytesIO(pickle.dumps(ordered, protocol)))
    assert found == values() and list(found) == list(values())
    endless: list = [1]
    endless.append(endless)
    found, _ = torch_pickle.load(io.BytesIO(pickle.dumps(endless, protocol)))
    assert found[0] == 1 and found[1] is found


def test_sets_and_bytes_of_later_protocols():
    """Sets come as lists, in which nothing is looked up."""
    value = [{7}, frozenset({8}), b"9", bytearray(b"10"), b"z" * 300]
    found, _ = torch_pickle.load(io.BytesIO(pickle.dumps(value, 5)))
    assert found == [[7], [8], *value[2:]]


def test_strings_of_python_2():
    for payload in b"\x80\x02U\x02\xc3\xa9.", b"T\x02\x00\x00\x00\xc3\xa9.", b"S'e'\n.":
        expected = pickle.loads(payload, encoding="utf-8")
        assert torch_pickle.load(io.BytesIO(payload))[0] == expected


@pytest.mark.parametrize("key", [(1,), b"x", 2**60, -(2**60)])
def test_keys_of_dicts_are_simple(key):
    for payload in (pickle.dumps({key: 1}, 4), pickle.dumps({"a": 1, key: 1}, 4)):
        with pytest.raises(ValueError, match="for a key|a key of more"):
            torch_pickle.load(io.BytesIO(payload))
