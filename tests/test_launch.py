"""Several hosts on one machine: what each is told, what comes back."""

import pytest

from configs import base
from progguide_jax import launch
from progguide_jax.runtime import hosts

SCRIPT = """
import os, sys
number = os.environ["JAX_PROCESS_ID"]
print("a bar", number, end="\\r")
print("said", os.environ["JAX_NUM_PROCESSES"], os.environ["JAX_NUM_CPU_DEVICES"])
print("wrong", *sys.argv[1:], file=sys.stderr)
sys.exit(3 * (number == "1"))
"""


def test_each_host_has_its_number_and_the_first_failure_is_the_answer(
    tmp_path, monkeypatch, capfd
):
    monkeypatch.setattr(launch.signal, "signal", lambda number, handler: None)
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    code = launch.main(["--processes=2", "--devices=4", str(script), "--config=x"])
    out, err = capfd.readouterr()
    assert code == 3
    assert sorted(out.splitlines()) == [
        "[0] a bar 0", "[0] said 2 4", "[1] a bar 1", "[1] said 2 4",
    ]  # fmt: skip
    assert sorted(err.splitlines()) == ["[0] wrong --config=x", "[1] wrong --config=x"]


def test_what_it_sets_is_what_the_hosts_read():
    for index, variables in enumerate(launch.environments(3, 2, 4000)):
        told = hosts.arguments(base.get_config(), variables)
        assert told["process_id"] == index and told["num_processes"] == 3
        assert told["coordinator_address"] == "127.0.0.1:4000"


@pytest.mark.parametrize("words", [["--processes=0", "x.py"], []])
def test_misuse_is_told(words, capsys):
    with pytest.raises(SystemExit) as end:
        launch.main(words)
    assert end.value.code == 2
    assert capsys.readouterr().err.splitlines()[-1].startswith("python -m progguide")
