"""Sampling a trained workdir: omega from a curve, images by the thousand, resumable."""

import functools
import json
import logging
from typing import NamedTuple

import jax
import numpy as np
from etils import epath

from progguide_jax import probing, state
from progguide_jax.data import batches
from progguide_jax.diffusion import samplers
from progguide_jax.guidance import schedules
from progguide_jax.runtime import config as config_lib
from progguide_jax.runtime import digests, files, sharding, validation, writers

LABEL_STREAM = 5  # of `batches.philox`


class Model(NamedTuple):
    """A trained workdir, ready to sample; samplers: one for each way of sampling, so
    that cells of a sweep share their compilations."""

    mesh: jax.sharding.Mesh
    params: dict
    origin: dict
    samplers: dict


def load(config, workdir: str) -> Model:
    """The averaged network of the newest checkpoint, on every device."""
    mesh = sharding.mesh()
    sharding.check_batch(config.sample.batch_size, mesh, "sample.batch_size")
    return Model(mesh, *state.load_ema(config, workdir, mesh), {})


def generate(config, workdir: str, model: Model | None = None) -> epath.Path:
    """Write WORKDIR/samples/NAME/{samples.npz, grid.png, samples.json}; the folder.

    samples.npz: images uint8 [N,H,W,C], labels int32 [N], seeds int64 [N] (image i is a
    function of (sample.seed, seeds[i]) and the config, not of the batch size or of the
    devices); N is sample.num_images, or more if more were made before. Finished parts
    are kept, so the same command goes on where it stopped.
    """
    validation.validate(config)
    model = model or load(config, workdir)
    omega = make_omega(config, workdir, model.origin)
    made = made_by(config, model.origin, omega)
    folder = epath.Path(workdir) / "samples" / sample_name(config, made)
    if _claim(folder, config, made):
        logging.info("already there: %s", folder / "samples.npz")
        return folder
    _write_parts(config, folder, _sampler(config, model), model.params, omega)
    if jax.process_index() == 0:
        _join_parts(config, folder)
    sharding.barrier(folder.name)
    return folder


def folder_of(config, workdir: str) -> epath.Path:
    """Where `generate` writes the samples of this config."""
    origin = load(config, workdir).origin
    made = made_by(config, origin, make_omega(config, workdir, origin))
    return epath.Path(workdir) / "samples" / sample_name(config, made)


def _sampler(config, model: Model) -> "Sampler":
    free = ("num_images", "batch_size", "name")
    settings = {k: v for k, v in config.sample.items() if k not in free}
    key = json.dumps(settings, sort_keys=True)
    if key not in model.samplers:
        model.samplers[key] = Sampler(config, state.network(config), model.mesh)
    return model.samplers[key]


def sample_name(config, made_by: dict) -> str:
    """The folder of a set of samples: its main settings, and a digest of all."""
    sample, guidance = config.sample, config.guidance
    if sample.name:
        return sample.name
    solver = f"{sample.solver}{sample.num_steps}"
    if sample.solver == "ddim" and sample.eta:
        solver += f"eta{sample.eta:g}"
    name = f"{guidance.schedule}_w{guidance.scale:g}_{solver}_seed{sample.seed}"
    digest = digests.json_digest(made_by)[:6]
    return f"{name}_step{made_by['checkpoint']['step']}_{digest}"


def timesteps(config, num_steps: int | None = None) -> np.ndarray:
    """The sampling grid of config.sample: int32 [S]."""
    sample = config.sample
    return samplers.timesteps(
        config.noise.num_timesteps,
        num_steps or sample.num_steps,
        spacing=sample.spacing,
        offset=sample.offset,
    )


def make_omega(config, workdir: str, origin: dict) -> np.ndarray:
    """omega of config.guidance: float32 [S], or [K,S] for one curve per class.

    origin: the checkpoint's {"step", "digest"}, which a probed curve must match.
    """
    guidance = config.guidance
    mode = None if guidance.normalize == "default" else guidance.normalize
    match guidance.schedule:
        case "pcs":
            shape = {"power": guidance.power}
        case "interval" | "neg_perturb":
            shape = {"t_min": guidance.t_min, "t_max": guidance.t_max}
        case "table":
            shape = {"values": _read_table(guidance.table)}
        case "gn" | "gn_all":
            path = guidance.curve or probing.curve_path(workdir)
            shape = {"g": probing.load_curve(config, path, origin)}
        case _:
            shape = {}
    omega = schedules.make(
        guidance.schedule,
        guidance.scale,
        timesteps(config),
        config.noise.num_timesteps,
        normalize=mode,
        **shape,
    )
    if guidance.scale and not omega.any():
        raise ValueError(
            f"the {guidance.schedule} schedule is 0 on all {len(timesteps(config))} "
            "sampling timesteps: widen it, or use guidance.scale=0"
        )
    if omega.ndim == 2 and len(omega) != config.data.num_classes:
        raise ValueError(
            f"the weights of {guidance.schedule!r} have {len(omega)} rows and the data "
            f"{config.data.num_classes} classes: give one row a class, or one for all"
        )
    return omega


