"""One row of scores: what it says, what it is compared with, what is refused."""

import json
import pathlib

import numpy as np
import pytest
import scipy.linalg
from PIL import Image

from progguide_jax.runtime import files, writers
from progguide_jax.scoring import evaluation, sample_sets
from progguide_jax.systems import build

NUM_IMAGES = 40


@pytest.fixture
def workdir(sampled, workdir_copy):
    return workdir_copy(sampled)


@pytest.fixture
def config(tiny):
    tiny.eval.features = "pixels"
    tiny.eval.metrics = ("fd", "precision_recall", "density_coverage", "diversity")
    tiny.eval.batch_size, tiny.eval.reference_features = 16, 96
    return tiny


def rows(workdir):
    paths = sorted(pathlib.Path(workdir, "scores").glob("*.json"))
    return [files.load_json(path) for path in paths]


def samples(workdir):
    (path,) = pathlib.Path(workdir, "samples").glob("*/samples.npz")
    with np.load(path) as arrays:
        return arrays["images"], arrays["labels"]


def flat(images):
    return images.reshape(len(images), -1) / 127.5 - 1


def frechet(x, y):
    """As its definition reads, with SciPy's matrix root."""
    a, b = np.cov(x, rowvar=False), np.cov(y, rowvar=False)
    root = scipy.linalg.sqrtm(a @ b).real
    shift = x.mean(0) - y.mean(0)
    return shift @ shift + np.trace(a + b - 2 * root)


def test_a_row_is_the_score_of_the_samples_in_the_workdir(config, workdir, capsys):
    evaluation.evaluate(config, workdir)
    (row,) = rows(workdir)
    images, labels = samples(workdir)
    expected = frechet(flat(images), flat(build.load_data(config).images))
    scores = row["scores"]
    assert scores["fd_pixels"]["value"] == pytest.approx(expected, rel=1e-3)
    stds = [flat(images[labels == c]).std(0, ddof=1).mean() for c in range(3)]
    value = scores["diversity_pixels"]["value"]
    assert value == pytest.approx(np.mean(stds), rel=1e-5)
    assert (row["num_images"], row["split"], row["features"]) == (40, "train", "pixels")
    names = "fd precision recall density coverage diversity".split()
    assert set(scores) == {f"{name}_pixels" for name in names}
    assert all(s["error"] > 0 for s in scores.values() if 0 < s["value"] < 1)
    made_by = row["made_by"]
    assert made_by["samples"]["system"]["checkpoint"]["step"] == 6
    assert made_by["reference"]["num_images"] == 96
    assert made_by["features"] == {"name": "pixels", "weights": None}
    assert {"config", "versions", "seed"} <= made_by.keys()
    printed = json.loads(capsys.readouterr().out)
    assert printed == {k: v for k, v in row.items() if k != "made_by"}


def test_long_work_has_a_bar(config, workdir, monkeypatch):
    seen, progress = [], writers.progress

    def noted(items, what, **kwargs):
        seen.append(what)
        return progress(items, what, **kwargs)

    monkeypatch.setattr(writers, "progress", noted)
    evaluation.evaluate(config, workdir)
    reference, of_reference, samples, *of_samples = seen
    assert (reference, of_reference) == ("pixels: train", "moments")
    assert samples.startswith("pixels: ") and {"moments", "balls"} <= set(of_samples)


def test_a_row_is_found_again_and_made_anew_when_it_must(config, workdir):
    evaluation.evaluate(config, workdir)
    (path,) = pathlib.Path(workdir, "scores").glob("*.json")
    before, metrics = path.stat().st_mtime_ns, config.eval.metrics
    evaluation.evaluate(config, workdir)
    assert path.stat().st_mtime_ns == before
    # another setting, another row: none replaces one that is finished
    config.eval.metrics = ("fd",)
    evaluation.evaluate(config, workdir)
    config.eval.num_images = 30
    evaluation.evaluate(config, workdir)
    found = [(row["num_images"], len(row["scores"])) for row in rows(workdir)]
    assert sorted(found) == [(30, 1), (40, 1), (40, 6)]
    assert path.stat().st_mtime_ns == before
    path.write_text("[]")  # damaged: made again
    config.eval.num_images, config.eval.metrics = 0, metrics
    evaluation.evaluate(config, workdir)
    assert len(json.loads(path.read_text())["scores"]) == 6


def test_relabelled_samples_are_scored_anew(config, workdir, tmp_path):
    images, labels = samples(workdir)
    config.eval.metrics = ("diversity",)
    found = []
    for order in (labels, np.roll(labels, 1)):
        external(config, tmp_path, arr_0=images, arr_1=order)
        evaluation.evaluate(config, workdir)
        found.append(len(rows(workdir)))
    assert found == [1, 2]
    values = {row["scores"]["diversity_pixels"]["value"] for row in rows(workdir)}
    assert len(values) == 2


