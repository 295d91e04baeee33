import errno
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
    with pytest.raises(ValueError, match=r"a\.json is damaged .*remove it"):
        files.load_json(tmp_path / "a.json")
    files.save_npz(tmp_path / "a.npz", x=np.arange(1000))
    whole = (tmp_path / "a.npz").read_bytes()
    np.testing.assert_array_equal(
        files.load_npz(tmp_path / "a.npz")["x"], np.arange(1000)
    )
    (tmp_path / "a.npz").write_bytes(whole[:500])
    with pytest.raises(ValueError, match=r"a\.npz cannot be read"):
        files.load_npz(tmp_path / "a.npz")
