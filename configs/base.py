"""Every key that exists, with its default. A recipe is a diff against this file.

Each default is the paper's CIFAR-10 setting where the paper or DDPM states one.
"""

import ml_collections


def get_config() -> ml_collections.ConfigDict:
    c = ml_collections.ConfigDict()
    c.seed = 0  # initial parameters, batch order, noise; sampling has its own seed
    c.distributed = False  # call jax.distributed.initialize() first (TPU pods)
    c.allow_config_change = False  # resume although the config differs

    c.data = ml_collections.ConfigDict()
    c.data.name = "cifar10"  # cifar10 | two_gaussians | synthetic
    c.data.dir = ""  # official batches, an npz or a TFDS data_dir; "" = TFDS default
    c.data.image_size = 32
    c.data.channels = 3
    c.data.num_classes = 10
    c.data.num_examples = 50_000  # of generated data sets; CIFAR-10 must have as many
    c.data.flip = True  # random horizontal flip, drawn per image
    c.data.mean = 0.125  # two_gaussians: x0 | c ~ N(+-mean 1, std^2 I)
    c.data.std = 0.25

    c.noise = ml_collections.ConfigDict()
    c.noise.name = "ddpm_linear"  # ddpm_linear | scaled_linear | cosine
    c.noise.num_timesteps = 1000  # T
    c.noise.beta_start = 0.00085  # scaled_linear only
    c.noise.beta_end = 0.012

    c.model = ml_collections.ConfigDict()
    c.model.name = "unet"  # unet | pix_film
    c.model.base_channels = 128
    c.model.channel_mult = (1, 2, 2, 2)
    c.model.num_res_blocks = 2
    c.model.attention_resolutions = (16,)
    c.model.dropout = 0.1
    c.model.label_dim = 512  # width of the label row, which probing differentiates
    # of activations: float32 | bfloat16; parameters and head are float32
    c.model.dtype = "float32"
    c.model.sigma_skip = False  # add sigma_t x_t to the output
    c.model.width = 256  # pix_film
    c.model.depth = 4

    c.train = ml_collections.ConfigDict()
    c.train.num_steps = 800_000
    c.train.batch_size = 128  # global
    c.train.learning_rate = 2e-4
    c.train.warmup_steps = 5_000
    c.train.decay = "constant"  # constant | cosine (to 0 at num_steps)
    c.train.grad_clip = 1.0  # global norm
    c.train.ema_decay = 0.9999  # warmed up: min(ema_decay, (1 + n) / (10 + n))
    c.train.label_drop = 0.1  # probability that a label becomes the null label
    c.train.log_every = 100  # num_steps
    c.train.checkpoint_every = 5_000
    c.train.keep = 3  # checkpoints
    c.train.sample_every = 25_000  # a fixed-seed grid; 0 = never
    c.train.sample_steps = 50  # DDIM steps of that grid

    c.probe = ml_collections.ConfigDict()
    c.probe.num_examples = 100_000
    c.probe.batch_size = 256
    c.probe.timesteps = "stratified"  # stratified by (t, class) | uniform (Algorithm 1)
    c.probe.checkpoint_every = 50  # batches between saves of the accumulator
    c.probe.seed = 0

    c.guidance = ml_collections.ConfigDict()
    c.guidance.schedule = "static"  # progguide_jax.guidance.schedules.names()
    c.guidance.scale = 0.15  # omega; 0 = plain conditional sampling
    # default (the schedule's own) | sampling | train | continuous | dt | none
    c.guidance.normalize = "default"
    c.guidance.power = 4.0  # pcs
    # t_min <= t <= t_max: interval keeps its weight there, neg_perturb loses it
    c.guidance.t_min = 0
    c.guidance.t_max = 999
    c.guidance.table = ""  # table: .npy or .txt of weights over t, ascending
    c.guidance.curve = ""  # gn, gn_all: curve.npz; "" = the one in the workdir

    c.sample = ml_collections.ConfigDict()
    c.sample.num_images = 50_000
    c.sample.batch_size = 512
    c.sample.num_steps = 200  # S
    c.sample.spacing = "leading"  # leading | trailing | linspace
    c.sample.offset = 0
    c.sample.solver = "ddim"  # ddim | ddpm
    c.sample.eta = 0.0  # ddim: 0 = deterministic, 1 = posterior of the sub-sequence
    c.sample.variance = "small"  # ddpm: small | large
    c.sample.clip_x0 = True  # to [-1, 1], with eps derived again
    c.sample.double_batch = False  # one forward of 2B instead of two of B
    c.sample.seed = 0
    c.sample.name = ""  # folder below WORKDIR/samples; "" = made from the settings

    c.eval = ml_collections.ConfigDict()
    # inception | resnet20 | resnet56 | dinov2_vits14 | dinov2_vitl14 | clip_vitb32 |
    # clip_vitb16 | clip_vitl14 | pixels (the image itself, at most 8x8; no weights)
    c.eval.features = "inception"
    c.eval.weights = ""  # their file or its folder; "" = the usual cache folders
    # fd fd_infinity is kd precision_recall density_coverage vendi diversity accuracy
    c.eval.metrics = ("fd", "is")
    c.eval.per_class = False  # each of them for every class too
    c.eval.split = "train"  # of the reference: train | test
    c.eval.reference = ""  # statistics .npz; "" = made from data in the workdir
    c.eval.reference_features = 10_000  # kept for kd, precision_recall, ...
    c.eval.samples = ""  # .npz or folder of PNGs; "" = those of config.sample
    c.eval.num_images = 0  # score the first so many; 0 = all
    c.eval.batch_size = 64
    c.eval.seed = 0  # which reference features are kept, which subsets are drawn

    c.experiment = ml_collections.ConfigDict()  # eval.reproduce
    c.experiment.name = ""  # "" = none | two_gaussians | sweep | calibration
    c.experiment.folder = "experiment"  # of the results, below the workdir
    c.experiment.schedules = ("static", "linear", "cosine", "gn")  # x scales = cells
    c.experiment.scales = (0.0, 10.0, 50.0, 100.0)
    c.experiment.num_images = 512  # two_gaussians: trajectories in each cell
    c.experiment.num_paths = 24  # of which so many are kept whole, to be drawn
    c.experiment.num_steps = ()  # sweep: x these; () = sample.num_steps
    c.experiment.intervals = ()  # sweep: (t_min, t_max) of neg_perturb, a cell each
    c.experiment.axes = ("is", "fd")  # sweep: metrics of the trade-off plot
    c.experiment.features = ("inception",)  # calibration: extractors
    c.experiment.noise = (0.0, 1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0)  # grey levels
    c.experiment.paper = ()  # sweep: (cell, score, number printed in the paper)
    return c


def check_arg(arg: str, known: tuple[str, ...]) -> None:
    """Raise ValueError unless `arg`, what follows the colon, is one of `known`."""
    if arg not in known:
        names = ", ".join(f":{k}" for k in known if k)
        raise ValueError(f"unknown variant :{arg}: use {names}, or none")
