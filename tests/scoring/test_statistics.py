"""Statistics of real images as files: what is in them, and what is refused."""

import json

import numpy as np
import pytest

from progguide_jax.metrics import frechet
from progguide_jax.runtime import sharding
from progguide_jax.scoring import extraction, statistics
from progguide_jax.systems import build


@pytest.fixture
def config(tiny):
    tiny.eval.features, tiny.eval.metrics = "pixels", ("fd",)
    tiny.eval.batch_size, tiny.eval.reference_features = 40, 50
    return tiny


def pixels(images):
    """8x8 images in [-1, 1], flat: what the extractor gives for images so small."""
    return images.reshape(len(images), -1) / 127.5 - 1


def real(config, split="train"):
    return build.load_data(config, split=split)


def refer(config, workdir):
    """Make the reference of this config; its file."""
    statistics.refer(config, str(workdir))
    return made_path(config, workdir)


def made_path(config, workdir):
    extractor = extraction.load(config.eval.features, sharding.mesh())
    return statistics.made_path(config, str(workdir), extractor)


@pytest.fixture
def made(config, tmp_path):
    return refer(config, tmp_path)


def test_a_reference_holds_the_moments_of_the_split(config, made):
    x = pixels(real(config).images)
    with np.load(made) as arrays:
        np.testing.assert_allclose(arrays["mu"], x.mean(0), atol=1e-6)
        np.testing.assert_allclose(arrays["sigma"], np.cov(x, rowvar=False), atol=1e-6)
        kept, labels = arrays["features"], arrays["labels"]
    assert kept.shape == (50, 192)
    # each kept row is a real image, under its own label
    rows = [np.abs(x - row).sum(1).argmin() for row in kept]
    assert len(set(rows)) == 50
    np.testing.assert_allclose(kept, x[rows], atol=1e-6)
    np.testing.assert_array_equal(labels, real(config).labels[rows])


def test_a_reference_is_read_as_it_was_written_and_made_once(config, made, tmp_path):
    read = statistics.read(str(made))
    with np.load(made) as arrays:
        np.testing.assert_array_equal(read.statistics.mean, arrays["mu"])
        np.testing.assert_array_equal(read.statistics.covariance, arrays["sigma"])
    root = read.statistics.root
    np.testing.assert_allclose(root @ root.T, read.statistics.covariance, atol=1e-12)
    assert read.about["split"] == "train" and read.about["num_images"] == 96
    before = made.stat().mtime
    statistics.refer(config, str(tmp_path))
    assert made.stat().mtime == before
    config.eval.reference_features = 60
    more = refer(config, tmp_path)
    # of another setting: beside the first, and as many images of each class
    assert more != made and made.stat().mtime == before
    assert np.bincount(np.load(more)["labels"]).tolist() == [20, 20, 20]


def without(name):
    return lambda arrays: arrays.pop(name)


def to(name, change):
    return lambda arrays: arrays.update({name: change(arrays[name])})


@pytest.mark.parametrize(
    "change, words",
    [
        (without("mu"), "need mu and sigma"),
        (without("class_sigma"), "lacks arrays of its classes"),
        (without("labels"), "lacks arrays of its classes"),
        (to("mu", lambda x: x[:5]), "mu has 5 dimensions"),
        (to("mu", lambda x: x[:0]), "mu has 0 dimensions"),
        (to("mu", lambda x: x * np.nan), "mu is [12] of values that are not finite"),
        (to("mu", lambda x: x.astype(str)), "mu is [12] of <U"),
        (to("mu", lambda x: x[0]), "mu has 1 dimensions"),
        (to("sigma", np.negative), "sigma has negative eigenvalues"),
        (to("sigma", lambda x: x - 2 * np.diag(np.eye(12)[0])), "negative eigenvalues"),
        (to("sigma", lambda x: x[0]), "sigma is (12,)"),
        (to("sigma", lambda x: x * np.inf), "not finite"),
        (to("sigma", np.triu), "not symmetric"),
        (to("features", lambda x: x[:, :9]), "features is [50, 9]"),
        (to("features", lambda x: x[0, 0]), "features is []"),
        (to("labels", lambda x: x[:9]), "labels is [9]"),
        (to("labels", lambda x: x.astype(float)), "labels is [50] of float64"),
        (to("class_mu", lambda x: x[:, :9]), "class_mu is [3, 9]"),
        (to("class_mu", lambda x: x[0, 0]), "class_mu is []"),
        (to("class_sigma", lambda x: x[:, 0]), "class_sigma is [3, 12]"),
        (to("class_sigma", np.negative), "sigma has negative eigenvalues"),
        (to("about", lambda x: np.array("{")), "what made it cannot be read"),
        (to("about", lambda x: np.array("[1]")), "what made it cannot be read"),
        (to("about", lambda x: np.array('{"features": 1}')), "what made it cannot"),
        (to("about", lambda x: np.zeros(9)), "what made it cannot be read"),
    ],
)
def test_statistics_that_are_none_are_named(statistics_file, change, words):
    path, arrays = statistics_file
    arrays = dict(arrays)
    change(arrays)
    np.savez(path, **arrays)
    with pytest.raises(ValueError) as error:
        statistics.read(str(path), per_class=True)
    message = str(error.value)
    assert str(path) in message and words in message
    assert "\n" not in message and len(message) < 500


