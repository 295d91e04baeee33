"""The gallery shows every entry of the registries, and what it shows is right."""

import pathlib

import numpy as np
import pytest

from configs import gallery as recipe
from progguide_jax.experiments import EXPERIMENTS, reproduce
from progguide_jax.experiments.gallery import run
from progguide_jax.guidance import references, rules, schedules


def draw(workdir):
    config = recipe.get_config("smoke")
    reproduce.check(config)
    drawn = run.run(config, workdir)
    page = EXPERIMENTS["gallery"].report(config, workdir, drawn)
    return config, workdir, drawn, pathlib.Path(page)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Every method."""
    return draw(str(tmp_path_factory.mktemp("gallery")))


FEW = {"rule cfg", "rule cfgpp", "reference icg"}


@pytest.fixture(scope="module")
def few(tmp_path_factory):
    """Three methods, and every curve."""
    cells = run.cells
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            run,
            "cells",
            lambda config: [
                cell
                for cell in cells(config)
                if cell.name in FEW or cell.name.startswith("schedule ")
            ],
        )
        yield draw(str(tmp_path_factory.mktemp("few")))


def test_a_cell_for_every_entry():
    """But for the references that no exact model has, and the curves of a user."""
    config = recipe.get_config("smoke")
    found = [cell.name for cell in run.cells(config)]
    assert len(set(found)) == len(found)
    wanted = {f"rule {name}" for name in rules.names()}
    wanted |= {f"schedule {name}" for name in schedules.names() if name != "table"}
    assert wanted < set(found)
    shown = {name.split(" ")[1] for name in set(found) - wanted}
    assert "icg" in shown and shown < set(references.names()) - {"null"}
    entries = references.REFERENCES
    assert not any(entries[n].guide or entries[n].inside for n in shown)


def test_what_is_drawn_is_on_the_page(few):
    _, _, drawn, page = few
    assert set(drawn.effects) == FEW
    assert "reference autoguidance" in drawn.left_out
    assert set(drawn.curves) == set(schedules.names()) - {"table"}
    figures = {"schedules.png", "rules.png", "references.png"}
    assert {p.name for p in (page.parent / "figures").iterdir()} == figures
    lines = (page.parent / "table.md").read_text().splitlines()
    assert sum(line.startswith(("| rule |", "| reference |")) for line in lines) == 3


@pytest.mark.slow
def test_every_method_is_drawn_or_why_not_is_said(made):
    _, _, drawn, page = made
    kinds = {"rule": rules, "reference": references}
    for kind, module in kinds.items():
        for name in set(module.names()) - {"null"}:
            key = f"{kind} {name}"
            assert (key in drawn.effects) != (key in drawn.left_out), key
    assert set(drawn.curves) == set(schedules.names()) - {"table"}
    assert all(f"rule {name}" in drawn.effects for name in rules.names())
    figures = {"schedules.png", "rules.png", "references.png"}
    assert {p.name for p in (page.parent / "figures").iterdir()} == figures
    lines = (page.parent / "table.md").read_text().splitlines()
    assert sum(line.startswith(("| rule |", "| reference |")) for line in lines) == (
        len(drawn.effects)
    )


def test_guidance_acts_on_the_class_axis_only(few):
    """The difference of the exact predictions is along that axis: cfg at any omega
    leaves the others as they are, and so does CFG++."""
    _, _, drawn, _ = few
    cfg, other = drawn.effects["rule cfg"], drawn.effects["rule cfgpp"]
    np.testing.assert_allclose(cfg.across, other.across, atol=1e-4)
    assert np.abs(cfg.axis - other.axis).max() > 0.05


def test_found_again(few):
    config, workdir, drawn, page = few
    files = sorted((page.parent / "methods").glob("*.json"))
    before = [path.stat().st_mtime_ns for path in files]
    again = run.run(config, workdir)
    assert [path.stat().st_mtime_ns for path in files] == before
    for name, effect in drawn.effects.items():
        np.testing.assert_array_equal(effect.axis, again.effects[name].axis)


@pytest.mark.slow
def test_the_numbers_of_the_exact_model(tmp_path):
    """y at the end, its spread, overshoot and U-turns under static guidance of 10, from
    an independent float64 simulation of 4,000 trajectories: 4.65, .108, .28, .19."""
    config = recipe.get_config()
    config.sample.num_steps, config.experiment.gallery.num_images = 200, 2000
    row = run.run(config, str(tmp_path)).effects["rule cfg"].row
    assert row["final_mean"] == pytest.approx(4.65, abs=0.015)
    assert row["final_std"] == pytest.approx(0.108, abs=0.006)
    assert row["overshoot"] == pytest.approx(0.28, abs=0.03)
    assert row["u_turn_rate"] == pytest.approx(0.19, abs=0.05)


@pytest.mark.parametrize(
    ("key", "value", "words"),
    [
        ("guidance.scale", 0.0, "guidance.scale is 0.0: a gallery shows guidance"),
        ("data.name", "synthetic", "only two_gaussians has an exact model"),
        ("experiment.gallery.num_paths", 0, "experiment.gallery.num_paths holds 0"),
    ],
)
def test_bad_configs(key, value, words):
    config = recipe.get_config("smoke")
    config.update_from_flattened_dict({key: value})
    with pytest.raises(ValueError, match=words):
        reproduce.check(config)
