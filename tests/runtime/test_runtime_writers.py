"""Files are read back with json, Pillow and tensorboard's own reader."""

import errno
import importlib.util
import io
import json
import math
import sys
import threading
import time

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from progguide_jax.runtime import writers

IMAGE = np.random.default_rng(0).integers(0, 256, (6, 9, 3)).astype(np.uint8)


def lines(workdir) -> list[dict]:
    text = (workdir / "metrics.jsonl").read_text()
    return [json.loads(line) for line in text.splitlines()]


@pytest.fixture
def without_tensorboard(monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorflow", None)
    monkeypatch.setitem(sys.modules, "tensorboard", None)


def test_a_line_is_on_disk_when_scalars_returns(tmp_path, without_tensorboard):
    before = time.time()
    writer = writers.MetricWriter(str(tmp_path))
    writer.scalars(3, {"loss": np.float32(0.5), "rate": 2})
    writer.scalars(4, {"loss": math.nan, "rate": math.inf})
    first, second = lines(tmp_path)  # before close
    assert first.pop("time") == pytest.approx(before, abs=5)
    assert first == {"step": 3, "loss": 0.5, "rate": 2.0}
    assert second["loss"] is None and second["rate"] is None  # JSON has no NaN
    writer.close()
    writer.close()
    assert [p.name for p in tmp_path.iterdir()] == ["metrics.jsonl"]


def test_a_resumed_run_holds_each_step_once(tmp_path, without_tensorboard):
    with writers.MetricWriter(str(tmp_path)) as writer:
        for step in (10, 20, 30):
            writer.scalars(step, {"loss": step})
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"step": 40, "lo')  # killed while writing
    with writers.MetricWriter(str(tmp_path)) as writer:
        writer.truncate_after(20)
        writer.scalars(30, {"loss": -1})
    rows = [(line["step"], line["loss"]) for line in lines(tmp_path)]
    assert rows == [(10, 10), (20, 20), (30, -1)]
    assert not list(tmp_path.glob("*.tmp")) and not list(tmp_path.glob(".*.tmp"))


def test_garbage_at_the_end_is_dropped_too(tmp_path):
    """What a power cut may leave is not even text."""
    with writers.MetricWriter(str(tmp_path)) as writer:
        writer.scalars(10, {"loss": 1})
    with (tmp_path / "metrics.jsonl").open("ab") as file:
        file.write(b"\xff\xfe\x00\x00")
    with writers.MetricWriter(str(tmp_path)) as writer:
        writer.truncate_after(20)
    assert [line["step"] for line in lines(tmp_path)] == [10]


def test_a_full_disk_is_one_line_that_names_the_file(tmp_path, monkeypatch):
    class Full(io.StringIO):
        def flush(self):
            raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(OSError, match="no space left to write .*metrics.jsonl: free"):
        with writers.MetricWriter(str(tmp_path)) as writer:
            writer._file.close()
            writer._file = Full()
            writer.scalars(10, {"loss": 1})


def test_a_disabled_writer_writes_nothing(tmp_path):
    with writers.MetricWriter(str(tmp_path / "run"), enabled=False) as writer:
        writer.truncate_after(0)
        writer.scalars(1, {"loss": 1})
        writer.image(1, "grid", IMAGE)
        writer.text(1, "note", "words")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("by", ["clu", "tensorboard"])
def test_tensorboard_reads_what_was_written(tmp_path, monkeypatch, by):
    if by == "clu" and importlib.util.find_spec("tensorflow") is None:
        pytest.skip("clu's writer needs tensorflow")
    accumulator = pytest.importorskip(
        "tensorboard.backend.event_processing.event_accumulator"
    )
    from tensorboard.util import tensor_util

    if by == "tensorboard":
        monkeypatch.setitem(sys.modules, "tensorflow", None)
    with writers.MetricWriter(str(tmp_path)) as writer:
        assert type(writer._events).__name__.lower().startswith(f"_{by}")
        for step in (1, 2):
            writer.scalars(step, {"loss": step / 2})
        writer.image(2, "grid", IMAGE)
        writer.text(2, "note", "**words**")
    events = accumulator.EventAccumulator(
        str(tmp_path / "tensorboard"), size_guidance={"tensors": 0}
    ).Reload()
    tensors = {
        tag: [(e.step, tensor_util.make_ndarray(e.tensor_proto)) for e in values]
        for tag in events.Tags()["tensors"]
        for values in [events.Tensors(tag)]
    }
    scalars = (
        [(e.step, e.value) for e in events.Scalars("loss")]
        if ("loss" in events.Tags()["scalars"])
        else [(step, float(value)) for step, value in tensors["loss"]]
    )
    assert scalars == [(1, 0.5), (2, 1.0)]
    if "grid" in events.Tags()["images"]:
        (image,) = events.Images("grid")
        png, step = image.encoded_image_string, image.step
    else:
        ((step, value),) = tensors["grid"]  # width, height, image
        png = value[2]
    np.testing.assert_array_equal(Image.open(io.BytesIO(png)), IMAGE)
    ((text_step, text),) = tensors["note"]
    assert step == text_step == 2 and np.ravel(text)[0] == b"**words**"


def test_save_png_is_lossless_and_replaces_at_once(tmp_path):
    path = tmp_path / "new" / "grid.png"
    writers.save_png(path, IMAGE)
    writers.save_png(path, IMAGE[..., 0])
    np.testing.assert_array_equal(Image.open(path), IMAGE[..., 0])
    assert [p.name for p in path.parent.iterdir()] == ["grid.png"]


def test_a_failed_png_leaves_the_old_one(tmp_path):
    writers.save_png(tmp_path / "grid.png", IMAGE)
    with pytest.raises(TypeError):
        writers.save_png(tmp_path / "grid.png", IMAGE.astype(np.float64))
    np.testing.assert_array_equal(Image.open(tmp_path / "grid.png"), IMAGE)


def test_a_bar_appears_after_two_seconds_only(capsys, monkeypatch):
    now = [1000.0]
    monkeypatch.setattr("tqdm.std.time", lambda: now[0])
    for seconds, expected in ((0.1, False), (40.0, True)):
        bar = writers.progress(10, "probe", initial=4)
        bar._time = lambda: now[0]
        bar.start_t = bar.last_print_t = now[0]
        for _ in range(3):
            now[0] += seconds
            bar.update()
        shown = capsys.readouterr().err
        assert ("probe" in shown) == expected
        bar.close()
        capsys.readouterr()
    assert "7/10" in shown
    assert list(writers.progress(range(3), "loop")) == [0, 1, 2]


def test_a_bar_is_drawn_while_its_first_step_still_runs(capfd, monkeypatch):
    monkeypatch.setattr(writers, "_DELAY", 0.05)
    monkeypatch.setattr(writers, "_PAUSE", 0.05)
    shown = ""
    with writers.progress(40, "sample gn"):
        end = time.time() + 30
        while "sample gn:   0%" not in shown and time.time() < end:
            time.sleep(0.02)  # the step, which has not ended
            shown += capfd.readouterr().err
        assert "sample gn:   0%" in shown and "0/40" in shown
    assert capfd.readouterr().err.endswith("\n")  # what follows has a line of its own
    time.sleep(0.2)
    assert not capfd.readouterr().err  # a closed bar is silent


def test_a_bar_says_when_its_step_is_compiling(capfd, monkeypatch):
    """A program that takes a while, and that no cache can know; then one that runs."""
    monkeypatch.setattr(writers, "_DELAY", 0.05)
    monkeypatch.setattr(writers, "_PAUSE", 0.02)
    token = time.time()

    @jax.jit
    def slow_to_compile(x):
        for i in range(400):
            x = jnp.sort(jnp.sin(x + i + token)) @ jnp.ones((8, 8))
        return x

    with writers.progress(40, "probe") as bar:
        began = time.perf_counter()
        slow_to_compile(jnp.ones((8, 8))).block_until_ready()
        first_step = time.perf_counter() - began
        assert "compiling" in capfd.readouterr().err
        time.sleep(0.3)
        bar.update()
        bar.refresh()
        assert "compiling" not in capfd.readouterr().err.rsplit("\r", 1)[-1]
        # the rate, from which the ETA is made, is that of a step without compiling
        assert 1 / bar.format_dict["rate"] < 0.8 * (first_step + 0.3)


def test_a_bar_that_nobody_holds_ends(monkeypatch):
    def bars():
        return [thread for thread in threading.enumerate() if thread.name == "bar"]

    monkeypatch.setattr(writers, "_DELAY", 0.01)
    monkeypatch.setattr(writers, "_PAUSE", 0.01)
    before = len(bars())
    bar = writers.progress(40, "forgotten")
    assert len(bars()) == before + 1
    del bar
    end = time.time() + 30
    while len(bars()) > before and time.time() < end:
        time.sleep(0.02)
    assert len(bars()) == before
