"""Probing a trained workdir: Algorithm 1 over the training images, resumable."""

import functools
import logging
import time

import jax
import jax.numpy as jnp
import numpy as np
from etils import epath

from progguide_jax.data import batches
from progguide_jax.engine import accumulator, results
from progguide_jax.guidance import gradnorm
from progguide_jax.plots import style, time_curves
from progguide_jax.runtime import config as config_lib
from progguide_jax.runtime import digests, files, locking, sharding, stopping, writers
from progguide_jax.systems import build, validation

SITE = "label-embedding row"
UNIFORM_STREAM, IMAGE_STREAM, T_STREAM = 3, 4, 6  # of `batches.philox`
_SECONDS = 30.0  # of work, the most that a kill costs


def probe(config, workdir: str) -> None:
    """Measure g(t, c) with the averaged weights: WORKDIR/probe/curve.{npz,json,png}.

    curve.npz: g, standard_error, count, G, G_standard_error [K,T]; gn [T], the class
    mean of G, with gn_standard_error; t [T]. g is that of eps whatever the network
    predicts: in x0 it would be (sigma / alpha) g, another curve. The accumulator is
    saved on the way: the same command goes on where it stopped. InterruptedError
    after SIGTERM or Ctrl-C, the batch it is at being saved.
    """
    validation.validate(config)
    validation.check_examples(config)
    validation.check_samples(config)
    mesh = sharding.mesh()
    sharding.check_batch(config.probe.batch_size, mesh, "probe.batch_size")
    config = build.identified(config, workdir)
    params, origin = build.load_ema(config, workdir, mesh)
    build.check_finished(config, workdir, origin["step"])
    path = epath.Path(curve_path(workdir)).with_suffix(".json")
    with locking.hold(path.parent):
        _probe(config, workdir, mesh, path, params, _provenance(config, origin))


def _probe(config, workdir, mesh, path, params, made_by: dict) -> None:
    results.set_damaged_aside(path, results.arrays_path(path))
    found = results.find(path, made_by)
    if found or _found_without_made_by(path, made_by):
        logging.info("already there: %s", curve_path(workdir))
        if found and jax.process_index() == 0:
            _finish(path, found.arrays)
        return
    whole = path.exists() and results.arrays_path(path).exists()
    if whole and jax.process_index() == 0:
        logging.warning("%s is of another probe: it is made again", curve_path(workdir))
    dataset = build.load_data(config)
    with jax.default_matmul_precision("highest"):
        acc = _accumulate(config, mesh, path.parent, dataset, params, made_by)
    curve = gradnorm.mean_curve(acc, stride=config.probe.stride)
    arrays = _arrays(curve, config.probe.stride)
    record = {"made_by": made_by, "versions": config_lib.versions()}
    if jax.process_index() == 0:
        path.with_suffix(".png").unlink(missing_ok=True)  # of another curve
    results.write(path, results.Result(record, arrays))
    if jax.process_index() == 0:
        _finish(path, arrays)
    logging.info("probed: %s", curve_path(workdir))


def _finish(path: epath.Path, arrays: dict[str, np.ndarray]) -> None:
    """What follows once the curve is there, if a kill prevented it."""
    picture = path.with_suffix(".png")
    if not picture.exists():
        files.write(picture, style.png(time_curves.gradnorm(arrays)))
    accumulator.path(path.parent).unlink(missing_ok=True)


def curve_path(workdir: str) -> str:
    return str(epath.Path(workdir) / "probe" / "curve.npz")


def curve_made_by(path: str) -> dict:
    """What a curve.npz was made by: checkpoint, noise_schedule, probe, ...

    FileNotFoundError without a curve, ValueError without its record.
    """
    if not epath.Path(path).exists():
        begun = accumulator.path(epath.Path(path).parent).exists()
        first = "finish probe.py" if begun else "run probe.py"
        raise FileNotFoundError(
            f"no gradient-norm curve at {path}: {first} first, with the same --config "
            "and --workdir"
        )
    record = epath.Path(path).with_suffix(".json")
    if not record.exists():
        raise ValueError(f"{record} is missing: run probe.py again")
    return _made_by(files.load_json(record))


