"""Sampling a trained workdir: images by the thousand, resumable, with provenance."""

import logging
from typing import Any, NamedTuple

import jax
import numpy as np
from etils import epath

from progguide_jax.diffusion.system import System
from progguide_jax.engine import (
    carried,
    first_edition,
    label_order,
    parts,
    results,
    weights,
)
from progguide_jax.guidance import references
from progguide_jax.plots import style, traces
from progguide_jax.runtime import config as config_lib
from progguide_jax.runtime import files, locking, sharding, writers
from progguide_jax.systems import (
    build,
    classifier_checks,
    drawing,
    entries,
    noisy_classifier,
    pictures,
    specs,
    trained,
    validation,
)


class Run(NamedTuple):
    """A system ready to sample: one for all cells of a sweep, which then share its
    compilations."""

    mesh: jax.sharding.Mesh
    system: System
    workdir: str


def load(config, workdir: str) -> Run:
    """The averaged network of config.checkpoint, on every device; the log says so if
    the training has not ended."""
    validation.check_samples(config)
    mesh = sharding.mesh()
    sharding.check_batch(config.sample.batch_size, mesh, "sample.batch_size")
    system = trained.load(config, workdir, mesh)
    if words := build.progress(config, workdir, system.origin["checkpoint"]["step"]):
        logging.warning("the training in %s has not ended: %s", workdir, words)
    return Run(mesh, system, workdir)


def make_spec(config, run: Run) -> specs.SamplingSpec:
    """What config asks for of this system: its weights, and guides of references."""
    omega = weights.make(config, run.workdir, run.system.origin["checkpoint"])
    guides = {
        name: guide_of(config, run, name)
        for name in config.guidance.references
        if references.REFERENCES[name].guide
    }
    spec = specs.of(config, omega, guides)
    if path := carried.asked(config):
        spec.about["curve"] = carried.about(path)
    return spec


def guide_of(config, run: Run, name: str) -> specs.Guide:
    """What the reference `name` has from the workdir and step that its keys say."""
    settings = entries.settings(config, "guidance.references", name)
    workdir = settings["workdir"] or run.workdir
    path = epath.Path(workdir) / "config.json"
    if not path.exists():
        raise FileNotFoundError(
            f"no config.json in {workdir}: set --config.guidance.{name}.workdir "
            "to a workdir in which a weaker network was trained, or .step to an "
            "earlier checkpoint of this one"
        )
    guide = config_lib.load(path)
    _check_kind(name, guide, workdir)
    guide.checkpoint.step = settings["step"]
    if classifier_checks.classifies(guide):
        return noisy_classifier.load(guide, workdir, run.mesh, run.system)
    ours, theirs = config.data.num_classes, guide.data.num_classes
    if ours != theirs:  # its null condition would stand for one of our classes
        raise ValueError(
            f"{name}: the guide in {workdir} has {theirs} classes and the "
            f"network {ours}: set --config.guidance.{name}.workdir to that of a "
            "weaker network of the same classes"
        )
    system = trained.load(guide, workdir, run.mesh)
    data = {"data": system.origin["data"]}
    trained.check_same(name, workdir, data, run.system.origin)
    if system.origin["checkpoint"] == run.system.origin["checkpoint"]:
        raise ValueError(
            f"{name}: the guide is the network itself, so nothing would be "
            f"guided: set --config.guidance.{name}.step to an earlier checkpoint, "
            "or .workdir to that of a weaker network"
        )
    return specs.Guide(system, system.origin)


def _check_kind(name: str, guide, workdir: str) -> None:
    """ValueError if the guide was trained on another noise than the reference says, or
    is a classifier where that wants none."""
    entry = references.REFERENCES[name]
    if classifier_checks.classifies(guide) != (entry.guide == "log_prob"):
        what = "a classifier" if entry.guide == "log_prob" else "no classifier"
        raise ValueError(
            f"{name}: the network in {workdir} is {guide.model.name!r} and this needs "
            f"{what}: set --config.guidance.{name}.workdir to another"
        )
    wanted = entry.train_noise
    if guide.train.noise != wanted:
        raise ValueError(
            f"{name}: the network in {workdir} was trained with train.noise "
            f"{guide.train.noise!r} and this needs {wanted!r}: set "
            f"--config.guidance.{name}.workdir to another"
        )


def generate(config, workdir: str, run: Run | None = None) -> epath.Path:
    """Write WORKDIR/samples/NAME/{samples.npz, grid.png, samples.json}; the folder.

    samples.npz: images uint8 [N,H,W,C], labels int32 [N], seeds int64 [N] (image i is a
    function of (sample.seed, seeds[i]) and the config, not of the batch size or of the
    devices); N is sample.num_images, or more if more were made before. Finished parts
    are kept, so the same command goes on where it stopped. With sample.trace also
    trace.{json,npz,png}, of the first images, as many of them as one batch holds; with
    sample.export_adm also adm.npz, the same images as `export_adm` says.
    """
    validation.validate(config)
    run = run or load(config, workdir)
    spec = make_spec(config, run)
    made = _made_by(config, run, spec)
    folder = _folder(config, workdir, made)
    with locking.hold(folder):
        first_edition.take_over(folder, made, search=not config.sample.name)
        _generate(config, folder, run, spec, made)
    return folder


