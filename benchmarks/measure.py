"""What the benchmarks share: flags, the network under test, paired timings, the row."""

import argparse
import functools
import json
import os
import pathlib
import time
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from configs import cifar10
from progguide_jax.diffusion import samplers
from progguide_jax.runtime import config as config_lib
from progguide_jax.runtime import sharding
from progguide_jax.systems import build

RESULTS = pathlib.Path(__file__).parent / "results"


def arguments(doc: str, **defaults) -> argparse.ArgumentParser:
    """The flags of every benchmark."""
    parser = argparse.ArgumentParser(
        description=doc, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--variant", default="cpu", help="of configs/cifar10.py; '' is the full size"
    )
    parser.add_argument("--batch", type=int, default=64, help="images")
    parser.add_argument("--rounds", type=int, default=7, help="of paired timings")
    parser.add_argument("--smoke", action="store_true", help="a tiny network, seconds")
    parser.add_argument("--out", type=pathlib.Path, help="default results/NAME.json")
    parser.set_defaults(**defaults)
    return parser


def setup(parser: argparse.ArgumentParser, argv=None):
    """(flags, config); each core becomes a device of the CPU backend."""
    args = parser.parse_args(argv)
    if args.smoke:
        args.variant, args.batch, args.rounds = "smoke", 4 * num_cores(), 2
    jax.config.update("jax_num_cpu_devices", num_cores())
    config = cifar10.get_config(args.variant)
    sharding.check_batch(args.batch, sharding.mesh(), "--batch")
    config.train.batch_size = config.probe.batch_size = args.batch
    return args, config


def num_cores() -> int:
    return len(os.sched_getaffinity(0))


def one_device() -> jax.sharding.Mesh:
    """A mesh like that of `sharding.mesh`, of the first device alone."""
    axis_types = (jax.sharding.AxisType.Auto,)
    return jax.sharding.Mesh(np.array(jax.devices()[:1]), ("data",), axis_types)


def network(config):
    """(module, params on the host): random, and none of them 0 as at the start."""
    module = build.network(config)
    init = functools.partial(build.init_params, module, build.image_shape(config))
    rng = np.random.default_rng(0)

    def draw(path, p):
        noise = rng.standard_normal(p.shape, np.float32)
        if p.ndim > 1:
            return noise / np.prod(p.shape[:-1], dtype=np.float32) ** 0.5
        return 0.1 * noise + np.float32(path[-1].key == "scale")

    shapes = jax.eval_shape(init, jax.random.key(0))
    return module, jax.tree.map_with_path(draw, shapes)


def train_state(config, params, mesh) -> build.TrainState:
    """A state at step 0 of these parameters, on the mesh."""
    repl = sharding.replicated(mesh)
    shapes = jax.eval_shape(build.optimizer(config).init, params)
    fresh = build.TrainState(
        step=np.int32(0),
        params=params,
        ema_params=params,
        opt_state=jax.tree.map(lambda s: np.zeros(s.shape, s.dtype), shapes),
    )
    return jax.tree.map(lambda x: jnp.copy(jax.device_put(x, repl)), fresh)


def batch(config, mesh, size: int) -> dict[str, jax.Array]:
    """image, eps, label, t: random, split over the mesh."""
    rng = np.random.default_rng(1)
    shape = (size, *build.image_shape(config))
    host = {
        "image": rng.uniform(-1, 1, shape).astype(np.float32),
        "eps": rng.standard_normal(shape).astype(np.float32),
        "label": rng.integers(config.data.num_classes, size=size).astype(np.int32),
        "t": rng.integers(config.noise.num_timesteps, size=size).astype(np.int32),
    }
    return jax.device_put(host, sharding.batch(mesh))


def forward(module, config, mesh):
    """(params, x_t, t, label) -> eps_hat, under jit."""
    ns = build.noise_schedule(config)

    def eps(*args):  # a new function: compiled whatever was traced before
        return build.eps_of_label(module, ns)(*args)

    repl, split = sharding.replicated(mesh), sharding.batch(mesh)
    shardings = (repl, split, split, split)
    return jax.jit(eps, in_shardings=shardings, out_shardings=split)


def guided(module, config, mesh, timesteps: np.ndarray, **options):
    """(params, x_T, label, omega) -> x_0 by guided DDIM, under jit; options: of
    `samplers.sample`."""
    ns = build.noise_schedule(config)

    def run(params, x_T, label, omega):
        return samplers.sample(
            jax.tree_util.Partial(build.eps_of_label(module, ns), params),
            x_T,
            cond=label,
            null_cond=config.data.num_classes,
            noise_schedule=ns,
            timesteps=timesteps,
            omega=omega,
            clip_x0=1.0,
            **options,
        )

    return _sampler(run, mesh)


