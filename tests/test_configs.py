"""Every recipe loads, says nothing unknown, and describes a network that exists."""

import functools
import importlib
import pathlib

import jax
import numpy as np
import pytest

from configs import base
from progguide_jax.engine import weights
from progguide_jax.experiments import cells as cells_lib
from progguide_jax.experiments import reproduce
from progguide_jax.experiments.sweep import run as sweep
from progguide_jax.guidance import schedules
from progguide_jax.runtime import config as config_lib
from progguide_jax.scoring import eval_checks
from progguide_jax.systems import build, classifier_checks, specs, validation

ROOT = pathlib.Path(__file__).resolve().parents[1] / "configs"
SWEEPS = ("table1", "table2", "fig7a", "fig7b")
VARIANTS = {
    "cifar10": ("", "cpu", "smoke"),
    "classifier": ("", "cpu", "smoke"),
    "two_gaussians": ("", "twin", "smoke"),
    "calibration": ("", "cpu", "smoke"),
    "gallery": ("", "smoke"),
    "paper/fig2": ("", "twin", "smoke"),
    **{f"paper/{name}": ("", "cpu", "smoke") for name in SWEEPS},
}


def load(name, variant=""):
    module = importlib.import_module("configs." + name.replace("/", "."))
    return module.get_config(*([variant] if variant else []))


def keys(config):
    """{"train.batch_size": type, ...}."""
    return {k: type(v) for k, v in config_lib.flat(config.to_dict()).items()}


def test_every_file_is_tested():
    found = {
        str(path.relative_to(ROOT).with_suffix(""))
        for path in ROOT.rglob("*.py")
        if path.stem not in ("base", "__init__")
    }
    assert found == set(VARIANTS)


@pytest.mark.parametrize(
    "name, variant", [(n, v) for n, variants in VARIANTS.items() for v in variants]
)
def test_a_recipe_is_a_valid_change_of_base(name, variant):
    config = load(name, variant)
    validation.check_command(config)
    eval_checks.check_eval(config)
    if config.experiment.name:
        reproduce.check(config)
    assert keys(config) == keys(base.get_config())
    module = build.network(config)
    made = jax.eval_shape(functools.partial(build.create, config, module))
    height, width, depth = build.image_shape(config)
    x_t = jax.ShapeDtypeStruct((2, height, width, depth), "float32")
    if classifier_checks.classifies(config):
        level = build.noise_schedule(config).level(np.zeros(2, int))
        asked = {"params": made.params}, x_t, level
        logits = jax.eval_shape(module.apply, *asked)
        assert logits.shape == (2, config.data.num_classes)
        return
    label = jax.ShapeDtypeStruct((2,), "int32")
    eps_fn = build.eps_of_label(module, build.noise_schedule(config))
    eps = jax.eval_shape(eps_fn, made.params, x_t, label, label)
    assert eps.shape == x_t.shape and eps.dtype == x_t.dtype
    assert len(specs.grid(config).t[1:]) == config.sample.num_steps
    assert len(specs.grid(config, config.train.sample_steps).t[1:]) == (
        config.train.sample_steps
    )


@pytest.mark.parametrize("name", VARIANTS)
def test_an_unknown_variant_names_the_known_ones(name):
    with pytest.raises(ValueError, match="unknown variant :huge: use .*:smoke"):
        load(name, "huge")


def test_the_cifar10_recipe_is_that_of_the_paper_and_of_ddpm():
    c = load("cifar10")
    assert (c.train.learning_rate, c.train.batch_size) == (2e-4, 128)
    assert (c.train.num_steps, c.train.ema_decay) == (800_000, 0.9999)
    assert (c.train.label_drop, c.model.unet.dropout) == (0.1, 0.1)
    assert (c.noise.name, c.noise.num_timesteps) == ("ddpm_linear", 1000)
    assert (c.sample.solver, c.sample.num_steps, c.sample.ddim.eta) == (
        "ddim",
        200,
        0.0,
    )
    assert c.sample.num_images == 50_000


