"""The README's commands as they stand there, and at the size of a smoke test."""

import pathlib
import re
import shlex

ROOT = pathlib.Path(__file__).resolve().parents[1]
# What stands in the README -> what the tests run; nothing else is changed.
SHRUNK = {
    "--config=configs/cifar10.py:cpu": "--config=configs/cifar10.py:smoke",
    "--config=configs/paper/table2.py:cpu": "--config=configs/paper/table2.py:smoke "
    "--config.experiment.schedules=static,gn --config.experiment.scales=0.5",
    "--config=configs/paper/fig2.py": "--config=configs/paper/fig2.py:smoke "
    "--config.experiment.schedules=static,gn",
    "--config.sample.num_steps=20": "--config.sample.num_steps=8",
    "--config.eval.features=resnet56": "--config.eval.features=pixels "
    "--config.eval.metrics=fd,diversity",
    "--config.eval.weights=DIR": "",
    "eval.compare": "eval.compare --config.experiment.compare.num_images=24",
}


def commands(workdirs: pathlib.Path) -> list[list[str]]:
    """The words of each line `python ...` of the README's blocks, shrunk, with what it
    calls runs/ in this folder."""
    text = (ROOT / "README.md").read_text()
    blocks = "".join(re.findall(r"```bash\n(.*?)```", text, re.S))
    found = []
    for line in blocks.replace("\\\n", " ").splitlines():
        if line.startswith("python "):
            for there, here in SHRUNK.items():
                line = re.sub(rf"(?<=[\s]){re.escape(there)}(?=\s|$)", here, line)
            line = line.replace("--workdir=runs/", f"--workdir={workdirs}/")
            found.append(shlex.split(line)[1:])
    return found
