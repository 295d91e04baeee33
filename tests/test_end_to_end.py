"""The commands as a user types them, those of the README first, in its order.

The first of them run in processes of their own, on two devices. What is asked of a
command after that runs its file in this process: the same lines, without the seconds
that importing JAX takes.
"""

import json
import logging
import os
import pathlib
import runpy
import shutil
import subprocess
import sys

import numpy as np
import pytest
import readme

from configs.paper import fig2
from progguide_jax.runtime import config as config_lib

ROOT = pathlib.Path(__file__).resolve().parents[1]
CIFAR = "--config=configs/cifar10.py:smoke"


def run(*arguments):
    """(exit code, stdout, lines of stderr) of `python *arguments`."""
    done = subprocess.run(
        [sys.executable, *arguments],
        cwd=ROOT,
        env=os.environ | {"JAX_PLATFORMS": "cpu", "JAX_NUM_CPU_DEVICES": "2"},
        capture_output=True,
        text=True,
        timeout=600,
    )
    return done.returncode, done.stdout, done.stderr.splitlines()


@pytest.fixture
def run_here(monkeypatch, capfd):
    """The same in this process."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    monkeypatch.chdir(ROOT)

    def run_here(*arguments):
        module = arguments[0] == "-m"
        file, *rest = arguments[1:] if module else arguments
        monkeypatch.setattr(sys, "argv", [file, *rest])
        capfd.readouterr()
        code = 0
        try:
            runner = runpy.run_module if module else runpy.run_path
            runner(file, run_name="__main__")
        except SystemExit as end:
            code = end.code
        out, err = capfd.readouterr()
        return code, out, err.splitlines()

    yield run_here
    root.handlers[:], root.level = handlers, level


def times(workdir):
    """{path: time of the last change} of what costs something to make."""
    kinds = (".npz", ".npy", ".jsonl")
    found = [p for p in workdir.rglob("*") if p.suffix in kinds and p.is_file()]
    return {str(p): p.stat().st_mtime_ns for p in found}


IN_A_ROW = """
import json, runpy, sys
for sys.argv in json.loads(sys.argv[1]):
    runner = runpy.run_path
    if sys.argv[0] == "-m":
        runner, sys.argv = runpy.run_module, sys.argv[1:]
    try:
        runner(sys.argv[0], run_name="__main__")
    except SystemExit as end:
        assert not end.code, end.code