def four_numbers(module, config, mesh, timesteps: np.ndarray):
    """The same by a loop that knows DDIM only: x_s = a x0 + b eps + c x, no rule."""
    ns = build.noise_schedule(config)
    eps_fn = build.eps_of_label(module, ns)
    alpha_s = np.append(ns.alpha[timesteps][1:], 1.0)
    sigma_s = np.append(ns.sigma[timesteps][1:], 0.0)
    columns = (ns.alpha[timesteps], ns.sigma[timesteps], alpha_s, sigma_s, 0 * sigma_s)
    steps = [np.asarray(column, np.float32) for column in columns]

    def run(params, x_T, label, omega):
        def body(x, step):
            t, omega, alpha, sigma, a, b, c = step
            times = jnp.full(len(x), t)

            def guided():
                null = jnp.full_like(label, config.data.num_classes)
                p_c, p_u = (eps_fn(params, x, times, k) for k in (label, null))
                return p_c + omega * (p_c - p_u)

            def plain():
                return eps_fn(params, x, times, label)

            eps = jax.lax.cond(omega != 0, guided, plain)
            x0 = jnp.clip((x - sigma * eps) / alpha, -1, 1)
            eps = (x - alpha * x0) / sigma
            return a * x0 + b * eps + c * x, None

        return jax.lax.scan(body, x_T, (timesteps, omega, *steps))[0]

    return _sampler(run, mesh)


def _sampler(run, mesh):
    repl, split = sharding.replicated(mesh), sharding.batch(mesh)
    return jax.jit(run, in_shardings=(repl, split, split, repl))


def rounds(
    functions: dict[str, Callable[[], object]], count: int
) -> dict[str, np.ndarray]:
    """Seconds [count] of each function: A B C, C B A, ... after one call of each to
    warm up, so that what disturbs the machine disturbs all."""
    for fn in functions.values():
        jax.block_until_ready(fn())
    taken = {name: [] for name in functions}
    for i in range(count):
        for name in list(functions)[:: 1 if i % 2 == 0 else -1]:
            taken[name].append(seconds(functions[name]))
    return {name: np.array(s) for name, s in taken.items()}


def seconds(fn: Callable[[], object], calls: int = 1) -> float:
    """Mean time of a call, each waited for."""
    start = time.perf_counter()
    for _ in range(calls):
        jax.block_until_ready(fn())
    return (time.perf_counter() - start) / calls


def row(what: str, values, target: str = "") -> dict:
    """A line of the table: median and quartiles of `values`; target like "<= 1.05"."""
    low, median, high = np.quantile(np.atleast_1d(values), (0.25, 0.5, 0.75))
    result = {"what": what, "median": median, "low": low, "high": high}
    if target:
        sign, bound = target.split()
        sides = {"<=": median <= float(bound), ">=": median >= float(bound)}
        met = sides.get(sign, median == float(bound))
        result |= {"target": target, "met": bool(met)}
    return result


def report(name: str, rows: list[dict], args, **settings) -> None:
    """Print the table; write it as one JSON row with what it was measured on."""
    settings = {
        "variant": args.variant, "batch": args.batch, "rounds": args.rounds
    } | settings  # fmt: skip
    load = os.getloadavg()[0]
    print(
        f"\n{name}: {', '.join(f'{k} {v}' for k, v in settings.items())}; "
        f"{jax.device_count()} x {jax.devices()[0].device_kind}, load {load:.1f}"
    )
    width = max(len(r["what"]) for r in rows)
    print(f"{'':{width}} {'median':>9} {'quartiles':>19}  target")
    for r in rows:
        quartiles = f"{r['low']:.4g} ... {r['high']:.4g}"
        target = r.get("target", "")
        if target:
            target += "" if r["met"] else "  MISSED"
        print(f"{r['what']:{width}} {r['median']:9.4g} {quartiles:>19}  {target}")
    path = args.out or RESULTS / f"{name}{'_smoke' if args.smoke else ''}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    record = {
        "benchmark": name,
        "time": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        "settings": settings,
        "devices": [d.device_kind for d in jax.devices()],
        "cores": num_cores(),
        "load": load,
        "versions": config_lib.versions(),
        "rows": rows,
    }
    path.write_text(json.dumps(record, indent=1) + "\n")
    print(f"written to {path}")
