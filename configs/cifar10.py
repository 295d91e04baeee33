"""CIFAR-10 (paper, section 5.1): the class-conditional DDPM and its probe.

35.7 M parameters, 800,000 steps of 128 images, DDIM with 200 steps, 50,000 samples:
for a GPU or a TPU pod (`--config.distributed=True`, a workdir that every host sees).

    python train.py --config=configs/cifar10.py --workdir=DIR
    python probe.py --config=configs/cifar10.py --workdir=DIR
    python sample.py --config=configs/cifar10.py --workdir=DIR \\
        --config.guidance.schedule=gn

`:cpu` learns something visible from the real images in about 20 minutes on two cores.
`:smoke` takes seconds, on synthetic images.
"""

from configs import base


def get_config(arg: str = ""):
    c = base.get_config()
    base.check_arg(arg, ("", "cpu", "smoke"))
    if arg:
        c.model.unet.sigma_skip = True
        c.model.unet.dropout = 0.0
        c.train.decay = "cosine"
    if arg == "cpu":
        c.model.unet.base_channels = 32
        c.model.unet.channel_mult = (1, 2, 2)
        c.model.unet.num_res_blocks = 1
        c.model.unet.attention_resolutions = (8,)
        c.model.label_dim = 128
        c.train.num_steps = 2_500
        c.train.batch_size = 32
        c.train.learning_rate = 1e-3
        c.train.warmup_steps = 200
        c.train.ema_decay = 0.995
        c.train.checkpoint_every = 500
        c.train.sample_every = 1_000
        c.train.sample_steps = 25
        c.probe.num_examples = 20_000
        c.probe.batch_size = 128
        c.guidance.scale = 1.0
        c.sample.num_images = 500
        c.sample.batch_size = 128
        c.sample.num_steps = 50
    if arg == "smoke":
        c.data.name = "synthetic"
        c.data.image_size = 8
        c.data.num_classes = 3
        c.data.num_examples = 512
        c.model.unet.base_channels = 16
        c.model.unet.channel_mult = (1, 2)
        c.model.unet.num_res_blocks = 1
        c.model.unet.attention_resolutions = (4,)
        c.model.label_dim = 64
        c.noise.num_timesteps = 100
        c.train.num_steps = 20
        c.train.batch_size = 32
        c.train.learning_rate = 1e-3
        c.train.warmup_steps = 5
        c.train.log_every = 5
        c.train.checkpoint_every = 10
        c.train.sample_every = 20
        c.train.sample_steps = 5
        c.probe.num_examples = 3_000
        c.probe.batch_size = 256
        c.probe.checkpoint_every = 5
        c.sample.num_images = 40
        c.sample.batch_size = 16
        c.sample.num_steps = 5
    return c