"""


@pytest.fixture(scope="module")
def runs(make_once):
    """What the README calls runs/, with what its first commands leave: fig2, train.py,
    probe.py and sample.py. One process for the four: imports would take most of it."""

    def make(folder):
        pathlib.Path(folder).mkdir()
        commands = readme.commands(pathlib.Path(folder))[:4]
        code, out, errors = run("-c", IN_A_ROW, json.dumps(commands))
        assert code == 0, errors
        pathlib.Path(folder, "printed.txt").write_text(out)

    return pathlib.Path(make_once("runs", make))


@pytest.fixture(scope="module")
def workdir(runs):
    return runs / "cifar10"


def test_train_probe_sample(workdir):
    steps = [
        json.loads(line)["step"]
        for line in (workdir / "metrics.jsonl").read_text().splitlines()
    ]
    assert steps == [5, 10, 15, 20]
    env = json.loads((workdir / "env.json").read_text())
    assert len(env["devices"]) == 2 and env["argv"][0] == "train.py"
    with np.load(workdir / "probe" / "curve.npz") as curve:
        assert curve["g"].shape == (3, 100) and np.all(curve["g"] > 0)
    (folder,) = (workdir / "samples").glob("gn_w1_*")
    with np.load(folder / "samples.npz") as samples:
        assert samples["images"].shape == (40, 8, 8, 3)
        assert samples["images"].std() > 5
    for picture in ("grids/step_00000020.png", "probe/curve.png"):
        assert (workdir / picture).stat().st_size > 500


def test_finished_commands_find_what_is_there(workdir, runs, run_here):
    """Made on two devices, found on eight."""
    before = times(workdir)
    for command in readme.commands(runs)[1:4]:
        code, _, errors = run_here(*command)
        assert code == 0 and any("already" in line for line in errors), errors
    assert times(workdir) == before


def test_the_rest_of_the_readme(workdir, tmp_path, run_here):
    """On a copy: another rule with a trace, a comparison, a score, the table."""
    cifar = shutil.copytree(workdir, tmp_path / "cifar10")
    rest, printed = readme.commands(tmp_path)[4:], []
    assert len(rest) == 4
    for command in rest:
        code, out, errors = run_here(*command)
        assert code == 0, errors
        printed.append(out)
    (trace,) = cifar.glob("samples/gn_*/trace.png")
    assert trace.stat().st_size > 1000
    for report in ("compare/report.html", "table2/report.html"):
        assert "data:image/png;base64," in (cifar / report).read_text()
    scored = json.loads(printed[2])
    assert scored["samples"].startswith("gn_w1_ddim5") and scored["scores"]
    rows = (cifar / "table2" / "rows.jsonl").read_text().splitlines()
    assert [json.loads(row)["cell"] for row in rows] == ["static_w0.5", "gn_w0.5"]


def test_a_gn_schedule_uses_the_curve_of_the_workdir(workdir, run_here):
    code, _, errors = run_here(
        "sample.py",
        CIFAR,
        f"--workdir={workdir}",
        "--config.guidance.schedule=gn_all",
        "--config.sample.num_images=6",
        "--config.sample.name=by_class",
    )
    assert code == 0, errors
    made = json.loads((workdir / "samples/by_class/samples.json").read_text())
    omega = np.array(made["made_by"]["spec"]["omega"]["null"])
    assert omega.shape == (3, 5)
    np.testing.assert_allclose(omega.mean(1), 0.15, rtol=1e-5)


@pytest.mark.parametrize(
    "command, arguments, code, words",
    [
        (
            "train.py",
            ["--config.train.bach_size=8"],
            2,
            "did you mean --config.train.batch_size",
        ),
        ("train.py", ["--config.train.batch_size=15"], 1, "use 8 or 16"),
        (
            "train.py",
            ["--config.train.learning_rate=1"],
            1,
            "learning_rate: 0.001 -> 1",
        ),
        ("sample.py", ["--config.guidance.schedule=consine"], 2, "mean 'cosine'"),
        ("sample.py", ["--config.guidance.scale=nan"], 2, "guidance scale nan"),
        ("probe.py", ["--config.model.unet.base_channels=32"], 1, "does not fit"),
    ],
)
def test_a_bad_command_ends_in_one_line(
    workdir, run_here, command, arguments, code, words
):
    before = times(workdir)
    got, _, errors = run_here(command, CIFAR, f"--workdir={workdir}", *arguments)
    assert got == code
    ours = [line for line in errors if line.startswith("error: ")]
    assert ours == errors[-1:] and words in ours[0], errors
    assert not any("Traceback" in line for line in errors)
    assert times(workdir) == before


def test_reproduce_writes_a_report(runs):
    """That it finds it again is seen in tests/experiments."""
    out, fig2 = (runs / "printed.txt").read_text(), runs / "fig2"
    (report,) = [line for line in out.splitlines() if line.startswith("report: ")]
    html = pathlib.Path(report.removeprefix("report: ")).read_text()
    assert html.count("data:image/png;base64,") >= 4
    cells = {p.stem for p in (fig2 / "experiment" / "cells").glob("*.json")}
    assert len(cells) == 4  # two schedules, two scales


def test_reproduce_wants_a_config_of_the_paper(tmp_path, run_here):
    code, _, errors = run_here("-m", "eval.reproduce", CIFAR, f"--workdir={tmp_path}")
    assert code == 2
    assert errors[-1].startswith("error: ") and "configs/paper/fig2.py" in errors[-1]


EVAL = (
    "-m", "eval.metrics", CIFAR, "--config.eval.features=pixels",
    "--config.eval.samples=gn_w1",
)  # fmt: skip


def test_samples_are_scored_by_a_command(workdir, tmp_path, run_here):
    fd = "--config.eval.metrics=('fd',)"
    reference = ("-m", "eval.reference", *EVAL[2:4], f"--workdir={tmp_path}")
    code, _, errors = run_here(*reference, "--config.eval.split=test")
    assert code == 0, errors
    (file,) = (tmp_path / "references").glob("*.npz")
    assert file.name.startswith("synthetic_test_pixels")
    code, out, errors = run_here(
        *EVAL,
        fd,
        f"--workdir={workdir}",
        "--config.eval.split=test",
        f"--config.eval.reference={file}",
    )
    assert code == 0, errors
    printed = json.loads(out)
    assert printed["split"] == "test" and printed["scores"]["fd_pixels"]["value"] > 0
    (row,) = (workdir / "scores").glob("*.json")
    assert json.loads(row.read_text())["scores"] == printed["scores"]


def test_metrics_that_nobody_typed_are_those_of_the_features(workdir, run_here):
    code, out, errors = run_here(*EVAL, f"--workdir={workdir}")
    assert code == 0 and list(json.loads(out)["scores"]) == ["fd_pixels"]
    (line,) = [e for e in errors if "logits" in e]
    assert "eval.metrics is fd, without is: the features pixels have no logits" in line
    typed = "--config.eval.metrics=fd,is"
    code, _, errors = run_here(*EVAL, typed, f"--workdir={workdir}")
    assert code == 1 and "without logits" in errors[-1], errors
    code, _, errors = run_here(
        "-m", "eval.compare", f"--workdir={workdir}", "--config.eval.features=pixels",
        "--config.experiment.schedules=static,linear",
    )  # fmt: skip
    assert code == 0 and any("without is" in e for e in errors), errors


@pytest.mark.parametrize(
    "arguments, words, expected",
    [
        (["--config.eval.metrics=('fid',)"], "unknown --config.eval.metrics 'fid'", 2),
        (["--config.eval.samples=/no/such"], "/no/such does not exist", 1),
        (["--config.eval.features=resnet56"], "--config.eval.weights=FILE", 1),
    ],
)
def test_a_score_that_cannot_be_had_is_one_line(
    workdir, run_here, arguments, words, expected
):
    code, _, errors = run_here(*EVAL, f"--workdir={workdir}", *arguments)
    assert code == expected
    assert errors[-1].startswith("error: ") and words in errors[-1], errors
    assert not any("Traceback" in line for line in errors)


@pytest.fixture
def figure(tmp_path):
    """A workdir with the config of a trained figure 2."""
    config_lib.write_provenance(str(tmp_path / "f2"), fig2.get_config("smoke"))
    return tmp_path / "f2"


@pytest.mark.parametrize(
    "command, arguments, words",
    [
        (["sample.py"], ["guidance.apg.eta=1", "sample.ddpm.variance=large"],
         "--config.guidance.apg.eta is set and --config.guidance.rule is 'cfg'"),
        (["sample.py"], ["sample.ddpm.variance=large"], "--config.sample.solver=ddpm"),
        (["probe.py"], ["guidance.apg.eta=1"], "--config.guidance.rule=apg"),
        (["probe.py"], ["probe.num_examples=9"], "9 cannot visit each of 2 classes"),
        (["train.py"], ["guidance.gn.curve=c.npz"], "--config.guidance.schedule=gn"),
        (["-m", "eval.metrics"], ["sample.euler.churn=2"],
         "--config.sample.solver=euler"),
        (["-m", "eval.reproduce"], ["guidance.scale=9"], "--config.experiment.scales"),
        (["-m", "eval.reproduce"], ["guidance.references=autoguidance",
         "guidance.autoguidance.step=20"], "has null only"),
    ],
)  # fmt: skip
def test_a_key_that_does_nothing_is_refused_by_every_command(
    figure, run_here, command, arguments, words
):
    """Also where the workdir is that of an experiment."""
    arguments = [f"--config.{argument}" for argument in arguments]
    code, _, errors = run_here(*command, f"--workdir={figure}", *arguments)
    assert code == 2 and errors[-1].startswith("error: ") and words in errors[-1]
    assert {path.name for path in figure.iterdir()} == {"config.json", "env.json"}


@pytest.mark.parametrize("arguments", ([], ["--config.eval.samples=gn_w1"]))
def test_scores_of_a_mistyped_workdir_do_not_make_it(tmp_path, run_here, arguments):
    typo = tmp_path / "typo"
    code, _, errors = run_here(*EVAL, f"--workdir={typo}", *arguments)
    assert code == 2 and "does not exist" in errors[-1] and not typo.exists()
    samples = f"--config.eval.samples={tmp_path / 'none.npz'}"
    code, _, errors = run_here(*EVAL, f"--workdir={typo}", samples)
    assert code == 1 and "none.npz" in errors[-1]  # samples need no workdir of ours


@pytest.mark.slow
@pytest.mark.parametrize("name", ("table1", "table2", "fig7a", "fig7b", "calibration"))
def test_a_sweep_from_nothing_to_its_report(name, tmp_path):
    path = "calibration" if name == "calibration" else f"paper/{name}"
    command = ("-m", "eval.reproduce", f"--config=configs/{path}.py:smoke")
    code, _, errors = run(*command, f"--workdir={tmp_path}")
    assert code == 0, errors
    assert (tmp_path / name / "table.md").read_text().startswith(("**fd", "| noise"))
    before = times(tmp_path)
    code, _, errors = run(*command, f"--workdir={tmp_path}")
    assert code == 0, errors
    unchanged = {k: v for k, v in before.items() if not k.endswith("rows.jsonl")}
    assert unchanged.items() <= times(tmp_path).items()
