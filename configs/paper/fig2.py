"""Figures 2, 3 and 4 on two Gaussians: guidance that goes astray, and what a schedule
mends, with the exact answer laid over the network's.

Trains, probes, then samples every schedule at every scale from the same noise, with the
network and with the exact model. Cost: under 5 minutes on two CPU cores.

    python -m eval.reproduce --config=configs/paper/fig2.py --workdir=runs/fig2

`:smoke` takes seconds (8x8 images, a U-Net hardly trained).
"""

from configs import two_gaussians


def get_config(arg: str = ""):
    c = two_gaussians.get_config(arg)
    c.experiment.name = "two_gaussians"
    if arg == "smoke":
        c.experiment.scales = (0.0, 10.0)
        c.experiment.two_gaussians.num_images = 16
        c.experiment.two_gaussians.num_paths = 8
    return c
