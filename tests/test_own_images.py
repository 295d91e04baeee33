"""A user's own pictures through every command: what is made of them, and by which."""

import json
import pathlib
import shutil

import numpy as np
import pytest
from PIL import Image

from configs import base
from progguide_jax import data
from progguide_jax.engine import probing, sampling, training
from progguide_jax.runtime import config as config_lib
from progguide_jax.runtime import files
from progguide_jax.scoring import evaluation, statistics


def of_pictures(make_tiny, root):
    config = make_tiny()
    config.data.name, config.data.dir = "folder", str(root)
    config.eval.features, config.eval.metrics = "pixels", ("fd", "diversity")
    config.eval.batch_size = 16
    # compiles in no time
    config.model.name, config.model.unet = "pix_film", base.get_config().model.unet
    return config


@pytest.fixture(scope="module")
def made(make_once, make_tiny):
    """A folder with pictures, and a workdir that was trained on them."""

    def make(folder):
        root = pathlib.Path(folder) / "pictures"
        random = np.random.default_rng(0)
        for split, count in (("train", 12), ("test", 6)):
            for name, level in (("dark", 40), ("grey", 128), ("light", 210)):
                place = root / split / name
                place.mkdir(parents=True)
                for i in range(count):
                    shape = (*random.integers(8, 20, 2), 3)
                    pixels = np.clip(random.normal(level, 20, shape), 0, 255)
                    image = Image.fromarray(pixels.astype(np.uint8))
                    image.save(place / f"{i}.{('png', 'jpg', 'webp')[i % 3]}")
        training.train(of_pictures(make_tiny, root), f"{folder}/work")

    return make_once("own_images", make)


@pytest.fixture
def places(made, tmp_path):
    """(pictures, workdir), copies to write to."""
    shutil.copytree(made, tmp_path / "copy")
    return tmp_path / "copy" / "pictures", str(tmp_path / "copy" / "work")


def test_what_is_made_says_which_pictures_not_where(places, make_tiny, capsys):
    pictures, workdir = places
    pictures = pictures.rename(pictures.parent / "moved")
    config = of_pictures(make_tiny, pictures)
    digest = config_lib.load(f"{workdir}/config.json").data.digest
    assert len(digest) == 16
    probing.probe(config, workdir)
    config.guidance.schedule, config.sample.export_adm = "gn", True
    folder = sampling.generate(config, workdir)
    evaluation.evaluate(config, workdir)
    (reference,) = pathlib.Path(workdir).glob("references/folder_train_pixels_*.json")
    records = [
        files.load_json(pathlib.Path(workdir) / "probe" / "curve.json")["made_by"],
        files.load_json(folder / "samples.json")["made_by"]["system"],
        files.load_json(reference)["made_by"],
    ]
    for record in records:
        about = record["data"]
        assert about["digest"] == digest and about["num_classes"] == 3
        assert "dir" not in about and "num_examples" not in about
        assert str(pictures) not in json.dumps(about)

    # the export: the same images, the same scores
    row = json.loads(capsys.readouterr().out)
    config.eval.samples = str(folder / "adm.npz")
    evaluation.evaluate(config, workdir)
    exported = json.loads(capsys.readouterr().out)
    assert exported["scores"] == row["scores"] and exported["samples"] == "adm"
    with np.load(folder / "adm.npz") as adm, np.load(folder / "samples.npz") as ours:
        assert adm["arr_0"].dtype == np.uint8 and adm["arr_0"].shape == (40, 8, 8, 3)
        assert np.array_equal(adm["arr_0"], ours["images"])
        assert np.array_equal(adm["arr_1"], ours["labels"])

    # a trained workdir needs the pictures no more, for what is there and for samples
    shutil.rmtree(pictures)
    config.eval.samples = folder.name
    evaluation.evaluate(config, workdir)
    assert json.loads(capsys.readouterr().out)["scores"] == row["scores"]
    config.guidance.schedule = "static"
    assert (sampling.generate(config, workdir) / "samples.npz").exists()


def test_other_pictures_are_refused(places, make_tiny):
    """Same name, sizes and classes; one picture less."""
    pictures, workdir = places
    (pictures / "train" / "grey" / "3.png").unlink()
    config = of_pictures(make_tiny, pictures)
    config.train.num_steps = 8
    for command in (training.train, probing.probe, statistics.refer):
        with pytest.raises(ValueError, match="holds other images than those of data"):
            command(config, workdir)
    # those that lie there, on purpose
    config.data.digest = data.identify("folder", config.data.dir)
    with pytest.raises(ValueError, match="data.digest: .*allow_config_change"):
        training.train(config, workdir)
    statistics.refer(config, workdir)


def test_a_reference_is_of_its_split(places, make_tiny):
    pictures, workdir = places
    config = of_pictures(make_tiny, pictures)
    config.eval.split = "test"
    statistics.refer(config, workdir)
    (pictures / "test" / "grey" / "3.png").unlink()
    statistics.refer(config, workdir)  # others than before: made again
    made = list(pathlib.Path(workdir).glob("references/folder_test_pixels_*.npz"))
    counts = [json.loads(str(np.load(p)["about"]))["num_images"] for p in made]
    assert sorted(counts) == [17, 18]
    # statistics that are named are compared too
    config.eval.reference = str(made[counts.index(18)])
    with pytest.raises(ValueError, match="has the images .*config.data.dir"):
        statistics.find(config, workdir, statistics.load_extractor(config))


@pytest.mark.slow
def test_grey_arrays_go_through(tmp_path, make_tiny, capsys):
    random, labels = np.random.default_rng(0), np.arange(60) % 3
    images = np.clip(random.normal(80 * labels[:, None, None], 20, (60, 8, 8)), 0, 255)
    np.savez(tmp_path / "mine.npz", images=images.astype(np.uint8), labels=labels)
    config, workdir = of_pictures(make_tiny, tmp_path / "mine.npz"), f"{tmp_path}/work"
    config.data.name, config.data.channels = "npz", 1
    config.sample.export_adm = True
    training.train(config, workdir)
    training.train(config, workdir)  # typed again
    folder = sampling.generate(config, workdir)
    evaluation.evaluate(config, workdir)
    assert json.loads(capsys.readouterr().out)["num_images"] == 40
    with np.load(folder / "adm.npz") as adm, np.load(folder / "samples.npz") as ours:
        assert ours["images"].shape == (40, 8, 8, 1)
        for channel in range(3):
            assert np.array_equal(adm["arr_0"][..., channel], ours["images"][..., 0])
    config.sample.num_images, config.sample.export_adm = 44, False
    sampling.generate(config, workdir)
    assert len(np.load(folder / "adm.npz")["arr_0"]) == 44  # kept up
