"""Figure 7a: FID and IS of curves that rise and curves that fall, CIFAR-10.

The paper names static, linear, inverted linear, cosine and sine beside gn, and prints
no numbers: 36 cells of 50,000 images, 200 DDIM steps.

    python -m eval.reproduce --config=configs/paper/fig7a.py --workdir=runs/cifar10

`:cpu` and `:smoke` as in table2.py.
"""

from configs.paper import table2


def get_config(arg: str = ""):
    c = table2.sweep(arg, "fig7a")
    c.experiment.schedules = ("static", "linear", "invlinear", "cosine", "sine", "gn")
    if not arg:
        c.experiment.scales = tuple(table2.PRINTED)
    if arg == "cpu":
        c.experiment.scales = (0.5, 1.0, 2.0, 4.0)
    return c
