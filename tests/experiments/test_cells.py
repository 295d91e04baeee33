"""Cells of an experiment: what each sets, what it is called, what is refused."""

import pathlib
import shutil

import pytest

from configs import base
from configs.paper import table2
from progguide_jax.experiments import cells, overrides, reproduce, settings
from progguide_jax.systems import validation


@pytest.fixture
def config():
    c = base.get_config()
    c.experiment.name = "sweep"
    c.guidance.scale = 0.5
    return c


def names(made):
    return [cell.name for cell in made]


def test_a_product_has_every_combination_once(config):
    config.experiment.schedules, config.experiment.scales = ("linear", "gn"), (0, 2)
    made = cells.product(config, num_steps=(5, 10), intervals=((0, 9),))
    combinations = [
        (cell.config.guidance.schedule, cell.config.guidance.scale,
         cell.config.sample.num_steps, cell.interval)
        for cell in made
    ]  # fmt: skip
    kinds = [("linear", None), ("gn", None), ("neg_perturb", (0, 9))]
    assert combinations == [
        (name, scale, steps, window)
        for steps in (5, 10)
        for name, window in kinds
        for scale in (0, 2)
    ]
    assert len(set(names(made))) == 12
    assert names(made)[:2] == ["linear_w0_s5", "linear_w2_s5"]
    assert names(made)[5] == "neg_perturb_w2_t0-9_s5"
    # plain sampling once, as static, whatever comes first
    once = cells.product(config, plain_once=True)
    assert names(once) == ["static_w0", "linear_w2", "gn_w2"]


def test_given_cells_set_any_key_and_are_named_by_what_varies(config):
    config.experiment.cells = (
        "guidance.schedule=gn guidance.scale=2",
        "guidance.scale=2 sample.solver=ddpm sample.offset=0",
        (("sample.num_steps", 20), ("sample.double_batch", True)),
        "guidance.normalize='my file' sample.double_batch=false",
    )
    made = cells.given(config)
    # offset is set, to what all cells have
    assert names(made) == [
        "gn_w2_s200",
        "static_w2_solver=ddpm_s200",
        "static_w0.5_double_batch=True_s20",
        "static_w0.5_normalize=my-file_double_batch=False_s200",
    ]
    assert [cell.variant for cell in made] == [
        "", "solver=ddpm", "double_batch=True",
        "normalize=my file, double_batch=False",
    ]  # fmt: skip
    assert made[3].config.guidance.normalize == "my file"
    assert made[1].config.sample.offset == 0 and made[2].config.sample.num_steps == 20
    assert config.sample.num_steps == 200 and config.guidance.scale == 0.5


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("guidance.schedul=gn", "unknown config key 'guidance.schedul': did you mean "
         "guidance.schedule"),
        ("scale=3", "did you mean guidance.scale or"),
        ("sample.num_steps=many", "sample.num_steps is 'many': type a whole "
         "number"),
        ("sample.num_steps=2.5", "sample.num_steps is '2.5': type a whole number"),
        ("guidance.scale=1/2", "guidance.scale is '1/2': type a decimal number"),
        ("sample.double_batch=perhaps", "type true or false"),
        ((("sample.solver", 5),), "sample.solver is 5: it must be a str"),
        ("guidance.scale", "write each cell as 'KEY=VALUE KEY=VALUE'"),
        ("", "write each cell as"),
        ("guidance.normalize='a", "No closing quotation"),
        ("train.num_steps=5", "sets train.num_steps: the cells of a sweep share one"),
        ("guidance.scale=1 guidance.scale=2", "sets guidance.scale twice: put a ; "
         "between two cells"),
        ("guidance.rule=apg,guidance.rule=cfg", "put a ; between two cells"),
        (("guidance.scale", 2.0), "or pairs (KEY, VALUE)"),
        (5, "or pairs (KEY, VALUE)"),
    ],
)  # fmt: skip
def test_what_no_cell_can_be_is_one_line(config, text, words):
    with pytest.raises(ValueError) as error:
        overrides.apply(config, overrides.parse(text))
    assert words in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"experiment.cells": ("guidance.scale=2", "guidance.scale=2.0")},
         "two cells have the name static_w2"),
        ({"experiment.cells": ("sample.seed=1", "sample.num_images=2000")},
         "sample.num_images differs"),
        ({"experiment.cells": ("sample.name=a", "sample.name=b")}, "leave it empty"),
        ({"experiment.cells": ("sample.solver=dim",)}, "unknown sample.solver"),
        ({"experiment.cells": ("sample.seed=1",),
          "experiment.sweep.num_steps": (5, 10)}, "num_steps are both set"),
        ({"experiment.cells": ("sample.seed=1",), "experiment.name": "calibration"},
         "only a sweep takes cells"),
    ],
)  # fmt: skip
def test_cells_that_do_not_make_a_sweep_are_refused(changes, words):
    config = table2.get_config("cpu")
    config.experiment.sweep.paper = ()
    config.update_from_flattened_dict(changes)
    with pytest.raises(ValueError, match=words) as error:
        reproduce.check(config)
    assert "\n" not in str(error.value)


