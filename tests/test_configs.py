"""Every recipe loads, says nothing unknown, and describes a network that exists."""

import functools
import importlib
import pathlib

import jax
import numpy as np
import pytest

from configs import base
from progguide_jax import comparison, generation, state, sweeping
from progguide_jax.guidance import schedules
from progguide_jax.runtime import validation

ROOT = pathlib.Path(__file__).resolve().parents[1] / "configs"
SWEEPS = ("table1", "table2", "fig7a", "fig7b")
VARIANTS = {
    "cifar10": ("", "cpu", "smoke"),
    "two_gaussians": ("", "smoke"),
    "calibration": ("", "cpu", "smoke"),
    "paper/fig2": ("", "smoke"),
    **{f"paper/{name}": ("", "cpu", "smoke") for name in SWEEPS},
}


def load(name, variant=""):
    module = importlib.import_module("configs." + name.replace("/", "."))
    return module.get_config(*([variant] if variant else []))


def keys(config, prefix=""):
    """{"train.batch_size": type, ...}."""
    result = {}
    for name, value in config.items():
        if hasattr(value, "items"):
            result |= keys(value, f"{prefix}{name}.")
        else:
            result[prefix + name] = type(value)
    return result


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
    validation.validate(config)
    assert keys(config) == keys(base.get_config())
    module = state.network(config)
    made = jax.eval_shape(functools.partial(state.create, config, module))
    height, width, depth = state.image_shape(config)
    x_t = jax.ShapeDtypeStruct((2, height, width, depth), "float32")
    label = jax.ShapeDtypeStruct((2,), "int32")
    eps = jax.eval_shape(state.eps_of_label(module), made.params, x_t, label, label)
    assert eps.shape == x_t.shape and eps.dtype == x_t.dtype
    assert len(generation.timesteps(config)) == config.sample.num_steps
    assert len(generation.timesteps(config, config.train.sample_steps)) == (
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
    assert (c.train.label_drop, c.model.dropout) == (0.1, 0.1)
    assert (c.noise.name, c.noise.num_timesteps) == ("ddpm_linear", 1000)
    assert (c.sample.solver, c.sample.num_steps, c.sample.eta) == ("ddim", 200, 0.0)
    assert c.sample.num_images == 50_000


def test_the_figure_has_every_cell_once():
    c = load("paper/fig2")
    cells = comparison.cells(c)
    names = [comparison.cell_name(cell) for cell in cells]
    assert len(names) == len(set(names)) == 16
    assert {cell.guidance.schedule for cell in cells} <= set(schedules.names())
    assert {cell.guidance.scale for cell in cells} == {0, 10, 50, 100}
    for cell in cells:
        validation.validate(cell)


def test_every_cell_of_a_sweep_is_a_valid_config():
    """A curve shape of each name can be asked for by its name alone."""
    c = load("cifar10", "smoke")
    c.guidance.table = "weights.npy"
    for name in schedules.names():
        c.guidance.schedule = name
        validation.validate(c)


@pytest.mark.parametrize("variant", ("", "cpu", "smoke"))
@pytest.mark.parametrize("name", SWEEPS)
def test_a_sweep_can_be_run_to_its_end(name, variant):
    c = load(f"paper/{name}", variant)
    sweeping.check(c)
    assert c.experiment.folder == name


def test_table_2_is_the_papers():
    """30 cells, each with the two numbers printed for it."""
    c = load("paper/table2")
    names = [sweeping.cell_name(c, cell) for cell in sweeping.cells(c)]
    paper = sweeping.paper(c)
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
    cells = sweeping.cells(c)
    assert len(cells) == 21
    zeros = np.zeros(200, int)
    for cell in cells[1:]:
        omega = generation.make_omega(cell, "", {})
        assert (omega == 0).sum() == 10 and set(omega) == {0, np.float32(0.15)}
        zeros += omega == 0
    np.testing.assert_array_equal(zeros, 1)


def test_scale_zero_comes_once_in_a_sweep():
    c = load("paper/table2", "cpu")
    names = [sweeping.cell_name(c, cell) for cell in sweeping.cells(c)]
    assert [name for name in names if name.endswith("_w0")] == ["static_w0"]
    assert len(names) == 1 + 5 * 4