def load_curve(config, path: str, origin: dict) -> np.ndarray:
    """g [K,T] of a curve.npz; ValueError unless it was probed on the checkpoint
    `origin` and with the noise schedule of config."""
    made_by, arrays = curve_made_by(path), files.load_npz(path)
    try:
        schedule, checkpoint = made_by["noise_schedule"], made_by["checkpoint"]
        step, g = checkpoint["step"], arrays["g"]
    except KeyError as error:
        raise ValueError(
            f"{path} or its .json lacks {error}: run probe.py again"
        ) from error
    if schedule != schedule_digest(config):
        raise ValueError(
            f"{path} was probed with another noise schedule: run probe.py with this "
            "config, or set guidance.gn.carry=True"
        )
    if checkpoint != origin:
        raise ValueError(
            f"{path} was probed on another checkpoint (step {step}; this one is step "
            f"{origin['step']}): run probe.py again, or set guidance.gn.carry=True"
        )
    return g


def draw(
    mode: str,
    seed: int,
    number: int,
    size: int,
    labels: np.ndarray,
    timesteps: np.ndarray,
) -> tuple[np.ndarray, np.ndarray]:
    """(index int64 [B] into labels [N], t int32 [B], some of `timesteps` [n]) of batch
    `number`: a function of (seed, number).

    "stratified": K places in a row hold each class once, and each class goes through
    permutations of its images and of the timesteps, so that K n places hold every
    (t, c) once. "uniform": images in the order of an epoch and independent t, as
    Algorithm 1 says.
    """
    if mode == "uniform":
        bits = batches.philox(seed, UNIFORM_STREAM, number).random_raw(size)
        index = batches.indices(seed, number, size, len(labels))
        return index, timesteps[bits % np.uint64(len(timesteps))].astype(np.int32)
    classes = np.unique(labels)
    place = np.arange(number * size, (number + 1) * size)
    rank, which = np.divmod(place, len(classes))
    index, t = np.empty(size, np.int64), np.empty(size, np.int32)
    for i, c in enumerate(classes):
        mine = which == i
        members = np.flatnonzero(labels == c)
        image_seed, t_seed = ((seed, stream, i) for stream in (IMAGE_STREAM, T_STREAM))
        index[mine] = members[_round_robin(*image_seed, rank[mine], len(members))]
        t[mine] = timesteps[_round_robin(*t_seed, rank[mine], len(timesteps))]
    return index, t


def _round_robin(seed, stream, substream, rank, n: int) -> np.ndarray:
    """Element rank[...] of endless permutations of 0 ... n-1, one after the other."""
    cycle, place = np.divmod(rank, n)
    result = np.empty(len(rank), np.int64)
    for k in np.unique(cycle):
        counter = (int(k) << 16) + substream
        bits = batches.philox(seed, stream, counter).random_raw(n)
        result[cycle == k] = np.argsort(bits, kind="stable")[place[cycle == k]]
    return result


def probe_step(acc, params, batch: dict, number, *, config, module):
    """Add one global batch {"image", "label", "t"} to the accumulator."""
    key = jax.random.fold_in(jax.random.key(config.probe.seed), 2)
    key = jax.random.fold_in(key, number)
    label, x0 = batch["label"], batch["image"]
    ns = build.noise_schedule(config)
    g = gradnorm.per_example(
        functools.partial(build.eps_of_embedding(module, ns), params),
        x0,
        jax.random.normal(key, x0.shape),
        batch["t"],
        build.embed_label(module, params, label),
        noise_schedule=ns,
    )
    return gradnorm.accumulate(acc, g, batch["t"], label)


