"""Memory of scoring 50,000 images with 2048 features, beyond the images themselves.

    python -m benchmarks.memory

Two processes, each with its peak resident memory over what it held before it began.
"suite": every image through a random projection to the Inception's 2048 features and
1008 logits, then all metrics, as evaluation does it. "inception": some batches through
the network (random weights). During a real evaluation both live at once only while
features are extracted, so the sum bounds the peak.
"""

import json
import os
import pathlib
import resource
import subprocess
import sys
import tempfile

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks import measure
from configs import cifar10
from progguide_jax import evaluation, features, references
from progguide_jax.metrics import frechet, suite
from progguide_jax.models import inception
from progguide_jax.runtime import sharding

DIM, LOGITS, KEPT = 2048, 1008, 10_000
METRICS = ("fd", "is", "kd", "precision_recall", "density_coverage")


def main(argv=None) -> None:
    parser = measure.arguments(__doc__)
    parser.add_argument("--part", choices=("suite", "inception"), help="run inside")
    parser.add_argument("--images", type=int, default=50_000)
    args, _ = measure.setup(parser, argv)
    if args.smoke:
        args.images = 1_200
    if args.part:
        peak = {"suite": _suite, "inception": _inception}[args.part](args)
        print(json.dumps(peak))
        return
    command = [sys.executable, "-m", "benchmarks.memory", f"--images={args.images}"]
    command += [f"--batch={args.batch}", f"--variant={args.variant}"]
    peaks = {}
    for part in ("suite", "inception"):
        done = subprocess.run(
            [*command, f"--part={part}"], check=True, capture_output=True, text=True
        )
        peaks[part] = json.loads(done.stdout.splitlines()[-1])
    target = "<= 2.0" if not args.smoke else ""
    rows = [measure.row(f"GiB beyond the images, {k}", v) for k, v in peaks.items()]
    whole = measure.row("GiB beyond the images, sum", sum(peaks.values()), target)
    measure.report("memory", [*rows, whole], args, images=args.images)


def _suite(args) -> float:
    """GiB of the peak over what was there with the images."""
    mesh = sharding.mesh()
    config = cifar10.get_config("cpu")
    config.eval.metrics, config.eval.batch_size = METRICS, args.batch
    bits = np.random.default_rng(0)
    images = bits.integers(0, 256, (args.images, 32, 32, 3), dtype=np.uint8)
    extractor = features.Extractor("inception", {}, {}, _projection(mesh), mesh)
    real = bits.normal(size=(KEPT, DIM)).astype(np.float32)
    moments = frechet.of(real)
    covariance = frechet.covariance(moments)
    statistics = suite.Reference(
        moments.mean, covariance, real, frechet.root(covariance)
    )
    reference = references.Reference({}, statistics, None, None)
    judge = evaluation.Judge(extractor, reference, mesh)
    samples = evaluation.Samples("noise", images, None, {})
    before = _resident()
    with tempfile.TemporaryDirectory() as workdir:
        evaluation.score(config, workdir, judge, samples)
    return _peak() - before


def _projection(mesh):
    """uint8 images -> features and logits at next to no cost."""
    bits = np.random.default_rng(1)
    weights = bits.normal(size=(3072, DIM + LOGITS)).astype(np.float32) / 3072**0.5

    def run(variables, images):
        x = images.reshape(len(images), -1).astype(jnp.float32) / 64
        y = jnp.tanh(x @ weights)
        return {"features": y[:, :DIM], "logits": y[:, DIM:]}

    repl, split = sharding.replicated(mesh), sharding.batch(mesh)
    return jax.jit(run, in_shardings=(repl, split), out_shardings=split)


def _inception(args) -> float:
    mesh = sharding.mesh()
    module = inception.Inception()
    images = np.zeros((2 * args.batch, 32, 32, 3), np.uint8)
    before = _resident()
    shapes = jax.eval_shape(module.init, jax.random.key(0), images[:1])
    variables = jax.tree.map(lambda s: np.full(s.shape, 0.01, s.dtype), shapes)
    repl, split = sharding.replicated(mesh), sharding.batch(mesh)
    run = jax.jit(module.apply, in_shardings=(repl, split), out_shardings=split)
    variables = jax.device_put(variables, repl)
    extractor = features.Extractor("inception", {}, variables, run, mesh)
    features.extract_all(extractor, images, args.batch, "noise")
    return _peak() - before


def _resident() -> float:
    pages = int(pathlib.Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**30


def _peak() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


if __name__ == "__main__":
    main()
