"""Feature extraction next to torch-fidelity's Inception, on the same cores.

    python -m benchmarks.against_fidelity --torch_python=PATH

PATH is a Python that has torch and torch-fidelity (default: this one). Two processes
with the same random weights take turns; before anything is timed, features and logits
must agree to 1e-4.
"""

import json
import pathlib
import sys
import tempfile

import jax
import numpy as np

from benchmarks import against_torch, measure
from progguide_jax.extractors import inception
from progguide_jax.pretrained import convert, inception_names
from progguide_jax.runtime import sharding

GOLDEN = pathlib.Path(__file__).parents[1] / "tests" / "golden"
sys.path.insert(0, str(GOLDEN))
import inception_weights  # noqa: E402


def main(argv=None) -> None:
    parser = measure.arguments(__doc__, rounds=5, batch=16)
    parser.add_argument("--torch_python", default=sys.executable)
    args, _ = measure.setup(parser, argv)
    images = inception_weights.images(args.batch, 32, 32)
    run = extractor(images)
    with tempfile.TemporaryDirectory() as folder:
        folder = pathlib.Path(folder)
        settings = {"threads": measure.num_cores()}
        (folder / "settings.json").write_text(json.dumps(settings))
        np.save(folder / "images.npy", images)
        peer = against_torch.peer(args.torch_python, "torch_inception", folder)
        with peer as (process, version):
            theirs, ours = np.load(folder / "outputs.npz"), jax.device_get(run())
            rows = [
                against_torch.parity(name, ours[name], theirs[name]) for name in ours
            ]
            s = against_torch.in_turns({"inception": run}, process, args.rounds)
    jax_s, torch_s = s["jax inception"], s["torch inception"]
    rows += [
        measure.row("images/s, JAX / torch-fidelity", torch_s / jax_s),
        measure.row("images/s, JAX", args.batch / jax_s),
        measure.row("images/s, torch-fidelity", args.batch / torch_s),
    ]
    measure.report("against_fidelity", rows, args, torch=version)


def extractor(images: np.ndarray):
    """() -> features and logits of the images, with the weights of the golden file."""
    module, mesh = inception.Inception(), sharding.mesh()
    with np.load(GOLDEN / "inception.npz") as golden:
        shapes = json.loads(str(golden["state"]))
    source = inception_weights.state_dict({k: tuple(v) for k, v in shapes.items()})
    rules, ignore = inception_names.rules_for(source)
    target = jax.eval_shape(module.init, jax.random.key(0), images[:1])
    variables = convert.convert(source, rules, target, ignore=ignore)
    repl, split = sharding.replicated(mesh), sharding.batch(mesh)
    run = jax.jit(module.apply, in_shardings=(repl, split), out_shardings=split)
    placed = jax.device_put(variables, repl), jax.device_put(images, split)
    return lambda: run(*placed)


if __name__ == "__main__":
    main()