def compiled_step(config, mesh):
    """`probe_step` under jit in float32: accumulator donated, batch split."""
    repl, split = sharding.replicated(mesh), sharding.batch(mesh)
    module = build.network(config, dtype="float32")
    return jax.jit(
        functools.partial(probe_step, config=config, module=module),
        in_shardings=(repl, repl, split, repl),
        out_shardings=repl,
        donate_argnums=0,
    )


def _accumulate(config, mesh, folder, dataset, params, made_by):
    settings, size = config.probe, config.probe.batch_size
    timesteps = gradnorm.visited(config.noise.num_timesteps, settings.stride)
    num_batches = -(-settings.num_examples // size)
    acc, first = accumulator.resume(folder, made_by, config)
    acc = jax.device_put(acc, sharding.replicated(mesh))
    step = compiled_step(config, mesh)
    rows = sharding.host_rows(size)

    def make_batch(number):
        index, t = draw(
            settings.timesteps,
            settings.seed,
            number,
            size,
            dataset.labels,
            timesteps,
        )
        batch = batches.take(dataset, index[rows])
        mine = {"image": batch["image"], "label": batch["label"], "t": t[rows]}
        return sharding.put(mesh, mine)

    bar = writers.progress(num_batches, "probe", initial=first)
    since = time.monotonic()
    with bar, stopping.Stop() as stop:
        for number, batch in batches.prefetch(make_batch, first, num_batches):
            acc = step(acc, params, batch, jnp.int32(number))
            done = number + 1
            if done % 2 == 0:
                # or the bar would run ahead, a signal would wait for what is under way,
                # and CPU devices with many steps could wait for each other for ever
                jax.block_until_ready(acc)
            bar.update()
            stopped = stop.asked()
            late = time.monotonic() - since >= _SECONDS
            if stopped or late or done % settings.checkpoint_every == 0:
                if jax.process_index() == 0:
                    accumulator.save(folder, acc, done, made_by)
                since = time.monotonic()
            if stopped:
                raise stopping.interrupted(f"{done} of {num_batches} batches")
    return jax.device_get(acc)


def schedule_digest(config) -> str:
    return digests.digest({"alpha_bar": build.noise_schedule(config).alpha_bar})


def _provenance(config, origin: dict) -> dict:
    """All that a curve depends on. The noise schedule is there by its values, and the
    network with what it predicts by its checkpoint, which fits no other."""
    settings = config_lib.to_dict(config.probe)
    del settings["checkpoint_every"]
    if settings["stride"] == 1:  # as if there were no such key
        del settings["stride"]
    return {
        "checkpoint": origin,
        "noise_schedule": schedule_digest(config),
        "probe": settings,
        "data": config_lib.as_json(build.data_about(config)),
        "site": SITE,
        "reduction": "sum of |eps_hat - eps| over pixels, L2 norm, mean over examples",
        "weights": "ema_params, no dropout, null label left out",
    }


def _made_by(record) -> dict:
    """A record's made_by; the first version of this program had its entries on top."""
    if isinstance(record, dict):
        record = record.get("made_by", record)
    return record if isinstance(record, dict) else {}


def _found_without_made_by(path, made_by: dict) -> bool:
    """Whether the curve at `path` is one of the first version, made by the same.

    Its data are not compared: their keys have changed, and the checkpoint says whose
    they are.
    """
    if not sharding.agreed(path.exists() and results.arrays_path(path).exists()):
        return False
    there = files.load_json(path)
    if not isinstance(there, dict) or "made_by" in there:
        return False
    return all(there.get(k) == v for k, v in made_by.items() if k != "data")


def _arrays(curve: gradnorm.Curve, stride: int) -> dict[str, np.ndarray]:
    G = gradnorm.cumulative(curve.g)
    G_error = gradnorm.cumulative_error(curve.standard_error, stride)
    return dict(
        t=np.arange(curve.g.shape[1]),
        g=curve.g,
        standard_error=curve.standard_error,
        count=curve.count,
        G=G,
        G_standard_error=G_error,
        gn=G.mean(0),
        gn_standard_error=np.sqrt(np.square(G_error).sum(0)) / len(curve.g),
    )
