"""What is embedded goes on where it was killed, a reference and a row of scores; what a
reference will cost is said before."""

import os
import signal

import jax
import numpy as np
import pytest

from progguide_jax import data
from progguide_jax.metrics import suite
from progguide_jax.runtime import sharding
from progguide_jax.scoring import (
    embedding,
    evaluation,
    extraction,
    sample_sets,
    statistics,
)


@pytest.fixture
def config(tiny):
    tiny.eval.features, tiny.eval.metrics = "pixels", ("fd",)
    tiny.eval.batch_size, tiny.eval.per_class = 16, True  # 96 images, 6 batches
    return tiny


@pytest.fixture(autouse=True)
def every_batch(monkeypatch):
    monkeypatch.setattr(embedding, "_SECONDS", 0.0)


def make(config, workdir, most=99):
    """(the batches that were embedded, the arrays, the file), of a process that dies
    after `most` batches."""
    extractor, seen = extraction.load("pixels", sharding.mesh()), []

    def run(variables, images):
        if not isinstance(images, jax.core.Tracer):
            if len(seen) == most:
                raise MemoryError
            seen.append(np.asarray(images))
        return extractor.run(variables, images)

    path = statistics.made_path(config, str(workdir), extractor)
    try:
        statistics.find(config, str(workdir), extractor._replace(run=run))
        with np.load(path) as arrays:
            return seen, dict(arrays), path
    except MemoryError:
        return seen, None, path


def test_a_killed_reference_goes_on_where_it_stopped_to_the_bit(config, tmp_path):
    whole, expected, _ = make(config, tmp_path / "whole")
    for most in (2, 3):  # killed twice
        _, arrays, path = make(config, tmp_path / "killed", most)
        assert arrays is None and not path.exists()
    rest, found, path = make(config, tmp_path / "killed")
    np.testing.assert_array_equal(rest, whole[5:])  # the last of six batches only
    assert found.keys() == expected.keys()
    for name, array in expected.items():
        assert found[name].dtype == array.dtype
        np.testing.assert_array_equal(found[name], array, name)
    names = {p.name for p in path.parent.iterdir()}
    assert names == {path.name, path.with_suffix(".json").name}  # no parts are left


def test_a_signal_keeps_the_batch_it_comes_in(config, tmp_path, monkeypatch):
    """Ctrl-C in the second of six batches, long before a part would be written."""
    monkeypatch.setattr(embedding, "_SECONDS", 1e6)
    whole, expected, _ = make(config, tmp_path / "whole")
    to_host, seen = sharding.to_host, []

    def interrupted(x):
        seen.append(x)
        if len(seen) == 2:
            os.kill(os.getpid(), signal.SIGINT)
        return to_host(x)

    with monkeypatch.context() as patch:
        patch.setattr(sharding, "to_host", interrupted)
        with pytest.raises(InterruptedError, match="after 32 of 96 images, saved"):
            make(config, tmp_path / "stopped")
    rest, found, _ = make(config, tmp_path / "stopped")
    np.testing.assert_array_equal(rest, whole[2:])
    for name, array in expected.items():
        np.testing.assert_array_equal(found[name], array, name)


