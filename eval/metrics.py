"""Score samples: one JSON row in WORKDIR/scores.

python -m eval.metrics --config=configs/cifar10.py:cpu --workdir=runs/cifar10 \\
    --config.eval.features=resnet56 --config.eval.weights=resnet56-4bfd9763.th

The samples are those that sample.py makes with the same flags, or what eval.samples
names: a folder of WORKDIR/samples, by its name or the beginning of it; or a path: an
.npz of ours or of the ADM suite (arr_0), or a folder of PNGs. Samples of ours are
scored against the data that they were made from.

python -m eval.metrics --config=configs/cifar10.py:cpu --workdir=runs/cifar10 \\
    --config.eval.samples=gn_w1
"""

from etils import epath

from progguide_jax.runtime import command_line
from progguide_jax.scoring import eval_checks, evaluation
from progguide_jax.systems import validation


def has_a_path(config) -> bool:
    """Whether eval.samples is a path, and no folder of the workdir."""
    path = config.eval.samples
    return "/" in path or epath.Path(path or "/no").expanduser().exists()


def check(config, given) -> None:
    """Metrics that nobody typed are those that the features can give."""
    validation.check_command(config, given)
    eval_checks.leave_out_impossible(config, given)
    eval_checks.check_eval(config)


if __name__ == "__main__":
    command_line.run(
        evaluation.evaluate, new_workdir=has_a_path, check=check, sections=("eval",)
    )
