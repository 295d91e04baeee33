"""Every key that exists, with its default. A recipe is a diff against this file.

Each default is the paper's CIFAR-10 setting where the paper or DDPM states one. A
section inside a section belongs to the entry of that name: `model.unet` is read where
`model.name` is "unet", and setting a key of an entry that is not chosen is an error.
"""

import math

import ml_collections
from ml_collections import config_dict

from progguide_jax.guidance import entry_settings

section, placeholder = ml_collections.ConfigDict, config_dict.placeholder


def get_config() -> ml_collections.ConfigDict:
    c = section()
    c.seed = 0  # initial parameters, batch order, noise; sampling has its own seed
    # several hosts must run this command; those of a TPU pod, of SLURM and of Open MPI
    # find each other without it
    c.distributed = False
    c.hosts = section()  # where nothing else says who they are; not kept in config.json
    c.hosts.coordinator_address = ""  # HOST:PORT of the host with process_id 0
    c.hosts.num_processes = 0  # how many hosts run this command
    c.hosts.process_id = -1  # the number of this one, from 0
    c.hosts.local_device_ids = ()  # numbers of the GPUs it uses; () = all of them
    c.hosts.timeout = 300  # seconds to wait for the others at the start
    c.allow_config_change = False  # resume although the config differs

    c.data = section()
    # cifar10 | folder (pictures, a sub-folder each class) | npz | two_gaussians
    # | synthetic
    c.data.name = "cifar10"
    # the folder or the .npz; of cifar10: official batches, cifar10.npz or a TFDS
    # data_dir, "" = TFDS default
    c.data.dir = ""
    c.data.image_size = 32  # pixels, images are square
    c.data.channels = 3  # 1 grey, 3 colours
    c.data.num_classes = 10  # K; the null label is K
    # of generated data sets; CIFAR-10 must have as many; folder and npz are read whole
    c.data.num_examples = 50_000
    # of folder and npz: which images dir must hold; "" = those of the workdir's
    # training, which writes it into config.json
    c.data.digest = ""
    c.data.flip = True  # random horizontal flip, drawn per image
    c.data.two_gaussians = section()  # x0 | c ~ N(+-mean 1, std^2 I)
    c.data.two_gaussians.mean = 0.125  # of each pixel, minus for label 0
    c.data.two_gaussians.std = 0.25  # of each pixel

    c.noise = section()
    c.noise.name = "ddpm_linear"  # ddpm_linear | scaled_linear | cosine
    c.noise.num_timesteps = 1000  # T
    c.noise.zero_terminal_snr = False  # make t = T-1 pure noise; not for eps-networks
    c.noise.scaled_linear = section()
    c.noise.scaled_linear.beta_start = 0.00085  # beta at t = 0
    c.noise.scaled_linear.beta_end = 0.012  # beta at t = T-1

    c.model = section()
    c.model.name = "unet"  # unet | pix_film | encoder (a classifier of noisy images)
    c.model.label_dim = 512  # width of the label row, which probing differentiates
    c.model.unet = section()
    c.model.unet.base_channels = 128  # of the first level, a multiple of 32 (or 8, 16)
    c.model.unet.channel_mult = (1, 2, 2, 2)  # channels of each level, in base_channels
    c.model.unet.num_res_blocks = 2  # in each level
    c.model.unet.attention_resolutions = (16,)  # widths in pixels that have attention
    c.model.unet.dropout = 0.1  # inside the blocks, while training
    # of activations: float32 | bfloat16; parameters and head are float32
    c.model.unet.dtype = "float32"
    c.model.unet.sigma_skip = False  # add sigma_t x_t to the output
    # train a second head on the decoder where it is so many pixels wide; 0 = none.
    # For guidance.references=internal
    c.model.unet.exit = 0
    c.model.encoder = section()  # the way down of a U-Net, and a pooling by attention
    c.model.encoder.base_channels = 64  # of the first level, as of unet
    c.model.encoder.channel_mult = (1, 2, 2, 2)  # of each level, in base_channels
    c.model.encoder.num_res_blocks = 1  # in each level
    c.model.encoder.attention_resolutions = (16, 8)  # widths that have attention
    c.model.encoder.dropout = 0.0  # inside the blocks, while training
    c.model.encoder.dtype = "float32"  # of activations: float32 | bfloat16
    c.model.pix_film = section()  # sees an image through its mean and spread
    c.model.pix_film.width = 256  # of the hidden layers
    c.model.pix_film.depth = 4  # hidden layers

    c.train = section()
    c.train.num_steps = 800_000  # updates
    c.train.batch_size = 128  # global
    # parts that a device takes its images of a batch in: less memory, the same training
    # but for the order of sums (dropout masks are drawn for a part)
    c.train.accumulate = 1
    # steps in a row that may be left out because loss or gradient are not finite; at 0
    # the first one stops the training
    c.train.skip_nonfinite = 0
    c.train.learning_rate = 2e-4  # of Adam, after the warm-up
    c.train.warmup_steps = 5_000  # updates of linear warm-up
    c.train.decay = "constant"  # constant | cosine (to 0 at num_steps)
    c.train.grad_clip = 1.0  # global norm
    c.train.ema_decay = 0.9999  # warmed up: min(ema_decay, (1 + n) / (10 + n))
    c.train.label_drop = 0.1  # probability that a label becomes the null label
    c.train.predicts = "eps"  # what the network returns: eps | x0 | v
    c.train.loss_weight = "uniform"  # uniform (in what the network predicts) | min_snr
    c.train.exit_weight = 0.5  # of the loss of model.unet.exit, beside the network's
    c.train.noise = "gaussian"  # gaussian | student_t (for a guide of heavy_tail)
    c.train.student_t = section()
    c.train.student_t.degrees = 4.0  # of freedom; fewer have heavier tails
    c.train.min_snr = section()
    c.train.min_snr.gamma = 5.0  # SNRs above it weigh no more (Hang et al. 2023)
    # split parameters, their average and Adam's moments over the devices (FSDP) instead
    # of keeping them whole on each: less memory, more communication, the same training
    c.train.fsdp = False
    c.train.log_every = 100  # updates
    c.train.checkpoint_every = 5_000  # updates
    c.train.keep = 3  # checkpoints
    c.train.sample_every = 25_000  # updates between grids of fixed seeds; 0 = never
    c.train.sample_steps = 50  # sampling steps of that grid

    c.checkpoint = section()
    c.checkpoint.step = 0  # which one is probed and sampled; 0 = the newest

    c.probe = section()
    c.probe.num_examples = 100_000  # (image, t, eps) triples
    c.probe.batch_size = 256  # global
    c.probe.timesteps = "stratified"  # stratified by (t, class) | uniform (Algorithm 1)
    # 10: visit every tenth timestep, and the last; the curve is a line between them
    c.probe.stride = 1
    c.probe.checkpoint_every = 50  # batches between saves of the accumulator
    c.probe.seed = 0  # which image meets which t and noise

    c.guidance = section()
    c.guidance.schedule = "static"  # omega(t): progguide_jax.guidance.schedules.names()
    c.guidance.scale = 0.15  # omega; 0 = plain conditional sampling
    # default (the schedule's own) | sampling | train | continuous | dt | none
    c.guidance.normalize = "default"
    # guided against what: progguide_jax.guidance.references.names()
    c.guidance.references = ("null",)
    c.guidance.rule = "cfg"  # how predictions are combined: cfg | apg | cfgpp
    c.guidance.projection = "clip"  # what x0 may be: none | clip | dynamic_threshold
    c.guidance.pcs = section()
    c.guidance.pcs.power = 4.0  # of 1 - t/T: a larger one guides later
    # the weight acts where t_min <= t <= t_max; its ends may be sigma, log_snr or step
    c.guidance.interval = section()
    c.guidance.interval.t_min = placeholder(int)  # one end must be set
    c.guidance.interval.t_max = placeholder(int)  # None = T-1
    c.guidance.neg_perturb = section()  # the weight is 0 where t_min <= t <= t_max
    c.guidance.neg_perturb.t_min = placeholder(int)  # None = 0
    c.guidance.neg_perturb.t_max = placeholder(int)  # None = T-1
    c.guidance.table = section()
    c.guidance.table.file = ""  # .npy or .txt of a curve [N] or [K,N], to be scaled
    # t: ascending from t = 0 | steps: one a sampling step, noise first | "": t, but
    # refused where there are as many as steps
    c.guidance.table.axis = ""
    c.guidance.gn = section()  # of gn and gn_all
    c.guidance.gn.curve = ""  # curve.npz of a probe; "" = the one in the workdir
    # that curve is of another network, data or noise schedule: go by its noise levels
    c.guidance.gn.carry = False
    c.guidance.autoguidance = section()  # the same task, learned less well
    c.guidance.autoguidance.workdir = ""  # of the weak network; "" = this one
    c.guidance.autoguidance.step = 0  # its checkpoint; 0 = the newest
    c.guidance.autoguidance.scale = placeholder(float)  # None = guidance.scale
    c.guidance.autoguidance.schedule = ""  # "" = guidance.schedule
    c.guidance.apg = section()  # Sadat et al. 2024
    c.guidance.apg.momentum = -0.5  # of the running sum of differences
    c.guidance.apg.norm_threshold = math.inf  # the difference is shortened to this norm
    c.guidance.apg.eta = 0.0  # weight of the part along the prediction; 1 = as in cfg
    c.guidance.clip = section()
    c.guidance.clip.bound = 1.0  # x0 is kept within +-bound, eps derived again
    c.guidance.dynamic_threshold = section()  # Saharia et al. 2022
    c.guidance.dynamic_threshold.quantile = 0.995  # of |x0| over the image
    c.guidance.dynamic_threshold.bound = 1.0  # the image is scaled back to +-bound

    _add_settings(c.guidance)

    c.sample = section()
    c.sample.num_images = 50_000  # in all
    c.sample.batch_size = 512  # global; no image depends on it
    c.sample.num_steps = 200  # S
    c.sample.spacing = "leading"  # leading | trailing | linspace | karras | log_snr
    c.sample.offset = 0  # added to the timesteps of leading, trailing and linspace
    c.sample.solver = "ddim"  # progguide_jax.diffusion.solvers.names()
    # none | fkc | gibbs | pcg: samplers of p_c^(1 + omega) p_u^(-omega), which those of
    # CFG are not
    c.sample.tilted = "none"
    c.sample.double_batch = False  # one forward of 2B instead of two of B
    c.sample.seed = 0  # of labels and noise: image i depends on (seed, i)
    c.sample.name = ""  # folder below WORKDIR/samples; "" = made from the settings
    c.sample.trace = False  # write what guidance did at each step, with a picture
    c.sample.export_adm = False  # write adm.npz too, which other evaluation code reads
    c.sample.ddim = section()
    c.sample.ddim.eta = 0.0  # 0 = deterministic, 1 = posterior of the sub-sequence
    c.sample.ddpm = section()
    c.sample.ddpm.variance = "small"  # small | large
    c.sample.euler = section()
    c.sample.euler.churn = 0.0  # EDM's S_churn: noise added over the grid; 0 = an ODE
    c.sample.euler.churn_min = 0.0  # S_tmin: no churn at a lower sigma/alpha
    c.sample.euler.churn_max = math.inf  # S_tmax: no churn at a higher sigma/alpha
    c.sample.euler.churn_noise = 1.0  # S_noise: standard deviation of what is added
    c.sample.heun = section()
    c.sample.heun.churn = 0.0  # EDM's S_churn: noise added over the grid; 0 = an ODE
    c.sample.heun.churn_min = 0.0  # S_tmin: no churn at a lower sigma/alpha
    c.sample.heun.churn_max = math.inf  # S_tmax: no churn at a higher sigma/alpha
    c.sample.heun.churn_noise = 1.0  # S_noise: standard deviation of what is added
    c.sample.heun.stage_omega = "stage"  # omega of the second stage: stage | step
    c.sample.dpmpp_2m = section()
    c.sample.dpmpp_2m.stochastic = False  # the SDE solver instead of the ODE's
    c.sample.dpmpp_2m.restart = False  # first order again where omega jumps
    c.sample.unipc = section()
    c.sample.unipc.restart = False  # first order again where omega jumps
    c.sample.fkc = section()  # an image costs that many; with guidance.projection=none
    c.sample.fkc.particles = 16  # of each image, one is kept; more come nearer
    # they are drawn anew when their effective share falls below it
    c.sample.fkc.threshold = 0.5
    c.sample.gibbs = section()  # a draft, noised and denoised again and again
    c.sample.gibbs.sigma = 1.0  # noise up to this sigma/alpha
    c.sample.gibbs.repeats = 2  # so often
    c.sample.gibbs.draft = 0.0  # omega of the draft
    c.sample.pcg = section()  # DDIM of the conditional model, and Langevin steps
    c.sample.pcg.corrections = 1  # Langevin steps at each level
    c.sample.pcg.size = 1.0  # of each, in the noise that the DDIM step took away
    c.sample.karras = section()
    c.sample.karras.rho = 7.0  # sigma^(1/rho) at equal distances
    c.sample.karras.sigma_min = placeholder(float)  # sigma/alpha; None = t = 0
    c.sample.karras.sigma_max = placeholder(float)  # None = t = T-1
    c.sample.log_snr = section()
    c.sample.log_snr.sigma_min = placeholder(float)  # sigma/alpha; None = t = 0
    c.sample.log_snr.sigma_max = placeholder(float)  # None = t = T-1

    c.eval = section()
    # progguide_jax.scoring.extraction.NAMES; inception and others need weights,
    # pixels (the image itself, at most 8x8) does not
    c.eval.features = "inception"
    c.eval.weights = ""  # their file or its folder; "" = the usual cache folders
    c.eval.metrics = ("fd", "is")  # progguide_jax.metrics.suite.names()
    c.eval.per_class = False  # each of them for every class too
    c.eval.split = "train"  # of the reference: train | test
    c.eval.reference = ""  # statistics .npz; "" = made from data in the workdir
    c.eval.reference_features = 10_000  # kept for kd, precision_recall, ...
    c.eval.samples = ""  # .npz or folder of PNGs; "" = those of config.sample
    c.eval.num_images = 0  # score the first so many; 0 = all
    c.eval.batch_size = 64  # global
    c.eval.seed = 0  # which reference features are kept, which subsets are drawn

    c.experiment = section()  # of eval.reproduce
    # "" | two_gaussians | sweep | compare | gallery | calibration
    c.experiment.name = ""
    c.experiment.folder = "experiment"  # of the results, below the workdir
    c.experiment.schedules = ("static", "linear", "cosine", "gn")  # x scales = cells
    c.experiment.scales = (0.0, 10.0, 50.0, 100.0)  # guidance scales
    # sweep: these cells instead, as in ("guidance.schedule=gn", "sample.num_steps=20"),
    # typed with a ; between two: each sets any keys of guidance and sample; differences
    # are to the first
    c.experiment.cells = ()
    c.experiment.two_gaussians = section()
    c.experiment.two_gaussians.num_images = 512  # trajectories in each cell
    c.experiment.two_gaussians.num_paths = 24  # so many are kept whole, to be drawn
    c.experiment.sweep = section()
    c.experiment.sweep.num_steps = ()  # x these; () = sample.num_steps
    # so many equal windows of 0 ... T-1, a cell each whose weight is 0 there
    c.experiment.sweep.num_intervals = 0
    c.experiment.sweep.intervals = ()  # these (t_min, t_max) instead
    c.experiment.sweep.axes = ("is", "fd")  # scores of the trade-off plot
    c.experiment.sweep.paper = ()  # (cell, score, number printed in the paper)
    c.experiment.compare = section()
    c.experiment.compare.num_images = 100  # of each cell
    c.experiment.gallery = section()
    c.experiment.gallery.num_images = 256  # trajectories of each method
    c.experiment.gallery.num_paths = 10  # so many are drawn
    # of entries that need some, as in ("guidance.interval.t_max=500",)
    c.experiment.gallery.settings = ()
    c.experiment.calibration = section()
    c.experiment.calibration.features = ("inception",)  # extractors
    # standard deviations of the pixel noise, in grey levels
    c.experiment.calibration.noise = (0.0, 1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0)
    return c


def check_arg(arg: str, known: tuple[str, ...]) -> None:
    """Raise ValueError unless `arg`, what follows the colon, is one of `known`."""
    if arg not in known:
        names = ", ".join(f":{k}" for k in known if k)
        raise ValueError(f"unknown variant :{arg}: use {names}, or none")


def _add_settings(guidance: ml_collections.ConfigDict) -> None:
    """A section for every other schedule, reference, rule and projection that has
    settings: what they are is in docs/zoo.md."""
    for name, held in entry_settings.sections().items():
        if name not in guidance:
            guidance[name] = section()
        for key, setting in held.items():
            if key not in guidance[name]:
                empty = setting.default is None
                value = placeholder(setting.kind) if empty else setting.default
                guidance[name][key] = value
