"""Training and guided sampling next to the same network in PyTorch, on the same cores.

    python -m benchmarks.against_torch --torch_python=PATH

PATH is a Python that has torch (default: this one). Two processes take turns; before
anything is timed their outputs must agree to 1e-4. Then every 3x3 convolution of the
network is timed in both, to say where the rest goes.
"""

import collections
import contextlib
import functools
import json
import pathlib
import subprocess
import sys
import tempfile

import jax
import numpy as np

from benchmarks import measure
from progguide_jax.diffusion import levels, plans, solvers
from progguide_jax.engine import training
from progguide_jax.runtime import sharding
from progguide_jax.systems import build

FORMS = ("two calls", "double batch")


def main(argv=None) -> None:
    parser = measure.arguments(__doc__, rounds=5)
    parser.add_argument("--steps", type=int, default=5, help="S")
    parser.add_argument("--torch_python", default=sys.executable)
    args, config = measure.setup(parser, argv)
    mesh = sharding.mesh()
    module, params = measure.network(config)
    data = measure.batch(config, mesh, args.batch)
    timesteps = levels.timesteps(config.noise.num_timesteps, args.steps)
    shapes = convolutions(module, config, params, data)
    ours, outputs = our_programs(config, module, params, mesh, data, timesteps)
    for shape in shapes:
        for way in ("forward", "backward"):
            ours[f"{way} {list(shape)}"] = convolution(mesh, *shape, way == "backward")
    with tempfile.TemporaryDirectory() as folder:
        folder = pathlib.Path(folder)
        settings = torch_settings(config, module, timesteps)
        settings["convolutions"] = list(shapes)
        (folder / "settings.json").write_text(json.dumps(settings))
        flat = jax.tree.leaves_with_path(params)
        flat = {"params/" + "/".join(k.key for k in path): v for path, v in flat}
        np.savez(folder / "inputs.npz", **flat, **jax.device_get(data))
        with peer(args.torch_python, "torch_unet", folder) as (process, version):
            theirs = np.load(folder / "outputs.npz")
            rows = [parity(name, outputs[name], theirs[name]) for name in outputs]
            s = in_turns(ours, process, args.rounds)
    rows += summary(s, shapes, args)
    measure.report("against_torch", rows, args, steps=args.steps, torch=version)


@contextlib.contextmanager
def peer(python: str, module: str, folder: pathlib.Path):
    """(process, version of torch) of benchmarks.`module`, which reads what is in the
    folder, writes outputs.npz there and then waits for jobs."""
    command = [python, "-m", f"benchmarks.{module}", folder]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True) as process:
        version = process.stdout.readline().strip()
        if not version:
            sys.exit(f"error: {python} cannot run {module}.py")
        yield process, version
        process.stdin.close()


def our_programs(config, module, params, mesh, data, timesteps):
    """(name -> call, what the network and the sampler make of data)."""
    placed = jax.device_put(params, sharding.replicated(mesh))
    forward = measure.forward(module, config, mesh)
    omega = np.ones(len(timesteps), np.float32)
    train_state = measure.train_state(config, params, mesh)
    step = training.compiled_step(config, mesh)
    batch = {name: data[name] for name in ("image", "label")}

    def network():
        return forward(placed, data["eps"], data["t"], data["label"])

    def train():
        nonlocal train_state
        train_state, metrics = step(train_state, batch)
        return metrics

    def sample(double_batch):
        program = measure.guided(
            module, config, mesh, timesteps, double_batch=double_batch
        )
        return lambda: program(placed, data["eps"], data["label"], omega)

    programs = {"network": network, "train": train}
    programs |= {f"sample, {f}": sample(f == FORMS[1]) for f in FORMS}
    outputs = {"eps_hat": network(), "x_0": programs["sample, two calls"]()}
    return programs, jax.device_get(outputs)


def torch_settings(config, module, timesteps) -> dict:
    ns = build.noise_schedule(config)
    plan = solvers.ddim()(levels.from_timesteps(ns, timesteps))
    a, b = plan.matrix[:, 0, plans.X0], plan.matrix[:, 0, plans.EPS]
    steps = (timesteps, plan.alpha, plan.sigma, a, b)
    return {
        "base_channels": module.base_channels,
        "channel_mult": list(module.channel_mult),
        "num_res_blocks": module.num_res_blocks,
        "attention_resolutions": list(module.attention_resolutions),
        "sigma_skip": module.sigma_skip,
        "num_classes": module.num_classes,
        "sigma": ns.sigma.tolist(),
        "learning_rate": config.train.learning_rate,
        "steps": [v.tolist() for v in steps],
        "threads": measure.num_cores(),
    }


def parity(name: str, ours: np.ndarray, theirs: np.ndarray) -> dict:
    """The largest difference, relative to the largest value."""
    error = np.abs(ours - theirs).max() / np.abs(theirs).max()
    row = measure.row(f"parity: error of {name}", error, "<= 1e-4")
    if not row["met"]:
        sys.exit(f"error: {name} differs from PyTorch's by {error:.1e}: not comparable")
    return row