def test_scores_go_on_where_they_were_killed(config, tmp_path):
    """The logits too, and to the bit; other metrics take nothing of these parts."""
    extractor, seen = extraction.load("pixels", sharding.mesh()), []
    images = np.random.default_rng(0).integers(0, 256, (40, 8, 8, 3), dtype=np.uint8)
    samples = sample_sets.Samples("mine", images, None, {"images": "digest"})
    real = np.random.default_rng(1).normal(size=(50, 192))
    moments = suite.Reference(real.mean(0), np.cov(real, rowvar=False), None, None)
    reference = statistics.RealImages({}, moments, None, None)
    config.eval.metrics, config.eval.per_class = ("is",), False

    def run(variables, images):
        if not isinstance(images, jax.core.Tracer):
            if len(seen) == 2:
                seen.append("killed")
                raise MemoryError
            seen.append(np.asarray(images))
        out = extractor.run(variables, images)
        return out | {"logits": out["features"][:, :7]}

    def score(workdir):
        judge = evaluation.Judge(extractor._replace(run=run), reference)
        return evaluation.score(config, str(workdir), judge, samples)

    with pytest.raises(MemoryError):
        score(tmp_path)
    row, terms = score(tmp_path)
    assert len(seen) == 4  # the third of three batches is all that was left
    np.testing.assert_array_equal(seen[3][:8], images[32:])
    names = {p.suffix for p in (tmp_path / "scores").iterdir()}
    assert names == {".json", ".npz"}  # no parts are left
    expected, straight = score(tmp_path / "straight")
    assert row["scores"] == expected["scores"]
    for name, values in straight.items():
        np.testing.assert_array_equal(terms[name], values)


@pytest.mark.parametrize("other", ("features", "data.digest", "split", "seed"))
def test_parts_of_another_reference_are_not_used(config, tmp_path, other):
    _, _, path = make(config, tmp_path, 4)
    parts = path.with_suffix(".parts")
    assert len(list(parts.iterdir())) == 4
    if other == "data.digest":  # other images under one name: other shapes or colours
        config.data.num_examples = 93
    elif other == "features":
        for part in parts.iterdir():
            with np.load(part) as arrays:
                arrays = dict(arrays)
            arrays["made_by"] = np.array(str(arrays["made_by"]).replace("pixels", "x"))
            np.savez(part, **arrays)
    else:
        config.eval[other] = {"split": "test", "seed": 1}[other]
    seen, found, path = make(config, tmp_path)
    assert len(seen) == 6
    clean, expected, _ = make(config, tmp_path / "clean")
    np.testing.assert_array_equal(found["features"], expected["features"])


def test_a_damaged_part_is_made_again_with_what_follows_it(config, tmp_path):
    whole, expected, _ = make(config, tmp_path / "whole")
    _, _, path = make(config, tmp_path / "killed", 4)
    second = sorted(path.with_suffix(".parts").iterdir())[1]
    second.write_bytes(second.read_bytes()[:200])
    seen, found, _ = make(config, tmp_path / "killed")
    np.testing.assert_array_equal(seen, whole[1:])
    np.testing.assert_array_equal(found["mu"], expected["mu"])


def test_the_price_is_said_before_the_first_image_and_once(config, tmp_path, caplog):
    caplog.set_level("INFO")
    seen, _, path = make(config, tmp_path, most=0)
    (line,) = [m for m in caplog.messages if "images are embedded" in m]
    assert not seen and "train split of synthetic: 96 images" in line
    assert "by pixels" in line and str(path) in line
    assert "eval.reference=FILE" in line and "eval.split=test" not in line  # as many
    make(config, tmp_path)
    caplog.clear()
    make(config, tmp_path)
    assert not [m for m in caplog.messages if "images are embedded" in m]


def test_a_smaller_split_is_named_with_its_size(config, tmp_path, caplog, monkeypatch):
    caplog.set_level("INFO")
    monkeypatch.setattr(data, "count", lambda *args: 10)
    make(config, tmp_path, most=0)
    assert "--config.eval.split=test takes 10 images" in caplog.text


def test_the_number_of_images_is_known_without_reading_them(tmp_path):
    for name in ("a/x.png", "a/y.png", "b/z.png"):
        path = tmp_path / "test" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
        (tmp_path / "train" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "train" / name).touch()
    assert data.count("folder", str(tmp_path), 0) == 3
    assert data.count("folder", str(tmp_path / "train"), 0) is None  # it has no test
    assert data.count("cifar10", "", 50_000) == 10_000
    assert data.count("cifar10", "", 500) is None
    assert data.count("synthetic", "", 96) == 96
    assert data.count("npz", "x.npz", 0) is None