def _generate(config, folder, run: Run, spec, made: dict[str, Any]) -> None:
    def make(index):
        labels = labels_of(config, index)
        images = drawing.draw(
            run.system, spec, index, labels, run.mesh,
            double_batch=config.sample.double_batch,
        )  # fmt: skip
        return {"images": pictures.to_uint8(images), "labels": labels, "seeds": index}

    sample = config.sample
    about = {
        "config": config_lib.to_dict(config),
        "versions": config_lib.versions(),
    }
    size, first = sample.batch_size, jax.process_index() == 0
    path = folder / "samples.json"
    if not parts.collect(path, made, sample.num_images, size, make, about):
        logging.info("already there: %s", folder / "samples.npz")
    grid, adm = folder / "grid.png", folder / "adm.npz"
    if first and _is_older(grid, folder / "samples.npz"):
        arrays = files.load_npz(folder / "samples.npz")
        writers.save_png(grid, pictures.grid(arrays))
    # an adm.npz of fewer images is not left behind
    outdated = adm.exists() and _is_older(adm, folder / "samples.npz")
    if first and (sample.export_adm or outdated):
        export_adm(folder)
    if sample.trace:
        write_trace(config, folder, run, spec, made)


def _is_older(path: epath.Path, source: epath.Path) -> bool:
    """Whether `path` is missing, or older than what it is made from."""
    return not path.exists() or files.modified(path) < files.modified(source)


def export_adm(folder: epath.Path) -> None:
    """adm.npz beside samples.npz, as the ADM suite has samples: arr_0 uint8 [N,H,W,3],
    arr_1 the labels int32 [N]. Grey images become RGB."""
    arrays = files.load_npz(folder / "samples.npz")
    images = np.broadcast_to(arrays["images"], (*arrays["images"].shape[:3], 3))
    files.save_npz(folder / "adm.npz", arr_0=images, arr_1=arrays["labels"])


def write_trace(config, folder, run: Run, spec, made: dict[str, Any]) -> None:
    """trace.npz: t and evaluations [N], and mean and standard deviation [N] over the
    images of omega, applied, delta and cosine for each reference; trace.png."""
    size = config.sample.batch_size
    count = min(size, config.sample.num_images)

    def make():
        index = np.arange(size) % count  # a batch of nothing else than was asked for
        labels = labels_of(config, index)
        logging.info("tracing what guidance does to %d images, once more", count)
        with writers.progress(1, "trace") as bar:
            found = drawing.trace(run.system, spec, index, labels, run.mesh)
            bar.update()
        arrays = {"t": found.t, "evaluations": found.evaluations}
        for what in ("omega", "applied", "delta", "cosine"):
            for branch, values in getattr(found, what).items():
                arrays[f"{branch}_{what}"] = values[:, :count].mean(1)
                arrays[f"{branch}_{what}_std"] = values[:, :count].std(1)
        return results.Result({"num_images": count}, arrays)

    path = folder / "trace.json"
    found = results.find_or_make(path, made | {"num_images": count}, make).arrays
    branches = list(spec.omega)
    if any(spec.omega[b].any() and not found[f"{b}_applied"].any() for b in branches):
        logging.warning(
            "guidance never acted: omega is not 0 and the guided prediction is the "
            "conditional one at every step (%s)",
            path,
        )
    if jax.process_index() == 0:
        picture = style.png(traces.trace(found, branches))
        files.write(folder / "trace.png", picture)
        logging.info("trace: %s", folder / "trace.png")


def folder_of(config, workdir: str) -> epath.Path:
    """Where `generate` writes the samples of this config."""
    run = load(config, workdir)
    made = _made_by(config, run, make_spec(config, run))
    folder = _folder(config, workdir, made)
    first_edition.take_over(folder, made, search=not config.sample.name)
    return folder


def made_by(system: System, spec: specs.SamplingSpec, labels: str) -> dict[str, Any]:
    """All that an image depends on besides its index, as JSON reads it back; labels:
    how image i got its own."""
    return config_lib.as_json(
        {"system": system.origin, "spec": spec.about, "labels": labels}
    )


def _made_by(config, run: Run, spec) -> dict[str, Any]:
    labels = label_order.about(config.data.num_classes, config.sample.seed)
    return made_by(run.system, spec, labels)


def _folder(config, workdir: str, made_by: dict[str, Any]) -> epath.Path:
    folder = epath.Path(workdir) / "samples" / sample_name(config, made_by)
    if config.sample.name or folder.exists():
        return folder
    end = "_".join(folder.name.split("_")[-3:])  # seed, step and digest
    # one of these that was named in another way stays where it is
    return next(iter(sorted(folder.parent.glob(f"*_{end}"))), folder)


def sample_name(config, made_by: dict) -> str:
    """The folder of a set of samples: its main settings, and a digest of all."""
    sample, guidance = config.sample, config.guidance
    if sample.name:
        return sample.name
    solver = f"{sample.solver}{sample.num_steps}"
    if sample.solver == "ddim" and sample.ddim.eta:
        solver += f"eta{sample.ddim.eta:g}"
    words = [guidance.schedule, f"w{guidance.scale:g}"]
    words += [n for _, n in entries.named(config, "guidance.rule") if n != "cfg"]
    words += [] if tuple(guidance.references) == ("null",) else guidance.references
    words += [] if sample.tilted == entries.NONE else [sample.tilted]
    words += [solver, f"seed{sample.seed}"]
    step = made_by["system"]["checkpoint"]["step"]
    return "_".join([*words, f"step{step}", parts.mark(made_by)])


def labels_of(config, index: np.ndarray) -> np.ndarray:
    """int32 labels of images `index`."""
    return label_order.balanced(index, config.data.num_classes, config.sample.seed)