def in_turns(ours: dict, process, rounds: int) -> dict[str, np.ndarray]:
    """Seconds [rounds] of "jax NAME" and "torch NAME", which take turns."""

    def torch_seconds(name, calls):
        process.stdin.write(json.dumps([name, calls]) + "\n")
        process.stdin.flush()
        return float(process.stdout.readline())

    seconds = collections.defaultdict(list)
    for i in range(rounds + 1):  # the first one warms up
        for name, run in ours.items():
            calls = 3 if "ward " in name else 1
            pair = [
                ("jax", functools.partial(measure.seconds, run, calls)),
                ("torch", functools.partial(torch_seconds, name, calls)),
            ]
            for who, timed in pair[:: 1 if i % 2 else -1]:
                seconds[f"{who} {name}"].append(timed())
    return {name: np.array(v[1:]) for name, v in seconds.items()}


def convolutions(module, config, params, data) -> collections.Counter:
    """(B, size, channels in, out, stride) of its 3x3 convolutions, and how many."""
    found = collections.Counter()

    def walk(jaxpr):
        for eqn in jaxpr.eqns:
            if eqn.primitive.name == "conv_general_dilated":
                (b, size, _, _), (*_, c_in, c_out) = (v.aval.shape for v in eqn.invars)
                found[b, size, c_in, c_out, eqn.params["window_strides"][0]] += 1
            for inner in eqn.params.values():
                if hasattr(inner, "jaxpr"):
                    walk(inner.jaxpr)

    eps = build.eps_of_label(module, build.noise_schedule(config))
    inputs = data["eps"], data["t"], data["label"]
    walk(jax.make_jaxpr(eps)(params, *inputs).jaxpr)
    return found


def convolution(mesh, b, size, c_in, c_out, stride, backward: bool):
    """A call of one 3x3 convolution: forward, or both of its gradients."""
    split = sharding.batch(mesh)
    x = jax.device_put(np.ones((b, size, size, c_in), np.float32), split)
    w = jax.device_put(
        np.ones((3, 3, c_in, c_out), np.float32), sharding.replicated(mesh)
    )

    def conv(x, w):
        dims = ("NHWC", "HWIO", "NHWC")
        return jax.lax.conv_general_dilated(
            x, w, (stride,) * 2, "SAME", None, None, dims
        )

    if not backward:
        program = jax.jit(conv, out_shardings=split)
        return lambda: program(x, w)
    y = jax.device_put(np.ones(jax.eval_shape(conv, x, w).shape, np.float32), split)
    program = jax.jit(lambda x, w, y: jax.vjp(conv, x, w)[1](y))
    return lambda: program(x, w, y)


def summary(s: dict, shapes: collections.Counter, args) -> list[dict]:
    """Rows of ratios, rates, and what the convolutions take of each."""
    best = {
        who: min((s[f"{who} sample, {f}"] for f in FORMS), key=np.median)
        for who in ("jax", "torch")
    }
    train = {who: s[f"{who} train"] for who in best}
    conv = {
        (who, way): sum(n * s[f"{who} {way} {list(k)}"] for k, n in shapes.items())
        for who in best
        for way in ("forward", "backward")
    }
    ratio = {k: conv["torch", k] / conv["jax", k] for k in ("forward", "backward")}

    def speed(name):
        return s[f"torch {name}"] / s[f"jax {name}"]

    rows = [
        measure.row("training, JAX / PyTorch", speed("train"), ">= 0.60"),
        measure.row(
            "guided sampling, JAX / PyTorch", best["torch"] / best["jax"], ">= 0.85"
        ),
        measure.row("network forward, JAX / PyTorch", speed("network")),
        measure.row("3x3 convolutions forward, JAX / PyTorch", ratio["forward"]),
        measure.row("3x3 convolutions backward, JAX / PyTorch", ratio["backward"]),
    ]
    for who in best:
        both = conv[who, "forward"] + conv[who, "backward"]
        rows += [
            measure.row(f"images/s training, {who}", args.batch / train[who]),
            measure.row(f"images/s guided sampling, {who}", args.batch / best[who]),
            measure.row(
                f"double batch / two calls, {who}",
                s[f"{who} sample, {FORMS[1]}"] / s[f"{who} sample, {FORMS[0]}"],
            ),
            measure.row(
                f"convolutions' share of a forward pass, {who}",
                conv[who, "forward"] / s[f"{who} network"],
            ),
            measure.row(f"convolutions' share of a step, {who}", both / train[who]),
            measure.row(f"ms of a step outside them, {who}", 1e3 * (train[who] - both)),
        ]

    def cost(shape):
        return shapes[shape] * np.median(s[f"jax forward {list(shape)}"])

    for shape in sorted(shapes, key=cost, reverse=True)[:4]:
        b, size, c_in, c_out, stride = shape
        flop = 2 * 9 * b * (size // stride) ** 2 * c_in * c_out
        for way, flops in (("forward", flop), ("backward", 2 * flop)):
            for who in best:
                rate = flops / s[f"{who} {way} {list(shape)}"] / 1e9
                what = f"{size}x{size}, {c_in} to {c_out}, {way}, {who}"
                rows.append(measure.row(f"GFLOP/s {what}", rate))
    return rows


if __name__ == "__main__":
    main()
