"""Every schedule drawn, every rule's and reference's effect on two Gaussians, one page.

    python -m eval.reproduce --config=configs/gallery.py --workdir=runs/gallery

The exact model of 8x8 images is guided: nothing is trained. `:smoke` takes fewer
trajectories and steps.
"""

from configs import base, two_gaussians


def get_config(arg: str = ""):
    base.check_arg(arg, ("", "smoke"))
    c = two_gaussians.get_config("smoke" if arg == "smoke" else "twin")
    c.experiment.name = "gallery"
    c.experiment.folder = "gallery"
    c.guidance.scale = 10.0
    c.sample.num_steps = 100
    c.experiment.gallery.settings = (
        "guidance.interval.t_min=200 guidance.interval.t_max=600",
        "guidance.neg_perturb.t_min=450 guidance.neg_perturb.t_max=499",
    )
    if arg == "smoke":
        c.sample.num_steps = 10
        c.experiment.gallery.num_images = 16
        c.experiment.gallery.num_paths = 4
    return c
