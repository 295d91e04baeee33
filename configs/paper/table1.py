"""Table 1: the schedules at 50, 100 and 200 DDIM steps; here on CIFAR-10.

The paper's table is for latent diffusion on ImageNet-256, each schedule at its best
scale there, so its numbers are no comparison; the question is: does the order of the
schedules stay the same? 24 cells of 50,000 images.

    python -m eval.reproduce --config=configs/paper/table1.py --workdir=runs/cifar10

`:cpu` and `:smoke` as in table2.py.
"""

from configs.paper import table2


def get_config(arg: str = ""):
    c = table2.sweep(arg, "table1")
    c.experiment.schedules = ("static", "linear", "cosine", "gn")
    c.experiment.scales, c.experiment.sweep.num_steps = {
        "": ((0.15, 0.20), (50, 100, 200)),  # the best scales of Table 2
        "cpu": ((1.0,), (10, 20, 50)),
        "smoke": ((2.0,), (2, 5)),
    }[arg]
    return c
