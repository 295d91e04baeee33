"""Score samples: one JSON row in WORKDIR/scores.

python -m eval.metrics --config=configs/cifar10.py:cpu --workdir=runs/cifar10 \\
    --config.eval.features=resnet56 --config.eval.weights=resnet56-4bfd9763.th

The samples are those that sample.py makes with the same flags, or those of
--config.eval.samples: an .npz of ours or of the ADM suite (arr_0), or a folder of PNGs.
"""

from progguide_jax import evaluation
from progguide_jax.runtime import command_line

if __name__ == "__main__":
    command_line.run(evaluation.evaluate)
