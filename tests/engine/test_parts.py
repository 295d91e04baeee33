"""Rows made in parts: kept, continued, joined, refused. No model is needed for that."""

import errno
import os
import pathlib
import signal

import numpy as np
import pytest

from progguide_jax.engine import parts
from progguide_jax.runtime import files

MADE_BY = {"seed": 1, "spec": {"omega": [1.0, 2.0]}}


class Killed(Exception):
    """What stands for a kill -9 here."""


def numbered(index):
    return {"number": np.array(index), "half": np.array(index) / 2}


def collect(folder, total, size=16, make=numbered, made_by=MADE_BY):
    return parts.collect(folder / "rows.json", made_by, total, size, make, {"who": 1})


def rows(folder):
    return files.load_npz(folder / "rows.npz")


def test_what_is_written(tmp_path):
    assert collect(tmp_path, 40)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["rows.json", "rows.npz"]
    np.testing.assert_array_equal(rows(tmp_path)["number"], np.arange(40))
    np.testing.assert_array_equal(rows(tmp_path)["half"], np.arange(40) / 2)
    record = files.load_json(tmp_path / "rows.json")
    assert record == {"who": 1, "made_by": MADE_BY}


def test_a_killed_run_goes_on_where_it_stopped(tmp_path):
    calls = []

    def failing(index):
        calls.append(int(index[0]))
        if len(calls) == 3:
            raise Killed
        return numbered(index)

    with pytest.raises(Killed):
        collect(tmp_path, 40, make=failing)
    names = ["part_00000000_00000016.npz", "part_00000016_00000032.npz", "rows.json"]
    assert sorted(p.name for p in tmp_path.iterdir()) == names
    before = [(tmp_path / n).stat().st_mtime_ns for n in names]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(parts, "_join", lambda *args: (_ for _ in ()).throw(Killed))
        with pytest.raises(Killed):
            collect(tmp_path, 40, make=failing)
    assert calls == [0, 16, 32, 32]
    assert [(tmp_path / n).stat().st_mtime_ns for n in names] == before
    assert collect(tmp_path, 40, make=failing)  # only joins
    assert calls == [0, 16, 32, 32]
    np.testing.assert_array_equal(rows(tmp_path)["number"], np.arange(40))
    assert not list(tmp_path.glob("part_*"))


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_keeps_the_batch_it_comes_in(tmp_path, number):
    calls = []

    def make(index):
        calls.append(int(index[0]))
        if len(calls) == 2:
            os.kill(os.getpid(), number)
        return numbered(index)

    before = signal.getsignal(number)
    with pytest.raises(InterruptedError, match="after 32 of 40 images, saved"):
        collect(tmp_path, 40, make=make)
    assert signal.getsignal(number) == before
    assert collect(tmp_path, 40, make=make) and calls == [0, 16, 32]
    np.testing.assert_array_equal(rows(tmp_path)["number"], np.arange(40))


def test_what_is_there_and_made_longer_is_said(tmp_path, caplog):
    caplog.set_level("INFO")
    collect(tmp_path, 16)
    assert "going on" not in caplog.text
    collect(tmp_path, 40)
    assert f"{tmp_path} holds 16 images, which stay: going on to 40" in caplog.text
    np.testing.assert_array_equal(rows(tmp_path)["number"], np.arange(40))
    caplog.clear()
    collect(tmp_path, 20)
    assert not caplog.messages  # fewer than there are


def test_parts_with_gaps_and_overlaps_are_joined_in_order(tmp_path):
    """Left by runs of other batch sizes: 0-16, nothing until 32, 32-48. Batches of 24
    fill the gap, over what is there."""
    for first, end in ((0, 16), (32, 48)):
        path = tmp_path / f"part_{first:08d}_{end:08d}.npz"
        files.save_npz(path, **numbered(np.arange(first, end)))
    calls = []

    def make(index):
        calls.append((int(index[0]), len(index)))
        return numbered(index)

    collect(tmp_path, 62, size=24, make=make)
    assert calls == [(16, 24), (40, 24)]
    np.testing.assert_array_equal(rows(tmp_path)["number"], np.arange(62))


