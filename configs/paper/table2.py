"""Table 2 and Figure 5a: FID and IS of five schedules at six scales, CIFAR-10.

Trains and probes first if the workdir has not been; 30 cells of 50,000 images and 200
DDIM steps each: for a GPU or a TPU pod. FID and IS take the weights of the 2015
Inception (eval.weights, or where torch-fidelity or pytorch-fid have left them).

    python -m eval.reproduce --config=configs/paper/table2.py --workdir=runs/cifar10

`:cpu` asks the same of a small model: hours on two cores, fd_resnet56 and is_resnet56
with --config.eval.weights=FILE. `:smoke` takes a minute and needs nothing.
"""

from configs import cifar10

SCHEDULES = ("static", "linear", "cosine", "gn", "gn_all")

# scale: FID, IS for each of SCHEDULES, as printed
PRINTED = {
    0.10: (2.966, 9.564, 2.893, 9.595, 2.875, 9.606, 2.862, 9.609, 2.862, 9.609),
    0.15: (2.947, 9.645, 2.853, 9.666, 2.824, 9.670, 2.795, 9.664, 2.806, 9.659),
    0.20: (2.971, 9.690, 2.854, 9.729, 2.813, 9.726, 2.774, 9.723, 2.763, 9.723),
    0.25: (3.025, 9.733, 2.897, 9.799, 2.850, 9.794, 2.807, 9.776, 2.803, 9.781),
    0.30: (3.111, 9.764, 2.968, 9.833, 2.933, 9.838, 2.858, 9.833, 2.856, 9.839),
    0.35: (3.233, 9.787, 3.062, 9.872, 3.026, 9.882, 2.915, 9.878, 2.920, 9.882),
}


def get_config(arg: str = ""):
    c = sweep(arg, "table2")
    c.experiment.schedules = SCHEDULES
    if not arg:
        c.experiment.scales = tuple(PRINTED)
        c.experiment.sweep.paper = paper()
    if arg == "cpu":
        c.experiment.scales = (0.0, 0.5, 1.0, 2.0, 4.0)
        c.experiment.sweep.paper = paper()
    return c


def sweep(arg: str, folder: str):
    """What every sweep on CIFAR-10 begins with."""
    c = cifar10.get_config(arg)
    c.experiment.name = "sweep"
    c.experiment.folder = folder
    c.eval.metrics = ("fd", "is", "kd", "precision_recall", "density_coverage")
    if arg == "cpu":
        _shrink(c)
    if arg == "smoke":
        _smoke(c)
    return c


def paper():
    """(cell, score, number) of the whole table."""
    return tuple(
        (f"{schedule}_w{scale:g}", score, numbers[2 * i + j])
        for scale, numbers in PRINTED.items()
        for i, schedule in enumerate(SCHEDULES)
        for j, score in enumerate(("fid", "is"))
    )


def _shrink(c) -> None:
    """What two cores can do: more training than cifar10.py:cpu, fewer images."""
    c.train.num_steps = 10_000
    c.sample.num_images = 800
    c.sample.num_steps = 20
    c.sample.batch_size = 64
    c.eval.features = "resnet56"
    c.eval.metrics = ("fd", "fd_infinity", "is", "precision_recall")
    c.eval.metrics += ("density_coverage", "vendi", "diversity", "accuracy")


def _smoke(c) -> None:
    """Synthetic images, features without weights."""
    c.experiment.scales = (0.5, 2.0)
    c.experiment.sweep.axes = ("diversity", "fd")
    c.eval.features = "pixels"
    c.eval.metrics = ("fd", "precision_recall", "diversity")
