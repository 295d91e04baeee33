"""What a score means: real CIFAR-10 images against real ones, clean and under noise.

The test images, with Gaussian pixel noise of 0 ... 64 grey levels, against the training
split. Inception weights as in paper/table2.py; nothing is trained.

    python -m eval.reproduce --config=configs/calibration.py --workdir=runs/calibration

`:cpu` takes the extractors that two cores can run, with --config.eval.weights=FOLDER of
resnet20-12fca82f.th and resnet56-4bfd9763.th. `:smoke` takes seconds.
"""

from configs import cifar10


def get_config(arg: str = ""):
    c = cifar10.get_config(arg)
    c.experiment.name = "calibration"
    c.experiment.folder = "calibration"
    c.experiment.calibration.features = ("inception", "dinov2_vitl14", "clip_vitl14")
    c.eval.metrics = ("fd", "is", "kd", "precision_recall", "density_coverage", "vendi")
    if arg == "cpu":
        c.experiment.calibration.features = ("resnet56", "resnet20", "pixels")
        c.eval.metrics += ("fd_infinity", "diversity", "accuracy")
        c.eval.batch_size = 200
    if arg == "smoke":
        c.experiment.calibration.features = ("pixels",)
        c.experiment.calibration.noise = (0.0, 8.0, 64.0)
        c.eval.metrics = ("fd", "precision_recall", "diversity")
    return c
