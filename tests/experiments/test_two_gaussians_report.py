import base64
import csv
import html.parser
import io
import json
import re

import numpy as np
import pytest
import small_experiment
from PIL import Image

from progguide_jax.experiments.two_gaussians import finished
from progguide_jax.experiments.two_gaussians import report as reporting

NAMES, SCALES = small_experiment.NAMES, small_experiment.SCALES
VOID = {"meta", "img"}


@pytest.fixture(scope="module")
def experiment():
    return small_experiment.make()


@pytest.fixture(scope="module")
def config():
    return small_experiment.config(NAMES, SCALES)


@pytest.fixture(scope="module")
def workdir(experiment, config, tmp_path_factory):
    """A finished run, reported."""
    folder = tmp_path_factory.mktemp("run")
    experiment.write(folder)
    assert reporting.report(config, str(folder)) == str(folder / "report.html")
    return folder


class _Page(html.parser.HTMLParser):
    """Tags with attributes, headings, the rows of the table, and all text."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.open, self.headings, self.rows = [], [], [], []
        self.text, self.shades = "", []
        self.feed(text)
        self.close()
        assert not self.open

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))
        if tag not in VOID:
            self.open.append(tag)
        if tag == "tr":
            self.rows.append([])
            self.shades.append([])
        if tag == "td":
            self.rows[-1].append("")
            self.shades[-1].append(dict(attributes).get("class", ""))
        if tag == "h2":
            self.headings.append("")

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text += data
        if self.open and self.open[-1] == "td":
            self.rows[-1][-1] += data
        if self.open and self.open[-1] == "h2":
            self.headings[-1] += data


@pytest.fixture(scope="module")
def page(workdir):
    return _Page((workdir / "report.html").read_text())


def test_page_is_whole_and_asks_for_nothing_outside(page, workdir):
    assert {tag for tag, _ in page.tags}.isdisjoint({"script", "link", "iframe"})
    for _, attributes in page.tags:
        assert "href" not in attributes and "srcset" not in attributes
        assert attributes.get("src", "data:image/png;base64,").startswith("data:image")
    text = (workdir / "report.html").read_text()
    assert not re.search(r"https?:|url\(|@import", text)


def test_sections_come_in_the_order_of_the_experiment(page):
    words = "data distributions Trajectories weight norms numbers close loss Provenance"
    assert len(page.headings) == len(words.split())
    for word, heading in zip(words.split(), page.headings, strict=True):
        assert word in heading


def test_pictures_in_the_page_are_those_in_the_folder(page, workdir):
    inside = [
        base64.b64decode(attributes["src"].split(",")[1])
        for tag, attributes in page.tags
        if tag == "img"
    ]
    beside = [path.read_bytes() for path in (workdir / "figures").glob("*.png")]
    assert len(inside) == 9 and sorted(inside) == sorted(beside)
    for content, (_, attributes) in zip(
        inside, [t for t in page.tags if t[0] == "img"], strict=True
    ):
        image = Image.open(io.BytesIO(content))
        image.load()
        assert int(attributes["width"]) == image.width * 100 // 150
        assert attributes["alt"]


def test_table_holds_the_rows(page, experiment):
    lines = [line for line in page.rows if line]
    order = [experiment.rows[name, scale] for scale in SCALES for name in NAMES]
    measures = "path_length tortuosity overshoot u_turn_rate sign_flips final_mean "
    measures = (measures + "final_std").split()
    assert len(lines) == len(order)
    for line, row in zip(lines, order, strict=True):
        values = [row[who][m] for m in measures for who in ("network", "oracle")]
        assert len(line) == len(values)
        for text, value in zip(line, values, strict=True):
            digits = len(text.split(".")[1])
            assert abs(float(text) - value) <= 0.5 * 10**-digits + 1e-12


def test_shading_marks_where_the_network_differs(page):
    for line, shades in zip(page.rows, page.shades, strict=True):
        for network, exact, shade in zip(
            line[::2], line[1::2], shades[::2], strict=True
        ):
            apart, exact = abs(float(network) - float(exact)), abs(float(exact))
            if apart > 0.5 * exact + 0.1:
                assert "far" in shade
            if apart < 0.04 or apart < 0.09 * exact:
                assert shade == "n"
    assert any("far" in shade for shades in page.shades for shade in shades)


@pytest.mark.parametrize(
    ("network", "exact", "shade"),
    [
        (1.05, 1.0, "n"),
        (1.2, 1.0, "n off"),
        (-2.0, -1.0, "n off far"),
        (0.04, 0.0, "n"),  # far in proportion, yet nothing to see
        (0.2, 0.0, "n off far"),
        (np.nan, 1.0, "n off far"),
    ],
)
def test_shading_needs_ten_percent_and_a_visible_amount(network, exact, shade):
    row = {"network": {"overshoot": network}, "oracle": {"overshoot": exact}}
    entry, _ = reporting._pair(row, "overshoot")
    assert " ".join(["n", *entry.marks]) == shade


def test_csv_holds_every_measure_exactly(workdir, experiment):
    with (workdir / "experiment" / "table.csv").open() as file:
        lines = list(csv.DictReader(file))
    assert len(lines) == len(NAMES) * len(SCALES)
    for line in lines:
        row = experiment.rows[line["schedule"], float(line["scale"])]
        assert int(line["num_images"]) == 32
        for who in ("network", "oracle"):
            for name, value in row[who].items():
                assert float(line[f"{who}_{name}"]) == value


def test_text_states_the_numbers_of_the_files(page, experiment):
    row = experiment.rows["gn", 100.0]
    text = page.text
    rates = [row[who]["u_turn_rate"] for who in ("network", "oracle")]
    assert "gn {:.2f} | {:.2f}".format(*rates) in text.replace("\xa0", " ")
    assert "trained for 40 steps" in text
    assert "32 starting noises" in text and "8×8×1" in text
    assert "lie 8 apart" in text  # 2 x 0.5 x sqrt(64)
    # constant excesses of 2e-5 and 5e-5, a constant error of 0.02
    assert "2e-05 with the label" in text and "5e-05 without" in text
    assert "timesteps: 0.02, against" in text
    assert "step 40, digest 0123456789abcdef" in text


def test_loss_of_the_exact_score(config):
    c = config.copy_and_resolve_references()
    c.train.label_drop = 0.0
    alpha_bar = small_experiment.NS.alpha_bar
    signal = alpha_bar * 0.25**2  # var(eps | x_t) of one Gaussian, Bayes' rule
    expected = np.mean(signal / (signal + 1 - alpha_bar))
    np.testing.assert_allclose(reporting._loss_floor(c), expected)
    # var(x0 | x_t) = s^2 sigma^2 / v, and v given x_t varies as x0 / sigma
    variance = signal + 1 - alpha_bar
    c.train.predicts = "v"
    expected = np.mean(0.25**2 / variance)
    np.testing.assert_allclose(reporting._loss_floor(c), expected, rtol=1e-5)
    c.train.predicts, c.train.loss_weight = "x0", "min_snr"
    snr = np.minimum(alpha_bar / (1 - alpha_bar), 5)
    expected = np.mean(snr * 0.25**2 * (1 - alpha_bar) / variance)
    np.testing.assert_allclose(reporting._loss_floor(c), expected, rtol=1e-5)
    c.noise.zero_terminal_snr = True
    assert np.isfinite(reporting._loss_floor(c))


@pytest.mark.parametrize(
    "predicts, words", [("eps", "noise;"), ("x0", "image;"), ("v", "velocity v;")]
)
def test_the_loss_is_of_what_the_network_predicts(config, workdir, predicts, words):
    c = config.copy_and_resolve_references()
    c.train.predicts = predicts
    caption = reporting._captions(c, finished.read(c, str(workdir)))["loss"]
    assert f"error of the predicted {words}" in caption


def test_what_a_user_typed_is_text_and_not_markup(page, workdir):
    assert "--workdir=<runs & co>" in page.text
    assert "<runs" not in (workdir / "report.html").read_text()


@pytest.mark.slow
def test_the_same_files_give_the_same_report(config, workdir):
    paths = [*workdir.glob("figures/*.png"), workdir / "report.html"]
    before = [path.read_bytes() for path in paths]
    reporting.report(config, str(workdir))
    assert [path.read_bytes() for path in paths] == before


@pytest.mark.parametrize(
    "name",
    [
        "experiment/cells/gn_w100.npz",
        "experiment/cells/static_w0.json",
        "experiment/data.npz",
        "experiment/closeness.npz",
        "probe/curve.npz",
        "metrics.jsonl",
        "env.json",
    ],
)
def test_what_is_missing_is_named_with_its_command(
    experiment, config, tmp_path, monkeypatch, name
):
    monkeypatch.setattr(reporting, "_draw", pytest.fail)  # found before any drawing
    experiment.write(tmp_path)
    (tmp_path / name).unlink()
    with pytest.raises(ValueError) as error:
        reporting.report(config, str(tmp_path))
    message = str(error.value)
    assert name in message and "\n" not in message
    assert f"python -m eval.reproduce --config=... --workdir={tmp_path}" in message


def test_results_of_two_checkpoints_are_not_mixed(experiment, config, tmp_path):
    experiment.write(tmp_path)
    path = tmp_path / "experiment" / "cells" / "gn_w0.json"
    row = json.loads(path.read_text())
    row["made_by"]["checkpoint"]["step"] = 20
    path.write_text(json.dumps(row))
    with pytest.raises(ValueError, match="step 20 .* step 40 .*eval.reproduce"):
        reporting.report(config, str(tmp_path))
