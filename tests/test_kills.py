"""kill -9 again and again: in the end everything is as if nothing had happened."""

import os
import pathlib
import random
import re
import signal
import subprocess
import sys

import numpy as np
import pytest
import tiny_run

from progguide_jax.engine import probing, sampling, training
from progguide_jax.runtime import files

ROOT = pathlib.Path(__file__).parents[1]
RECIPE = tiny_run.recipe(
    "c.train.num_steps, c.train.checkpoint_every = 400, 4",
    "c.probe.num_examples, c.probe.checkpoint_every = 9600, 1",
    "c.sample.num_images = 400",
)
PROGRAM = """
import sys
import jax
jax.config.update("jax_platforms", "cpu")
jax.config.update("jax_num_cpu_devices", 8)
sys.path.insert(0, sys.argv[1])
import recipe
from progguide_jax.engine import probing, sampling, training
from progguide_jax.runtime import checkpoints
print("working", flush=True)
for command in (training.train, probing.probe, sampling.generate):
    command(recipe.get_config(), sys.argv[2])
"""
LEFTOVER = re.compile(r".*\.tmp$|.*orbax-checkpoint-tmp.*|part_.*|accumulator.*")


@pytest.mark.slow
def test_twenty_kills_change_nothing_and_leave_nothing(tmp_path, monkeypatch):
    (tmp_path / "recipe.py").write_text(RECIPE)
    workdir, straight = tmp_path / "killed", tmp_path / "straight"
    command = [sys.executable, "-c", PROGRAM, str(tmp_path), str(workdir)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    generator, kills = random.Random(0), 0
    for _ in range(60):
        with subprocess.Popen(
            command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE
        ) as process:
            assert process.stdout.readline() == b"working\n"
            try:
                limit = generator.uniform(1.0, 6.0) if kills < 20 else 240
                _, errors = process.communicate(timeout=limit)
            except subprocess.TimeoutExpired:
                process.kill()
                kills += 1
                continue
        assert process.returncode in (0, -signal.SIGKILL), errors.decode()[-2000:]
        if kills >= 20:
            break
    assert kills == 20 and process.returncode == 0
    names = [path.name for path in workdir.rglob("*") if LEFTOVER.fullmatch(path.name)]
    assert names == [] and not list(workdir.rglob(".*"))

    monkeypatch.syspath_prepend(str(tmp_path))
    import recipe

    for run in (training.train, probing.probe, sampling.generate):
        run(recipe.get_config(), str(straight))
    for path in straight.rglob("*.npz"):
        ours = files.load_npz(workdir / path.relative_to(straight))
        for name, values in files.load_npz(path).items():
            np.testing.assert_array_equal(ours[name], values, err_msg=path.name)
