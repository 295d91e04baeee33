"""Results as files: found, made, never half."""

import os

import numpy as np
import pytest

from progguide_jax.engine import results
from progguide_jax.runtime import files

MADE_BY = {"seed": 1, "grid": [1, 2]}


@pytest.fixture
def path(tmp_path):
    return tmp_path / "inner" / "result.json"


def made(path, made_by=MADE_BY, calls=None):
    def make():
        (calls if calls is not None else []).append(1)
        record = {"value": 2.5, "made_by": {"versions": "x"}}
        return results.Result(record, {"a": np.arange(3)})

    return results.find_or_make(path, made_by, make)


def test_made_once_and_found_again(path):
    calls = []
    first, again = (made(path, calls=calls) for _ in range(2))
    assert len(calls) == 1 and first.record == again.record
    assert again.record["made_by"] == MADE_BY | {"versions": "x"}
    np.testing.assert_array_equal(again.arrays["a"], [0, 1, 2])


@pytest.mark.parametrize("made_by", [{"seed": 2, "grid": [1, 2]}, MADE_BY | {"new": 0}])
def test_another_making_is_another_result(path, made_by):
    made(path)
    assert results.find(path, made_by) is None
    assert made(path, made_by).record["made_by"] == made_by | {"versions": "x"}


@pytest.mark.parametrize("suffix", [".json", ".npz"])
@pytest.mark.parametrize("content", [None, b"", b"[]", b"half"])
def test_what_is_missing_or_damaged_is_made_again(path, suffix, content):
    made(path)
    file = path.with_suffix(suffix)
    if content is None:
        file.unlink()
    else:
        file.write_bytes(content)
    assert results.find(path, MADE_BY) is None
    calls = []
    made(path, calls=calls)
    assert calls == [1] and results.find(path, MADE_BY) is not None


def test_killed_between_the_files_leaves_no_result(path, monkeypatch):
    """The arrays of a new result are never beside the record of the old one."""
    made(path)
    write = files.save_json
    monkeypatch.setattr(files, "save_json", lambda *_: pytest.exit("killed"))
    with pytest.raises(pytest.exit.Exception):
        made(path, MADE_BY | {"seed": 3})
    monkeypatch.setattr(files, "save_json", write)
    assert results.find(path, MADE_BY) is None


def test_a_value_that_changed_on_the_disk_is_made_again(path, caplog):
    """Before, it was printed as the score."""
    made(path)
    path.write_text(path.read_text().replace("2.5", "3.5"))
    assert made(path).record["value"] == 2.5
    (line,) = caplog.messages
    assert f"{path} is damaged" in line
    assert "3.5" in path.with_name("result.json.damaged").read_text()


def test_what_a_killed_write_left_goes_with_the_next(path):
    path.parent.mkdir()
    left = files.temporary(path, 7)
    left.write_text("")
    os.utime(left, (1, 1))
    made(path)
    assert not left.exists()