@pytest.fixture
def statistics_file(tmp_path):
    """(path, arrays) of statistics as `refer` writes them, with classes."""
    x = np.random.default_rng(0).standard_normal((900, 12)).astype(np.float32)
    about = {"features": {"name": "pixels", "weights": None}, "split": "train"}
    about["data"] = {"name": "synthetic"}
    parts = x.reshape(3, 300, 12).astype(float)
    arrays = {
        "mu": x.mean(0, dtype=float),
        "sigma": np.cov(x, rowvar=False),
        "features": x[:50],
        "labels": np.arange(50) % 3,
        "class_mu": parts.mean(1),
        "class_sigma": np.stack([np.cov(p, rowvar=False) for p in parts]),
        "about": np.array(json.dumps(about)),
    }
    np.savez(tmp_path / "statistics.npz", **arrays)
    read = statistics.read(str(tmp_path / "statistics.npz"), per_class=True)
    assert len(read.per_class) == 3 and read.about == about
    return tmp_path / "statistics.npz", arrays


def test_train_and_test_are_two_files(config, made, tmp_path):
    config.eval.split = "test"
    other = refer(config, tmp_path)
    assert other != made and made.exists()
    x = pixels(real(config, "test").images)
    np.testing.assert_allclose(np.load(other)["mu"], x.mean(0), atol=1e-6)


def test_statistics_of_each_class(config, tmp_path):
    config.eval.per_class = True
    read = statistics.read(str(refer(config, tmp_path)), per_class=True)
    dataset = real(config)
    for label, moments in enumerate(read.per_class):
        x = pixels(dataset.images[dataset.labels == label])
        np.testing.assert_allclose(moments.mean, x.mean(0), atol=1e-6)
        np.testing.assert_allclose(
            moments.covariance, np.cov(x, rowvar=False), atol=1e-6
        )
        assert len(moments.features) == (read.labels == label).sum()


def find(config, tmp_path):
    extractor = extraction.load(config.eval.features, sharding.mesh())
    return statistics.find(config, str(tmp_path), extractor)


def test_a_public_file_of_mu_and_sigma_is_taken(config, tmp_path, caplog):
    x = np.random.default_rng(0).normal(size=(300, 192))
    np.savez(tmp_path / "public.npz", mu=x.mean(0), sigma=np.cov(x, rowvar=False))
    config.eval.reference = str(tmp_path / "public.npz")
    found = find(config, tmp_path)
    assert "does not say" in caplog.text and found.about.keys() == {"file", "moments"}
    assert found.statistics.features is None
    m = frechet.of(x)
    np.testing.assert_allclose(found.statistics.mean, m.mean)


def test_what_does_not_fit_is_refused_in_one_line(config, made, tmp_path):
    def fails(words, **changes):
        changed = config.copy_and_resolve_references()
        for key, value in changes.items():
            changed.eval[key] = value
        with pytest.raises((ValueError, FileNotFoundError), match=words) as error:
            find(changed, tmp_path)
        assert len(str(error.value).splitlines()) == 1

    fails("split train, this run test.*eval.split", reference=str(made), split="test")
    fails("no statistics of the classes", reference=str(made), per_class=True)
    fails("no reference statistics at", reference=str(tmp_path / "none.npz"))
    small = tmp_path / "small.npz"
    np.savez(small, mu=np.zeros(3), sigma=np.eye(3))
    fails("3 dimensions and pixels features 192", reference=str(small))
    np.savez(small, mu=np.zeros(3), sigma=np.eye(4))
    fails("make it again", reference=str(small))
    np.savez(small, means=np.zeros(3))
    fails("holds means: .*need mu and sigma", reference=str(small))
    small.write_bytes(made.read_bytes()[:1000])
    fails("small.npz holds no reference statistics", reference=str(small))
    skew = np.eye(192)
    skew[0, 1] = 1
    np.savez(small, mu=np.zeros(192), sigma=skew)
    fails("not symmetric", reference=str(small))


def test_features_of_another_network_are_refused(config, made, tmp_path):
    with np.load(made) as arrays:
        arrays = dict(arrays)
    about = json.loads(str(arrays["about"]))
    about["features"]["name"] = "resnet56"
    np.savez(tmp_path / "other.npz", **arrays | {"about": np.array(json.dumps(about))})
    config.eval.reference = str(tmp_path / "other.npz")
    with pytest.raises(ValueError, match="features resnet56, this run pixels"):
        find(config, tmp_path)


def test_a_damaged_reference_in_the_workdir_is_made_again(config, made, tmp_path):
    whole = made.read_bytes()
    made.write_bytes(whole[: len(whole) // 2])
    assert find(config, tmp_path).about["num_images"] == 96


def test_a_reference_of_an_earlier_version_is_found(config, made, tmp_path):
    """It says only inside what made it."""
    record, before = made.with_suffix(".json"), made.stat().mtime
    text = record.read_text()
    record.unlink()
    assert find(config, tmp_path).about["num_images"] == 96
    assert made.stat().mtime == before
    assert json.loads(record.read_text())["made_by"] == json.loads(text)["made_by"]
    record.unlink()
    with np.load(made) as arrays:
        arrays = dict(arrays)
    about = json.loads(str(arrays["about"])) | {"kept": 49}
    np.savez(made, **arrays | {"about": np.array(json.dumps(about))})
    assert find(config, tmp_path).about["kept"] == 50  # of another setting: made