def test_more_rows_later_keep_the_first(tmp_path):
    calls = []

    def make(index):
        calls.append(int(index[0]))
        return numbered(index)

    collect(tmp_path, 40, make=make)
    calls.clear()
    assert not collect(tmp_path, 40, make=make)
    assert not collect(tmp_path, 30, make=make)  # fewer are there already
    assert calls == [] and len(rows(tmp_path)["number"]) == 40
    assert collect(tmp_path, 50, make=make)
    assert calls == [40]
    np.testing.assert_array_equal(rows(tmp_path)["number"], np.arange(50))


def test_a_full_disk_keeps_the_parts(tmp_path, monkeypatch):
    write = files.write

    def full(path, content):
        if "part_00000016" in pathlib.Path(path).name:
            raise OSError(errno.ENOSPC, "No space left on device")
        write(path, content)

    with monkeypatch.context() as patch:
        patch.setattr(files, "write", full)
        with pytest.raises(OSError, match="No space left"):
            collect(tmp_path, 40)
    assert [p.name for p in tmp_path.glob("part*")] == ["part_00000000_00000016.npz"]
    collect(tmp_path, 40)
    np.testing.assert_array_equal(rows(tmp_path)["number"], np.arange(40))


@pytest.mark.parametrize(
    ("other", "words"),
    [
        (
            {"seed": 2, "spec": {"omega": [1.0, 2.0]}},
            "another seed: .*sample.name=",
        ),
        ({"seed": 1, "spec": {"omega": [1.0, 2.5]}}, "another spec.omega: "),
        ({"seed": 1}, "another spec.omega: "),
    ],
)
def test_rows_of_another_kind_are_refused(tmp_path, other, words):
    collect(tmp_path, 20)
    with pytest.raises(ValueError, match=words):
        collect(tmp_path, 40, made_by=other)
    assert len(rows(tmp_path)["number"]) == 20


def cut(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def stopped(folder, total=40):
    """Rows 0 ... 31 as parts."""

    def make(index):
        if index[0] == 32:
            raise Killed
        return numbered(index)

    with pytest.raises(Killed):
        collect(folder, total, make=make)


def firsts(folder, total=40, **kwargs):
    """The first rows of the batches that a new run makes."""
    calls = []

    def make(index):
        calls.append(int(index[0]))
        return numbered(index)

    collect(folder, total, make=make, **kwargs)
    np.testing.assert_array_equal(rows(folder)["number"], np.arange(total))
    return calls


@pytest.mark.parametrize("damage", [cut, lambda path: path.write_bytes(b"")])
def test_a_damaged_part_is_found_before_the_work_and_made_again(
    tmp_path, caplog, damage
):
    stopped(tmp_path)
    part = tmp_path / "part_00000016_00000032.npz"
    damage(part)
    assert firsts(tmp_path) == [16, 32]
    (line,) = caplog.messages
    assert str(part) in line and "made again" in line
    names = [f"{part.name}.damaged", "rows.json", "rows.npz"]
    assert sorted(p.name for p in tmp_path.iterdir()) == names


def test_damaged_rows_are_made_again(tmp_path, caplog):
    collect(tmp_path, 40)
    cut(tmp_path / "rows.npz")
    assert firsts(tmp_path) == [0, 16, 32]
    assert len(caplog.messages) == 1
    assert firsts(tmp_path) == []


def test_rows_whose_record_is_damaged_may_be_anybodys(tmp_path, caplog):
    """Unless the name of the folder says whose they are."""
    named = tmp_path / f"static_{parts.mark(MADE_BY)}"
    for folder, expected in ((tmp_path / "mine", [0, 16, 32]), (named, [])):
        collect(folder, 40)
        (folder / "rows.json").write_text("")
        assert firsts(folder) == expected
        assert files.load_json(folder / "rows.json") == {"who": 1, "made_by": MADE_BY}
    assert (tmp_path / "mine" / "rows.npz.damaged").exists()