def _read_table(path: str) -> np.ndarray:
    if not path:
        raise ValueError(
            "the table schedule needs weights over t: set --config.guidance.table to a "
            ".npy or text file"
        )
    if not epath.Path(path).is_file():
        raise FileNotFoundError(f"no table of weights at {path}")
    try:
        with epath.Path(path).open("rb") as file:
            return np.load(file) if path.endswith(".npy") else np.loadtxt(file)
    except (ValueError, EOFError) as error:
        raise ValueError(f"{path} holds no table of numbers ({error})") from error


def make_solver(config) -> samplers.Solver:
    """The solver of config.sample."""
    if config.sample.solver == "ddim":
        return samplers.ddim(config.sample.eta)
    return samplers.ddpm(config.sample.variance)


def balanced_labels(index: np.ndarray, num_classes: int, seed: int) -> np.ndarray:
    """int32 labels of images `index`: every block of K images holds each class once,
    in an order that is a function of (seed, block)."""

    @functools.cache
    def order(block):
        bits = batches.philox(seed, LABEL_STREAM, block).random_raw(num_classes)
        return np.argsort(bits, kind="stable")

    pairs = (divmod(int(i), num_classes) for i in index)
    return np.array([order(block)[rank] for block, rank in pairs], np.int32)


class Sampler:
    """params, index [B], labels [B], omega [S] or [S,B] -> images float32 [B,H,W,C].

    One compilation for each shape of omega; image i is a function of (sample.seed, i).
    """

    def __init__(self, config, module, mesh, num_steps: int | None = None):
        self._config, self._module, self._mesh = config, module, mesh
        self._timesteps = timesteps(config, num_steps)
        repl, split = sharding.replicated(mesh), sharding.batch(mesh)
        self._run = jax.jit(
            self._sample, in_shardings=(repl, split, split, repl), out_shardings=split
        )

    def __call__(self, params, index, labels, omega) -> np.ndarray:
        rows = sharding.host_rows(len(index))
        index = np.asarray(index, np.int32)[rows]
        labels = np.asarray(labels, np.int32)[rows]
        inputs = sharding.put(self._mesh, (index, labels))
        return sharding.to_host(self._run(params, *inputs, omega))

    def _sample(self, params, index, labels, omega):
        config = self._config
        keys = samplers.image_keys(jax.random.key(config.sample.seed), index)
        start, steps = (samplers.fold_in(keys, i) for i in (0, 1))
        return samplers.sample(
            jax.tree_util.Partial(state.eps_of_label(self._module), params),
            samplers.initial_noise(start, state.image_shape(config)),
            cond=labels,
            null_cond=config.data.num_classes,
            noise_schedule=self._module.noise_schedule,
            timesteps=self._timesteps,
            omega=omega,
            solver=make_solver(config),
            key=steps,
            clip_x0=1.0 if config.sample.clip_x0 else None,
            double_batch=config.sample.double_batch,
        )


def to_uint8(images: np.ndarray) -> np.ndarray:
    """[-1, 1] to 0 ... 255, rounded half up and clipped, once."""
    return np.floor(np.clip(127.5 * images + 128.0, 0, 255)).astype(np.uint8)


