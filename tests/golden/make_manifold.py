"""Writes manifold.json: shares of manifolds, Vendi scores, motion metrics by others.

    python tests/golden/make_manifold.py --dgm_eval=CHECKOUT --mdm=CHECKOUT

Nothing of progguide_jax is imported. torch-fidelity 0.4.0, prdc 0.2, vendi-score 0.0.3,
dgm-eval (commit 74c79f7, https://github.com/layer6ai-labs/dgm-eval) and the motion
diffusion model (commit d4fd88c, https://github.com/GuyTevet/motion-diffusion-model)
with torch 2.13.0, NumPy 2.4.6, SciPy 1.17.1 and scikit-learn 1.9.1 score arrays made by
`inputs`. All of them compute in float64 here, and torch-fidelity in float32 too.
"""

import argparse
import json
import pathlib

import numpy as np

NEIGHBOURS = (1, 3, 5)
ORDERS = (0.5, 1, 2, "inf")
DRAWS, PAIRS, SEED = 4, 50, 7


def inputs() -> dict[str, np.ndarray]:
    """real [400,16] in seven clusters and fake [350,16], which misses two of them and
    has one of its own; grid_real [60,2] and grid_fake [50,2] of small integers, with
    many copies and ties; motion [20,12,8], text [240,8]."""
    bits = np.random.Generator(np.random.Philox(42))
    centres = 2.0 * bits.standard_normal((8, 16))
    spread = bits.uniform(0.3, 1.2, (8, 1, 16))

    def cluster(i, count, scale=1.0):
        return centres[i] + scale * spread[i] * bits.standard_normal((count, 16))

    sizes_real = (150, 100, 60, 40, 25, 15, 10)
    sizes_fake = {0: 170, 1: 40, 2: 60, 3: 30, 4: 20, 7: 30}
    real = [cluster(i, n) for i, n in enumerate(sizes_real)]
    fake = [cluster(i, n, 1.1) for i, n in sizes_fake.items()]
    grid = [
        bits.integers(0, 9, (60, 2)) + 2,
        np.round(2 * bits.standard_normal((50, 2)) + 4),
    ]
    motion = bits.standard_normal((20, 12, 8)) + 2 * bits.standard_normal((20, 1, 8))
    return {
        # what float32 can hold, for those who take no more
        "real": np.concatenate(real).astype(np.float32),
        "fake": np.concatenate(fake).astype(np.float32),
        "grid_real": grid[0].astype(np.float32),
        "grid_fake": grid[1].astype(np.float32),
        "motion": motion,
        "text": motion.reshape(240, 8) + bits.standard_normal((240, 8)),
    }


def by_torch_fidelity(dtype: str) -> dict:
    """{k: [precision, recall]} of the two pairs of sets."""
    import torch

    # some CPU builds of torchvision lack the library that declares these two
    declared = torch.library.Library("torchvision", "FRAGMENT")
    for name in ("nms", "qnms"):
        try:
            declared.define(f"{name}(Tensor dets, Tensor scores, float t) -> Tensor")
        except RuntimeError:
            pass  # declared already
    from torch_fidelity import metric_prc

    arrays = {name: torch.from_numpy(a.astype(dtype)) for name, a in inputs().items()}

    def shares(real, fake, k):
        got = metric_prc.prc_features_to_metric(
            arrays[fake], arrays[real], prc_neighborhood=k, verbose=False
        )
        return [got["precision"], got["recall"]]

    return {
        "clusters": {str(k): shares("real", "fake", k) for k in NEIGHBOURS},
        "grid": {str(k): shares("grid_real", "grid_fake", k) for k in NEIGHBOURS},
    }


def by_prdc(compute_prdc) -> dict:
    """{k: [density, coverage]} of the two pairs of sets."""
    arrays = {name: a.astype(np.float64) for name, a in inputs().items()}

    def shares(real, fake, k):
        got = compute_prdc(arrays[real], arrays[fake], k)
        return [float(got["density"]), float(got["coverage"])]

    return {
        "clusters": {str(k): shares("real", "fake", k) for k in NEIGHBOURS},
        "grid": {str(k): shares("grid_real", "grid_fake", k) for k in NEIGHBOURS},
    }


def by_vendi_score() -> dict:
    """{q: score} of `fake`, by the dual form."""
    from vendi_score import vendi

    fake = inputs()["fake"].astype(np.float64)
    return {str(q): float(vendi.score_dual(fake, q=q)) for q in ORDERS}


def by_dgm_eval(checkout: pathlib.Path) -> dict:
    """prdc as dgm-eval has it; Vendi scores of `fake`, of 12 of its rows, and of the
    rows i with i % 5 = 0 ... 4."""
    import checkouts  # beside this script, where tests do not look

    folder = checkout / "dgm_eval" / "metrics"
    vendi, prdc = (checkouts.load(folder / f"{name}.py") for name in ("vendi", "prdc"))
    fake = inputs()["fake"].astype(np.float64)
    per_class = vendi.compute_per_class_vendi_scores(fake, np.arange(len(fake)) % 5)
    return {
        "prdc": by_prdc(prdc.compute_prdc),
        "vendi": float(vendi.compute_vendi_score(fake)),
        "vendi_few": {
            str(q): float(vendi.compute_vendi_score(fake[::30], q=q)) for q in ORDERS
        },
        "vendi_per_class": per_class.tolist(),
    }


def by_motion_diffusion_model(checkout: pathlib.Path) -> dict:
    """MM-Dist, MultiModality and diversity, each after np.random.seed(SEED)."""
    import checkouts

    path = checkout / "data_loaders" / "humanml" / "utils" / "metrics.py"
    metrics = checkouts.load(path)
    arrays = inputs()
    motion, rows = arrays["motion"], arrays["motion"].reshape(240, 8)
    np.random.seed(SEED)
    multimodality = metrics.calculate_multimodality(motion, DRAWS)
    np.random.seed(SEED)
    diversity = metrics.calculate_diversity(rows, PAIRS)
    matching = metrics.calculate_matching_score(arrays["text"], rows)
    return {
        "mm_dist": float(matching.mean()),
        "multimodality": float(multimodality),
        "diversity": float(diversity),
    }


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--dgm_eval", type=pathlib.Path, required=True)
    parser.add_argument("--mdm", type=pathlib.Path, required=True)
    args = parser.parse_args()
    import prdc

    golden = {
        # of what the seeded rule gave
        "sums": {name: float(np.abs(a).sum()) for name, a in inputs().items()},
        "torch_fidelity": by_torch_fidelity("float64"),
        "torch_fidelity_float32": by_torch_fidelity("float32"),
        "prdc": by_prdc(prdc.compute_prdc),
        "vendi_score": by_vendi_score(),
        "dgm_eval": by_dgm_eval(args.dgm_eval),
        "motion_diffusion_model": by_motion_diffusion_model(args.mdm),
    }
    target = pathlib.Path(__file__).with_name("manifold.json")
    target.write_text(json.dumps(golden, indent=1) + "\n")


if __name__ == "__main__":
    main()
