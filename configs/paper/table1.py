"""Table 1: the schedules at 50, 100 and 200 DDIM steps; here on CIFAR-10.

The paper's table is for latent diffusion on ImageNet-256, each schedule at its best
scale there, so its numbers are no comparison; the question is: does the order of the
schedules stay the same? 24 cells of 50,000 images.

    python -m eval.reproduce --config=configs/paper/table1.py --workdir=runs/cifar10

`:cpu` and `:smoke` as in table2.py.
"""

from configs import cifar10
from configs.paper import table2


def get_config(arg: str = ""):
    c = cifar10.get_config(arg)
    c.experiment.name = "sweep"
    c.experiment.folder = "table1"
    c.experiment.schedules = ("static", "linear", "cosine", "gn")
    c.experiment.scales = (0.15, 0.20)  # the best of Table 2
    c.experiment.num_steps = (50, 100, 200)
    if arg == "cpu":
        table2.shrink(c)
        c.experiment.scales = (1.0,)
        c.experiment.num_steps = (10, 20, 50)
    if arg == "smoke":
        table2.smoke(c)
        c.experiment.scales = (2.0,)
        c.experiment.num_steps = (2, 5)
    return c
