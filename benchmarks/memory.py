"""Peak memory of scoring 50,000 images with the Inception, beyond the images.

    python -m benchmarks.memory

The whole evaluation in one process, but for one thing: features and logits, 2048 and
1008 of them, come from a random projection, and the network itself (random weights)
runs on the first and the last batches only, once before and once while all features are
in memory. To run it on every image would take an hour and change no peak.
"""

import os
import pathlib
import resource
import tempfile

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks import measure
from configs import cifar10
from progguide_jax.extractors import inception
from progguide_jax.metrics import frechet, suite
from progguide_jax.runtime import sharding
from progguide_jax.scoring import evaluation, extraction, sample_sets, statistics

DIM, LOGITS, KEPT = 2048, 1008, 10_000
METRICS = ("fd", "is", "kd", "precision_recall", "density_coverage", "vendi")


def main(argv=None) -> None:
    parser = measure.arguments(__doc__)
    parser.add_argument("--images", type=int, default=50_000)
    args, _ = measure.setup(parser, argv)
    if args.smoke:
        args.images = 1_200
    mesh = sharding.mesh()
    config = cifar10.get_config("cpu")
    config.eval.metrics, config.eval.batch_size = METRICS, args.batch
    bits = np.random.default_rng(0)
    images = bits.integers(0, 256, (args.images, 32, 32, 3), dtype=np.uint8)
    samples = sample_sets.Samples("noise", images, None, {"images": "noise"})
    before = resident()
    judge = evaluation.Judge(extractor(mesh, args), reference(bits))
    with tempfile.TemporaryDirectory() as workdir:
        evaluation.score(config, workdir, judge, samples)
    gib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20 - before
    target = "" if args.smoke else "<= 2.0"
    row = measure.row("GiB beyond the images", gib, target)
    measure.report("memory", [row], args, images=args.images)


def reference(bits) -> statistics.RealImages:
    real = bits.normal(size=(KEPT, DIM)).astype(np.float32)
    moments = frechet.of(real)
    covariance = frechet.covariance(moments)
    root = frechet.root(covariance)
    made = suite.Reference(moments.mean, covariance, real, root)
    return statistics.RealImages({}, made, None, None)


def extractor(mesh, args) -> extraction.Extractor:
    """A random projection of every image; the network on the batches at the ends."""
    repl, split = sharding.replicated(mesh), sharding.batch(mesh)
    module = inception.Inception()
    image = jax.ShapeDtypeStruct((1, 32, 32, 3), jnp.uint8)
    shapes = jax.eval_shape(module.init, jax.random.key(0), image)
    variables = jax.tree.map(lambda s: np.full(s.shape, 0.01, s.dtype), shapes)
    network = jax.jit(module.apply, in_shardings=(repl, split), out_shardings=split)
    weights = np.random.default_rng(1).normal(size=(3072, DIM + LOGITS))
    weights = weights.astype(np.float32) / 3072**0.5

    @jax.jit
    def project(images):
        x = images.reshape(len(images), -1).astype(jnp.float32) / 64
        y = jnp.tanh(jnp.matmul(x, weights))
        return {"features": y[:, :DIM], "logits": y[:, DIM:]}

    batches = -(-args.images // args.batch)
    done = 0

    def run(variables, images):
        nonlocal done
        if isinstance(images, jax.ShapeDtypeStruct | jax.core.Tracer):
            return project(images)
        done += 1
        if done in (1, batches - 1, batches):
            jax.block_until_ready(network(variables, images))
        return project(images)

    origin = {"name": "inception", "weights": None}
    placed = jax.device_put(variables, repl)
    return extraction.Extractor("inception", origin, placed, run, mesh)


def resident() -> float:
    """GiB of this process in memory now."""
    pages = int(pathlib.Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**30


if __name__ == "__main__":
    main()
