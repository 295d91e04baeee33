"""Two hosts of four devices over loopback: the same as one, and what hurts one."""

import json
import os
import pathlib
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import tiny_run

from progguide_jax import launch
from progguide_jax.runtime import files

pytestmark = [pytest.mark.slow, pytest.mark.multihost]

ROOT = pathlib.Path(__file__).parents[1]
RECIPE = tiny_run.recipe(
    "c.train.num_steps, c.train.learning_rate = 60, 1e-2",
    "c.train.warmup_steps, c.train.checkpoint_every = 5, 5",
    "c.probe.num_examples, c.probe.checkpoint_every = 960, 2",
    "c.sample.num_images, c.guidance.schedule = 40, 'gn'",
    "c.eval.features, c.eval.metrics = 'pixels', ('fd',)",
)


@pytest.fixture(scope="module")
def recipe(tmp_path_factory):
    path = tmp_path_factory.mktemp("recipe") / "recipe.py"
    path.write_text(RECIPE)
    return f"--config={path}"


def start(variables, command):
    return subprocess.Popen(
        [sys.executable, *command],
        cwd=ROOT,
        env={k: v for k, v in os.environ.items() if k != "XLA_FLAGS"} | variables,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )


def hosts(count, devices, *command):
    """The processes of a run: one for each host."""
    if count == 1:
        alone = {"JAX_PLATFORMS": "cpu", "JAX_NUM_CPU_DEVICES": str(devices)}
        return [start(alone, command)]
    found = launch.environments(count, devices, launch.free_port())
    return [start(variables, command) for variables in found]


def ended(processes, seconds=300):
    """(exit code, what it said) of each."""
    try:
        said = [process.communicate(timeout=seconds)[1] for process in processes]
    finally:
        for process in processes:
            process.kill()
    return [
        (process.returncode, words)
        for process, words in zip(processes, said, strict=True)
    ]


def run(count, devices, *command):
    codes = ended(hosts(count, devices, *command))
    assert [code for code, _ in codes] == [0] * count, codes


def everything(count, devices, recipe, workdir, *more):
    for command in (["train.py"], ["probe.py"], ["sample.py"], ["-m", "eval.metrics"]):
        run(count, devices, *command, recipe, f"--workdir={workdir}", *more)


def losses(workdir):
    lines = (workdir / "metrics.jsonl").read_text().splitlines()
    return np.array([json.loads(line)["loss"] for line in lines])


def results(workdir):
    """Losses, g(t) and samples."""
    (samples,) = workdir.glob("samples/*/samples.npz")
    curve = files.load_npz(workdir / "probe" / "curve.npz")["g"]
    return losses(workdir), curve, files.load_npz(samples)["images"]


def test_one_device_eight_and_two_hosts_of_four_find_the_same(recipe, tmp_path):
    found = {}
    for count, devices in ((1, 1), (1, 8), (2, 4)):
        workdir = tmp_path / f"{count}x{devices}"
        everything(count, devices, recipe, workdir)
        found[count, devices] = results(workdir)
    run(2, 4, "train.py", recipe, f"--workdir={tmp_path}/fsdp", "--config.train.fsdp")
    reference = found.pop((1, 8))
    # the devices' sums are added in another order: float32 rounding, which Adam carries
    for other in found.values():
        for ours, theirs in zip(reference[:2], other[:2], strict=True):
            np.testing.assert_allclose(ours, theirs, rtol=1e-4)
        np.testing.assert_array_equal(reference[2], other[2])
    np.testing.assert_allclose(losses(tmp_path / "fsdp"), reference[0], rtol=1e-4)


def test_a_training_goes_on_elsewhere(recipe, tmp_path):
    """Two hosts, then eight devices with split parameters, then one."""
    straight, moved = tmp_path / "straight", tmp_path / "moved"
    run(1, 8, "train.py", recipe, f"--workdir={straight}")
    places = ((2, 4, "20"), (1, 8, "40"), (1, 1, "60"))
    for count, devices, steps in places:
        run(
            count, devices, "train.py", recipe, f"--workdir={moved}",
            f"--config.train.num_steps={steps}",
            f"--config.train.fsdp={str(devices == 8).lower()}",
        )  # fmt: skip
    np.testing.assert_allclose(losses(moved), losses(straight), rtol=1e-4)


@pytest.mark.parametrize("victim", [0, 1])
@pytest.mark.parametrize("number, code", [(signal.SIGKILL, 75), (signal.SIGTERM, 75)])
def test_one_of_two_is_hurt_and_the_same_command_goes_on(
    recipe, tmp_path, victim, number, code
):
    straight, hurt = tmp_path / "straight", tmp_path / "hurt"
    command = ["train.py", recipe, "--config.train.num_steps=400"]
    processes = hosts(2, 4, *command, f"--workdir={hurt}")
    until = time.monotonic() + 120
    while not list(hurt.glob("checkpoints/[1-9]*")) and time.monotonic() < until:
        time.sleep(0.1)
    processes[victim].send_signal(number)
    begun = time.monotonic()
    (other,) = ended([processes[1 - victim]])
    assert time.monotonic() - begun < 30
    ended([processes[victim]])
    assert other[0] == code, other
    gone = f"error: host {victim} is gone"
    saved = "interrupted: stopped by a signal"
    assert f"\n{gone if number == signal.SIGKILL else saved}" in other[1], other
    for workdir in (straight, hurt):
        run(2, 4, *command, f"--workdir={workdir}")
    np.testing.assert_array_equal(losses(hurt), losses(straight))


@pytest.mark.parametrize(
    "change, words",
    [
        (
            "--config.train.learning_rate=0.1",
            "another --config.train.learning_rate than host 0",
        ),
        ("--workdir={tmp}/b", "is not shared"),
        ("--config.train.batch_size=15", "train.batch_size"),
    ],
)
def test_hosts_that_do_not_do_the_same_are_refused_at_once(
    recipe, tmp_path, change, words
):
    command = ["train.py", recipe, f"--workdir={tmp_path}/a"]
    found = launch.environments(2, 1, launch.free_port())
    other = [*command, change.format(tmp=tmp_path)]
    processes = [start(found[0], command), start(found[1], other)]
    begun = time.monotonic()
    for code, said in ended(processes):
        assert code == 1 and words in said.splitlines()[-1], (code, said)
    assert time.monotonic() - begun < 60
    assert not (tmp_path / "a" / "checkpoints").exists()


def test_a_host_that_does_not_come_is_said(recipe, tmp_path):
    (variables, _) = launch.environments(2, 1, launch.free_port())
    command = ["train.py", recipe, f"--workdir={tmp_path}", "--config.hosts.timeout=5"]
    ((code, said),) = ended([start(variables, command)], seconds=60)
    assert code == 1 and "the other hosts did not come within 5 s" in said
