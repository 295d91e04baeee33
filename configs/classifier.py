"""A classifier of noisy images, for classifier guidance (Dhariwal and Nichol 2021).

The data and the noise schedule of configs/cifar10.py, whose variants it has; the way
down of a U-Net of 64 channels, and a pooling by attention.

    python train.py --config=configs/classifier.py --workdir=CLASSIFIER
    python sample.py --workdir=DIR --config.guidance.references=classifier \\
        --config.guidance.classifier.workdir=CLASSIFIER

One of other data: another recipe with --config.model.name=encoder.
"""

from configs import base, cifar10


def get_config(arg: str = ""):
    c = cifar10.get_config(arg)
    c.model = base.get_config().model
    c.model.name = "encoder"
    c.train.sample_every = 0
    c.train.num_steps = {"": 200_000, "cpu": 2_500, "smoke": 20}[arg]
    if arg == "cpu":
        c.model.encoder.base_channels = 32
        c.model.encoder.channel_mult = (1, 2, 2)
        c.model.encoder.attention_resolutions = (8,)
    if arg == "smoke":
        c.model.encoder.base_channels = 16
        c.model.encoder.channel_mult = (1, 2)
        c.model.encoder.attention_resolutions = (4,)
    return c