def tile(images: np.ndarray, columns: int) -> np.ndarray:
    """One picture [H',W',3] of uint8 images [N,H,W,C], C = 1 or 3, 2 pixels apart."""
    n, h, w, c = images.shape
    rows = -(-n // columns)
    cells = np.full((rows * columns, h + 2, w + 2, 3), 255, np.uint8)
    cells[:n, 1:-1, 1:-1] = images if c == 3 else images[..., :1]
    cells = cells.reshape(rows, columns, h + 2, w + 2, 3).transpose(0, 2, 1, 3, 4)
    return cells.reshape(rows * (h + 2), columns * (w + 2), 3)


def grid_count(config, mesh) -> int:
    """Images of a grid: ten of each class, at most 100, shared by the devices."""
    count = min(10 * config.data.num_classes, 100)
    return -(-count // mesh.size) * mesh.size


def made_by(config, origin: dict, omega: np.ndarray) -> dict:
    """All that an image depends on besides its index, as JSON reads it back."""
    sample, data = (config_lib.to_dict(c) for c in (config.sample, config.data))
    keys = ("solver", "eta", "variance", "clip_x0", "seed")
    return {
        "data": {k: v for k, v in data.items() if k not in ("dir", "flip")},
        "noise": config_lib.to_dict(config.noise),
        "model": config_lib.to_dict(config.model),
        "sample": {k: sample[k] for k in keys},
        "checkpoint": origin,
        "omega": np.asarray(omega, np.float64).tolist(),
        "timesteps": timesteps(config).tolist(),
    }


def _claim(folder, config, made_by: dict) -> bool:
    """True if these samples are there; ValueError if the folder holds others."""
    record = folder / "samples.json"
    if record.exists():
        there = files.load_json(record)
        changed = [k for k, value in made_by.items() if there.get(k) != value]
        if changed:
            raise ValueError(
                f"{folder} holds samples of another {', '.join(changed)}: give these "
                "a folder of their own with --config.sample.name=NAME, or remove it"
            )
    elif jax.process_index() == 0:
        about = {
            "guidance": config_lib.to_dict(config.guidance),
            "versions": config_lib.versions(),
        }
        files.save_json(record, made_by | about)
    done = folder / "samples.npz"
    count = len(files.load_npz(done)["labels"]) if done.exists() else 0
    if count < config.sample.num_images:
        return False
    if jax.process_index() == 0:
        _remove_parts(folder)
    return True


def _parts(folder) -> list[tuple[int, int, epath.Path]]:
    """(first, end, path) of what is there, in order of its images: the parts, and the
    samples.npz of an earlier run that asked for fewer."""
    parts, done = [], folder / "samples.npz"
    if done.exists():
        parts.append((0, len(files.load_npz(done)["labels"]), done))
    for path in folder.glob("part_*_*.npz"):
        first, end = path.stem.split("_")[1:]
        parts.append((int(first), int(end), path))
    return sorted(parts)


def _write_parts(config, folder, sampler: Sampler, params, omega: np.ndarray) -> None:
    """Images sample by batch, from the end of what is there without a gap."""
    total, size = config.sample.num_images, config.sample.batch_size
    first = 0
    for start, end, _ in _parts(folder):
        if start <= first:
            first = max(first, end)
    num_classes, seed = config.data.num_classes, config.sample.seed
    bar = writers.progress(total, f"sample {folder.name}", initial=first)
    with bar:
        while first < total:
            index = np.arange(first, first + size)  # past the end: made and dropped
            labels = balanced_labels(index, num_classes, seed)
            weights = omega[labels].T if omega.ndim == 2 else omega
            images = to_uint8(sampler(params, index, labels, weights))
            n = min(size, total - first)
            if jax.process_index() == 0:
                path = folder / f"part_{first:08d}_{first + n:08d}.npz"
                files.save_npz(
                    path, images=images[:n], labels=labels[:n], seeds=index[:n]
                )
            first += n
            bar.update(n)


def _join_parts(config, folder) -> None:
    """Parts to samples.npz and grid.png; the parts go last."""
    total = config.sample.num_images
    merged: dict[str, list] = {"images": [], "labels": [], "seeds": []}
    first = 0
    parts = _parts(folder)
    for start, end, path in parts:
        if end <= first or first >= total:
            continue
        part = files.load_npz(path)
        for name, pieces in merged.items():
            pieces.append(part[name][first - start : total - start])
        first = min(end, total)
    arrays = {name: np.concatenate(pieces) for name, pieces in merged.items()}
    order = np.argsort(arrays["labels"][:100], kind="stable")
    grid = tile(arrays["images"][order], columns=10)
    writers.save_png(folder / "grid.png", grid)
    files.save_npz(folder / "samples.npz", **arrays)
    _remove_parts(folder)
    logging.info("%d images in %s", total, folder / "samples.npz")


def _remove_parts(folder) -> None:
    """Once samples.npz is there; also after a kill between the two."""
    for path in folder.glob("part_*_*.npz"):
        path.unlink()