def test_cells_stand_instead_of_the_schedules():
    config = table2.get_config("smoke")
    config.experiment.cells = ("sample.seed=1", "sample.seed=2")
    config.experiment.schedules = ()
    reproduce.check(config)


@pytest.mark.parametrize(
    ("second", "words"),
    [
        ("guidance.scale=2 guidance.apg.momentum=0.3",
         "cell static_w2.*: guidance.apg.momentum is set and guidance.rule is 'cfg'"),
        ("guidance.scale=2 sample.euler.churn_min=0.1",
         "sample.euler.churn_min is set and sample.solver is 'ddim'"),
        ("sample.solver=euler sample.euler.churn_min=0.1", "set churn too"),
    ],
)  # fmt: skip
def test_a_key_must_act_in_the_cell_that_sets_it(second, words):
    """Not in another: the first cell here uses them all."""
    config = table2.get_config("smoke")
    first = "guidance.rule=apg guidance.apg.momentum=0.1 sample.solver=euler "
    first += "sample.euler.churn=1 sample.euler.churn_min=0.2"
    config.experiment.cells = (first,)
    reproduce.check(config)
    config.experiment.cells = (first, second)
    with pytest.raises(ValueError, match=words) as error:
        reproduce.check(config)
    assert "experiment.cells" in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("guidance.references=autoguidance", ("autoguidance",)),
        ("guidance.references=null,autoguidance", ("null", "autoguidance")),
        ("guidance.references=('null','autoguidance')", ("null", "autoguidance")),
        ("guidance.references=\"('null','autoguidance')\"", ("null", "autoguidance")),
        ((("guidance.references", "autoguidance"),), ("autoguidance",)),
        ((("guidance.references", ("null",)),), ("null",)),
    ],
)
def test_references_are_names_between_commas(config, text, value):
    made = overrides.apply(config, overrides.parse(text))
    assert made.guidance.references == value


@pytest.mark.parametrize("by", ("scales", "cells"))
def test_a_rule_of_other_scales_is_swept_by_itself(by):
    """CFG++ takes -1 ... 0; the recipe's own scale is read by no cell."""
    config = table2.get_config("smoke")
    config.guidance.scale, config.guidance.rule = 0.15, "cfgpp"
    config.experiment.schedules = ("static", "linear")
    config.experiment.scales = (-0.5, -0.25)
    if by == "cells":
        config.experiment.cells = ("guidance.scale=-0.5", "guidance.scale=-0.25")
    experiment = reproduce.check(config)
    every = experiment.cells(config)
    shared = settings.shared(config, every)
    validation.validate(shared)  # as training and probing do
    assert shared.guidance.scale == -0.5 and config.guidance.scale == 0.15
    config.experiment.scales = (-0.5, 0.5)
    config.experiment.cells = ()
    with pytest.raises(ValueError, match="cell static_w0.5: .*takes -1 ... 0"):
        reproduce.check(config)
    config.guidance.rule, config.experiment.scales = "cfg", (0.5,)
    assert settings.shared(config, every) is config


def test_a_table_is_of_the_last_checkpoint(tiny, trained, workdir_copy):
    """Or of the one that is named, not of an older one that happens to be there."""
    workdir = pathlib.Path(workdir_copy(trained))
    shutil.rmtree(workdir / "checkpoints" / "6")
    with pytest.raises(ValueError, match="is at step 4 of 6: run train.py"):
        cells.models([cells.Cell("a", tiny)], str(workdir))
    tiny.checkpoint.step = 4
    (run,) = cells.models([cells.Cell("a", tiny)], str(workdir))
    assert run.system.origin["checkpoint"]["step"] == 4