def test_the_figure_has_every_cell_once():
    c = load("paper/fig2")
    cells = cells_lib.product(c)
    names = [cell.name for cell in cells]
    cells = [cell.config for cell in cells]
    assert len(names) == len(set(names)) == 16
    assert {cell.guidance.schedule for cell in cells} <= set(schedules.names())
    assert {cell.guidance.scale for cell in cells} == {0, 10, 50, 100}
    for cell in cells:
        validation.validate(cell)


def test_every_cell_of_a_sweep_is_a_valid_config():
    """A curve shape of each name can be asked for by its name alone."""
    c = load("cifar10", "smoke")
    c.guidance.table.file = "weights.npy"
    c.guidance.interval.t_max = c.guidance.neg_perturb.t_min = 50
    for name in schedules.names():
        c.guidance.schedule = name
        validation.validate(c)


@pytest.mark.parametrize("variant", ("", "cpu", "smoke"))
@pytest.mark.parametrize("name", SWEEPS)
def test_a_sweep_can_be_run_to_its_end(name, variant):
    c = load(f"paper/{name}", variant)
    reproduce.check(c)
    assert c.experiment.folder == name


def test_table_2_is_the_papers():
    """30 cells, each with the two numbers printed for it."""
    c = load("paper/table2")
    names = [cell.name for cell in sweep.cells(c)]
    paper = sweep.paper(c)
    assert len(names) == 30 and set(paper) == set(names)
    # Section 5.1 and Table 2: the best FID of each column
    best = {"static": 2.947, "linear": 2.853, "cosine": 2.813, "gn": 2.774}
    for schedule, fid in (best | {"gn_all": 2.763}).items():
        column = [v["fid"] for k, v in paper.items() if k.startswith(f"{schedule}_w")]
        assert min(column) == fid
    assert paper["gn_all_w0.35"] == {"fid": 2.920, "is": 9.882}
    assert paper["linear_w0.1"] == {"fid": 2.893, "is": 9.595}
    assert (c.sample.num_images, c.sample.num_steps) == (50_000, 200)
    assert c.eval.split == "train" and c.eval.features == "inception"


def test_figure_7b_zeroes_each_tenth_step_of_the_grid_once():
    """20 intervals of 50 timesteps: with 200 DDIM steps each holds exactly ten."""
    c = load("paper/fig7b")
    cells = [cell.config for cell in sweep.cells(c)]
    assert len(cells) == 21
    zeros = np.zeros(200, int)
    for cell in cells[1:]:
        (omega,) = weights.make(cell, "", {}).values()
        assert (omega == 0).sum() == 10 and set(omega) == {0, np.float32(0.15)}
        zeros += omega == 0
    np.testing.assert_array_equal(zeros, 1)


@pytest.mark.parametrize(
    "variant, num_timesteps, count, width",
    [("", 1000, 20, 50), ("cpu", 1000, 10, 100), ("smoke", 100, 5, 20),
     ("", 200, 20, 10), ("smoke", 50, 5, 10)],
)  # fmt: skip
def test_the_windows_of_figure_7b_follow_the_timesteps(
    variant, num_timesteps, count, width
):
    c = load("paper/fig7b", variant)
    c.noise.num_timesteps = num_timesteps
    reproduce.check(c, ["noise.num_timesteps"])
    first, *rest = sweep.cells(c)
    assert first.interval is None and len(rest) == count
    for k, cell in enumerate(rest):
        window = (k * width, (k + 1) * width - 1)
        zeroed = cell.config.guidance.neg_perturb
        assert cell.interval == (zeroed.t_min, zeroed.t_max) == window
        assert cell.name.endswith(f"_t{window[0]}-{window[1]}")


def test_scale_zero_comes_once_in_a_sweep():
    c = load("paper/table2", "cpu")
    names = [cell.name for cell in sweep.cells(c)]
    assert [name for name in names if name.endswith("_w0")] == ["static_w0"]
    assert len(names) == 1 + 5 * 4


def test_every_key_of_base_has_a_comment():
    """Behind it, or on the lines above it."""
    lines = (ROOT / "base.py").read_text().splitlines()
    for above, line in zip(lines, lines[1:], strict=False):
        if line.startswith("    c.") and "section()" not in line:
            assert "  # " in line or above.startswith("    # "), line
