"""Two Gaussians (paper, section 3): dark and bright noisy images, 32x32.

The paper gives no means or deviations: x0 | c ~ N(+-0.125, 0.25^2 I) on 1,024 pixels
puts the classes D = 8 apart on the brightness axis, where large weights cause the
U-turns of Figure 2. The network sees an image through its mean and spread only; it
comes closest to the exact answer in two minutes of two CPU cores.

    python train.py --config=configs/two_gaussians.py --workdir=runs/two_gaussians
    python probe.py --config=configs/two_gaussians.py --workdir=runs/two_gaussians

`:twin` is 8x8 with mean 0.5: the same D, hence the same law on the brightness axis.
`:smoke` takes seconds: 2,048 images of the twin and a U-Net.
"""

from configs import base


def get_config(arg: str = ""):
    c = base.get_config()
    c.data.name = "two_gaussians"
    c.data.channels = 1
    c.data.num_classes = 2
    c.data.flip = False

    c.model.name = "pix_film"
    c.model.label_dim = 32

    c.train.num_steps = 12_000
    c.train.batch_size = 256
    c.train.learning_rate = 2e-3
    c.train.warmup_steps = 200
    c.train.decay = "cosine"
    c.train.ema_decay = 0.999
    c.train.checkpoint_every = 4_000
    c.train.sample_every = 0

    c.probe.num_examples = 100_000
    c.probe.batch_size = 512

    c.guidance.scale = 10.0
    c.guidance.projection = "none"
    c.sample.num_images = 1_000
    c.sample.batch_size = 256

    base.check_arg(arg, ("", "twin", "smoke"))
    if arg:
        c.data.image_size = 8
        c.data.two_gaussians.mean = 0.5
    if arg == "smoke":
        c.data.num_examples = 2_048
        c.model.name = "unet"
        c.model.unet.base_channels = 16
        c.model.unet.channel_mult = (1, 2)
        c.model.unet.num_res_blocks = 1
        c.model.unet.attention_resolutions = ()
        c.model.unet.dropout = 0.0
        c.model.unet.sigma_skip = True
        c.train.num_steps = 40
        c.train.batch_size = 32
        c.train.warmup_steps = 10
        c.train.log_every = 10
        c.train.checkpoint_every = 20
        c.probe.num_examples = 4_000
        c.probe.batch_size = 400
        c.sample.num_images = 48
        c.sample.batch_size = 32
        c.sample.num_steps = 10
    return c
