"""Figure 7b: FID when the weight is 0 on one interval of 50 timesteps, CIFAR-10.

Static guidance at 0.15 with each of the 20 intervals zeroed in turn (negative
perturbation, A.1), beside the unperturbed run: 21 cells of 50,000 images, 200 DDIM
steps. A workdir of configs/cifar10.py that is trained is used as it is.

    python -m eval.reproduce --config=configs/paper/fig7b.py --workdir=runs/cifar10

`:cpu` and `:smoke` as in table2.py.
"""

from configs.paper import table2


def get_config(arg: str = ""):
    c = table2.sweep(arg, "fig7b")
    scale, count = {"": (0.15, 20), "cpu": (1.0, 10), "smoke": (2.0, 5)}[arg]
    c.experiment.schedules = ("static",)
    c.experiment.scales = (scale,)
    c.experiment.sweep.num_intervals = count
    return c
