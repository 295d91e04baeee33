"""What users hand to factories, references and systems: a mistake is one line."""

import numpy as np
import pytest
from linear_network import CURVE, GRID, LABELS, NS, TS, X_T, net

from progguide_jax.diffusion import (
    levels,
    samplers,
    solvers,
    system,
)
from progguide_jax.guidance import projections, references, rules, schedules


@pytest.mark.parametrize("given", [["null"], "null", {"null": None}])
def test_references_are_a_dict_of_dicts(given):
    with pytest.raises(ValueError, match="pass a dict by name of what each needs"):
        references.branches(None, None, given)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: rules.rescale(phi="0.7"), "rescale: phi must be a number, got '0.7'"),
        (lambda: rules.make("apg", eta=None), "apg: eta must be a number, got None"),
        (lambda: rules.apg([0.5]), r"apg: momentum must be a number, got \[0.5\]"),
        (lambda: projections.clip("1"), "clip: bound must be a number, got '1'"),
        (lambda: solvers.ddim("0.5"), "ddim: eta must be a number, got '0.5'"),
        (
            lambda: system.of_network(net, 1.0, NS, (4, 4, 3), num_classes="10"),
            "num_classes is '10': pass an int",
        ),
        (lambda: rules.apg(mom=0), "apg has no setting 'mom': did you mean 'momentum'"),
        (lambda: rules.make("apg", mom=0), "rule 'apg' .*: did you mean 'momentum'"),
        (lambda: levels.karras(20, NS), "noise_schedule is int, no NoiseSchedule"),
        (lambda: levels.karras(NS, "20"), "num_steps must be an int .*, got '20'"),
        (lambda: solvers.ddim(GRID), r"takes settings, .* the grid: ddim\(\)\(grid\)"),
        (lambda: solvers.heun(TS), r"takes settings, .* the grid: heun\(\)\(grid\)"),
        (
            lambda: solvers.ddim()(TS),
            r"the grid is a ndarray: .* levels.from_timesteps",
        ),
        (lambda: solvers.unipc()(NS), "the grid is a NoiseSchedule: pass levels"),
    ],
)
def test_what_a_factory_is_told(make, message):
    with pytest.raises(ValueError, match=message):
        make()


@pytest.mark.parametrize(
    ("name", "given", "message"),
    [
        ("sigma_scale", {"factor": "2"}, "sigma_scale: factor must be a number, got"),
        ("cads", {"mix": None}, "cads: mix must be a number, got None"),
        (
            "autoguidance",
            {"guide": {"w": 1.0}},
            "autoguidance: guide is a dict: pass a",
        ),
        ("autoguidance", {}, "autoguidance needs guide: pass {'autoguidance': {'guide"),
        (
            "sigma_scale",
            {"facto": 2},
            "did you mean 'factor'. use one of factor, space$",
        ),
    ],
)
def test_what_a_reference_is_told(name, given, message):
    model = system.of_network(net, 1.0, NS, (4, 4, 3), num_classes=3)
    with pytest.raises(ValueError, match=message):
        references.branches(model, LABELS, {name: given})
    with pytest.raises(ValueError, match="the model is a dict: pass a System"):
        references.branches({"w": 1.0}, LABELS, {name: given})


def test_what_a_system_of_classes_is_asked():
    """Labels beside the classes are refused, but for the null label; lists of labels
    are arrays; x_T has the shape that the system makes."""
    model = system.of_network(net, 1.0, NS, (4, 4, 3), num_classes=3)
    for wrong in ([0, -1], [0, 55]):
        for asked in (model.condition, lambda k: references.branches(model, k, {})):
            with pytest.raises(
                ValueError, match=f"label {wrong[1]}: use 0 ... 2 .* 3 f"
            ):
                asked(wrong)
    branches = references.branches(model, [0, 3, 2], {"null": {}})
    np.testing.assert_array_equal(branches["cond"].cond, [0, 3, 2])
    plan = solvers.ddim()(levels.from_timesteps(NS, TS))
    with pytest.raises(
        ValueError, match=r"the System makes \(4, 4, 3\): .* \(3, 4, 4, 3"
    ):
        samplers.solve(branches, X_T[:3, ..., :1], plan, omega=CURVE)
    for given in (model, plan):
        with pytest.raises(
            ValueError, match=r"branches are a .*references.branches\(mod"
        ):
            samplers.solve(given, X_T[:3], plan, omega=CURVE)


def test_a_grid_that_begins_in_the_middle_is_said(caplog):
    for short in (samplers.timesteps(1000, 2), samplers.timesteps(1000, 501)):
        levels.from_timesteps(NS, short)
    schedules.make("cosine", 1.0, TS, 1000)
    assert not caplog.text
    levels.from_timesteps(NS, samplers.timesteps(500, 10))
    assert "begins at t = 450 of 0 ... 999, where" in caplog.text
    assert "use samplers.timesteps(1000, 10)" in caplog.text
    schedules.make("cosine", 1.0, TS, 2000)
    assert "timesteps begin at 830 and num_timesteps is 2000" in caplog.text
