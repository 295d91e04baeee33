"""Files: whole, on the disk, and never believed when damaged."""

import errno
import json
import os
import pathlib

import numpy as np
import pytest

from progguide_jax.runtime import files


def test_a_full_disk_says_what_to_do_and_keeps_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "a.json"
    files.save_json(path, {"a": 1})
    before = path.read_bytes()

    def full(self, content):
        pathlib.Path(self).touch()  # a disk fills up in the middle of a file
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(type(files.epath.Path(path)), "write_bytes", full)
        with pytest.raises(OSError, match="no space left to write .*a.json: free"):
            files.save_json(path, {"a": 2})
    assert path.read_bytes() == before
    assert [p.name for p in pathlib.Path(tmp_path).iterdir()] == ["a.json"]


def test_damaged_files_are_named(tmp_path):
    (tmp_path / "a.json").write_text("{")
    with pytest.raises(ValueError, match=r"a\.json is damaged .*run the command"):
        files.load_json(tmp_path / "a.json")
    files.save_npz(tmp_path / "a.npz", x=np.arange(1000))
    whole = (tmp_path / "a.npz").read_bytes()
    np.testing.assert_array_equal(
        files.load_npz(tmp_path / "a.npz")["x"], np.arange(1000)
    )
    (tmp_path / "a.npz").write_bytes(whole[:500])
    with pytest.raises(ValueError, match=r"a\.npz is damaged"):
        files.load_npz(tmp_path / "a.npz")


ROW = {"scores": {"fid": {"value": 12.5, "error": 0.25}}, "name": "a", "n": [1, 2]}


def test_a_digit_that_changes_in_a_record_is_damage(tmp_path):
    path = tmp_path / "row.json"
    files.save_json(path, ROW)
    assert files.load_json(path) == ROW
    path.write_text(path.read_text().replace("12.5", "11.5"))
    with pytest.raises(files.Damaged, match="row.json is damaged .*checksum differs"):
        files.load_json(path)


def test_a_record_of_an_earlier_version_has_no_checksum(tmp_path):
    (tmp_path / "row.json").write_text(json.dumps(ROW))
    assert files.load_json(tmp_path / "row.json") == ROW


def same(a, b):
    """The values of b are those of a, which may have the name of the checksum wrong."""
    return all(k in a and np.array_equal(a[k], b[k]) for k in b)


@pytest.mark.parametrize("kind", ["json", "npz"])
def test_no_flipped_bit_and_no_cut_comes_back_as_another_value(tmp_path, kind):
    path = tmp_path / f"a.{kind}"
    value = {"x": np.arange(5), "y": np.array("text")} if kind == "npz" else ROW
    save, load = getattr(files, f"save_{kind}"), getattr(files, f"load_{kind}")
    save(path, **value) if kind == "npz" else save(path, value)
    whole, found = path.read_bytes(), 0
    for i in range(0, len(whole) - 1, 5):
        flipped = bytearray(whole)
        flipped[i] ^= 1 << i % 8
        for content in (bytes(flipped), whole[:i]):
            path.write_bytes(content)
            try:
                read = load(path)
            except files.Damaged:
                found += 1
            else:  # a time inside a zip, a blank between two words
                assert content == bytes(flipped)
                assert same(read, value)
    assert found > len(whole) / 5  # all cuts, and most bits


def test_a_file_is_on_the_disk_before_it_has_its_name(tmp_path, monkeypatch):
    """A rename that reaches the disk before the content leaves an empty file after a
    power cut."""
    path, steps = tmp_path / "inner" / "a.json", []
    fsync = os.fsync

    def synchronised(handle):
        folder = os.path.samestat(os.fstat(handle), os.stat(path.parent))
        steps.append(("folder" if folder else "file", path.exists()))
        fsync(handle)

    monkeypatch.setattr(os, "fsync", synchronised)
    files.write(path, b"{}")
    assert steps == [("file", False), ("folder", True)]
    assert path.read_bytes() == b"{}"


def test_a_disk_that_is_full_at_the_end_is_the_same_line(tmp_path, monkeypatch):
    """Some file systems find out when the content must be on the disk."""

    def full(handle):
        raise OSError(errno.EDQUOT, "Disk quota exceeded")

    files.write(tmp_path / "a", b"old")
    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="no space left to write .*/a: free some"):
        files.write(tmp_path / "a", b"new")
    assert (tmp_path / "a").read_bytes() == b"old"
    assert [p.name for p in tmp_path.iterdir()] == ["a"]


def test_what_killed_writes_left_is_cleared_and_nothing_else(tmp_path):
    ours = [files.temporary(tmp_path / n, 7) for n in ("a.json", "part_0_1.npz")]
    young = files.temporary(tmp_path / "young", 7)
    others = [tmp_path / n for n in (".a.tmp", "a.7.tmp", ".7.tmpx", "a.json", ".lock")]
    inner = tmp_path / "inner" / ours[0].name
    inner.parent.mkdir()
    for path in (*ours, young, *others, inner):
        path.write_text("")
        if path is not young:
            os.utime(path, (1, 1))
    files.clear_leftovers(tmp_path)
    assert not any(path.exists() for path in ours)
    assert young.exists() and all(path.exists() for path in (*others, inner))
    files.clear_leftovers(tmp_path / "missing")


def test_a_damaged_file_is_kept_aside_with_one_line(tmp_path, caplog):
    path = tmp_path / "a.json"
    path.write_text("{")
    with pytest.raises(files.Damaged) as error:
        files.load_json(path)
    files.set_aside(error.value)
    (line,) = caplog.messages
    assert f"{path} is damaged" in line and "a.json.damaged" in line
    assert [p.name for p in tmp_path.iterdir()] == ["a.json.damaged"]
