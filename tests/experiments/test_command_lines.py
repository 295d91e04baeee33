"""Each line of --commands is a command whose config is that of its cell."""

import shlex

import pytest

from progguide_jax import experiments
from progguide_jax.experiments import command_lines, reproduce
from progguide_jax.runtime import parsing

TYPED = [
    "--config=configs/paper/table2.py:smoke",
    "--workdir=runs/my table",
    "--config.experiment.scales=0,0.5",
    "--config.sample.seed=3",
]


def parsed(words):
    config, _, given, _ = parsing.parse(words, parsing.recipe(words))
    return config, given


def test_the_lines_make_the_cells(monkeypatch, capsys):
    config, given = parsed(["eval.reproduce", *TYPED])
    reproduce.check(config, given)
    monkeypatch.setattr(
        command_lines.sys, "argv", ["reproduce.py", *TYPED, "--commands"]
    )
    command_lines.show(config, "runs/my table")
    train, probe, *lines = capsys.readouterr().out.splitlines()
    assert shlex.split(train)[:2] == ["python", "train.py"]
    assert shlex.split(probe)[:2] == ["python", "probe.py"]
    cells = experiments.EXPERIMENTS["sweep"].cells(config)
    assert len(lines) == len(cells) > 3
    for line, cell in zip(lines, cells, strict=True):
        words = shlex.split(line)
        middle = words.index("&&")
        sample, metrics = words[:middle], words[middle + 1 :]
        assert sample[1] == "sample.py" and metrics[1:3] == ["-m", "eval.metrics"]
        assert sample[2:] == metrics[3:] and "--workdir=runs/my table" in sample
        made, typed = parsed(sample[1:])
        for section in ("guidance", "sample", "model", "noise"):
            assert made[section].to_dict() == cell.config[section].to_dict(), line
        assert not [key for key in typed if key.startswith("experiment.")]


def test_what_is_the_experiments_own_may_be_typed_in_two_words():
    typed = "--commands=true --config a.py --config.experiment.scales 0,0.5 --workdir x"
    kept = command_lines._of_every_command(typed.split())
    assert kept == ["--config", "a.py", "--workdir", "x"]


def test_an_experiment_that_samples_by_itself_has_no_lines():
    config, _ = parsed(["eval.reproduce", "--config=configs/gallery.py", "--workdir=x"])
    with pytest.raises(ValueError, match="cells of gallery do not run apart"):
        command_lines.lines(config, [])
