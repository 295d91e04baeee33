"""Each benchmark runs at its smallest and counts what it should."""

import importlib.util
import json
import pathlib
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).parents[1]
needs_torch = pytest.mark.skipif(
    importlib.util.find_spec("torch") is None, reason="compares with PyTorch"
)


@pytest.mark.slow
@pytest.mark.parametrize(
    "name",
    [
        "sampling",
        "solvers",
        "probing",
        "training",
        "frechet",
        "memory",
        "rules",
        "scaling",
        pytest.param("against_torch", marks=needs_torch),
    ],
)
def test_smoke(name, tmp_path):
    # a process of its own: the number of CPU devices is set before the first one
    out = tmp_path / "row.json"
    command = [sys.executable, "-m", f"benchmarks.{name}", "--smoke", f"--out={out}"]
    subprocess.run(command, cwd=ROOT, check=True, timeout=600)
    rows = {r["what"]: r for r in json.loads(out.read_text())["rows"]}
    if name == "scaling":  # one all-reduce, where there is anybody to speak to
        counts = [rows[f"collectives, {n} devices"]["median"] for n in (1, 2)]
        assert counts == [0, 1]
        return
    assert all(r["median"] > 0 for r in rows.values())
    if name == "sampling":
        assert rows["compilations: 5 schedules x ddim, ddpm"]["median"] == 1