def test_part_of_a_class_ordered_set_is_drawn_from_all_of_it(config, workdir, tmp_path):
    images, labels = samples(workdir)
    order = np.argsort(labels, kind="stable")
    external(config, tmp_path, arr_0=images[order], arr_1=labels[order])
    config.eval.num_images = 20
    some = sample_sets.read(config, config.eval.samples)
    assert np.bincount(some.labels, minlength=3).min() >= 3
    for image, label in zip(some.images, some.labels, strict=True):
        (row,) = np.flatnonzero((images == image).all((1, 2, 3)))
        assert labels[row] == label


def test_other_peoples_samples_score_the_same(config, workdir, tmp_path):
    images, labels = samples(workdir)
    np.savez(tmp_path / "adm.npz", arr_0=images, arr_1=labels)
    folder = tmp_path / "pngs"
    folder.mkdir()
    for i, image in enumerate(images):
        Image.fromarray(image).save(folder / f"{i}.png")
    config.eval.metrics = ("fd", "precision_recall")
    evaluation.evaluate(config, workdir)
    for path in ("adm.npz", "pngs"):
        config.eval.samples = str(tmp_path / path)
        evaluation.evaluate(config, workdir)
    ours, *others = (row["scores"] for row in rows(workdir))
    assert len(others) == 2 and all(scores == ours for scores in others)


def test_terms_beside_a_row_give_its_error(config, workdir):
    evaluation.evaluate(config, workdir)
    (path,) = pathlib.Path(workdir, "scores").glob("*.npz")
    (row,) = rows(workdir)
    with np.load(path) as terms:
        for name in ("fd_pixels", "precision_pixels", "diversity_pixels"):
            assert terms[name].shape == (NUM_IMAGES,)
            error = terms[name].std(ddof=1) / np.sqrt(NUM_IMAGES)
            assert row["scores"][name]["error"] == pytest.approx(error)


def test_per_class_rows_are_scores_of_the_class_alone(config, workdir):
    config.eval.per_class, config.eval.metrics = True, ("fd",)
    evaluation.evaluate(config, workdir)
    (row,) = rows(workdir)
    images, labels = samples(workdir)
    real = build.load_data(config)
    assert list(row["per_class"]) == ["0", "1", "2"]
    for c in range(3):
        ours, theirs = images[labels == c], real.images[real.labels == c]
        expected = frechet(flat(ours), flat(theirs))
        found = row["per_class"][str(c)]["fd_pixels"]["value"]
        assert found == pytest.approx(expected, rel=2e-3)


def test_samples_are_found_by_the_flags_that_made_them(config, workdir):
    config.sample.seed = 1
    with pytest.raises(FileNotFoundError, match="run sample.py with the same flags"):
        evaluation.evaluate(config, workdir)


@pytest.mark.parametrize(
    "changes, words",
    [
        ({"num_images": 41}, "num_images is 41 and .* has 40 images"),
        ({"metrics": ("kd",)}, "kd needs 1000 images or more"),
        ({"num_images": 15, "metrics": ("fd_infinity",)}, "needs 20 images"),
        ({"metrics": ("fd", "is")}, "is: these features come without logits"),
        ({"metrics": ("accuracy",)}, "pixels has no logits .* 3 classes"),
        ({"metrics": ("fid",)}, "unknown eval.metrics 'fid'"),
        ({"features": "resnet"}, "did you mean 'resnet"),
        ({"batch_size": 12}, "eval.batch_size 12 is not divisible by the 8 devices"),
        ({"features": "resnet56", "weights": "/nowhere"}, "/nowhere does not exist"),
        ({"reference_features": 5}, "density_coverage needs 6 images.*reference"),
    ],
)
def test_bad_input_is_one_line(config, workdir, changes, words):
    for key, value in changes.items():
        config.eval[key] = value
    with pytest.raises((ValueError, FileNotFoundError), match=words) as error:
        evaluation.evaluate(config, workdir)
    assert len(str(error.value).splitlines()) == 1
    assert not pathlib.Path(workdir, "scores").exists()
    assert not pathlib.Path(workdir, "references").exists()  # which may take hours


def external(config, tmp_path, **arrays):
    np.savez(tmp_path / "other.npz", **arrays)
    config.eval.samples = str(tmp_path / "other.npz")


def test_samples_that_cannot_be_scored_are_one_line(config, workdir, tmp_path):
    images, labels = samples(workdir)

    def fails(words):
        with pytest.raises(ValueError, match=words) as error:
            evaluation.evaluate(config, workdir)
        assert len(str(error.value).splitlines()) == 1
        assert not pathlib.Path(workdir, "references").exists()

    external(config, tmp_path, arr_0=images)
    fails("diversity: the samples have no labels")
    assert not pathlib.Path(workdir, "scores").exists()
    config.eval.per_class = True
    fails("per class need labels")
    external(config, tmp_path, arr_0=images, arr_1=labels % 2)
    config.eval.metrics = ("fd",)
    fails("class 2 has 0 images in the samples")
    external(config, tmp_path, arr_0=images[:7], arr_1=labels[:7])
    config.eval.metrics = ("diversity",)
    fails("diversity needs 3 images or more and class . of other has 2")
    config.eval.metrics = ("fd",)
    config.eval.per_class = False
    external(config, tmp_path, arr_0=images[:, :4])
    fails("pixels compare only at one size")
    external(config, tmp_path, arr_0=images / 255)
    fails("uint8")
