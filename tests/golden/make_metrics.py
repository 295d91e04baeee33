"""Writes metrics.json: Frechet, inception and kernel scores by their references.

    python tests/golden/make_metrics.py --dgm_eval=CHECKOUT

Nothing of progguide_jax is imported. torch-fidelity 0.4.0 and dgm-eval (commit 74c79f7,
https://github.com/layer6ai-labs/dgm-eval) with torch 2.13.0, NumPy 2.4.6, SciPy 1.17.1
and scikit-learn 1.9.1 score arrays made by `inputs`. Features and logits are float64,
so that the references lose no digits to float32.
"""

import argparse
import json
import pathlib
from unittest import mock

import numpy as np

COUNT, COUNT_REF, DIM, CLASSES = 600, 500, 24, 12
SPLITS = (1, 7, 10)
SUBSETS, SUBSET_SIZE = 20, 100
INFINITY_SEED = 3


def inputs() -> dict[str, np.ndarray]:
    """features [600,24], features_ref [500,24], logits [300,12] ordered by class."""
    bits = np.random.Generator(np.random.Philox(2024))
    mix, mix_ref = (bits.standard_normal((DIM, DIM)) / 5 for _ in range(2))
    features = bits.standard_normal((COUNT, DIM)) @ (mix + np.eye(DIM)) + 0.2
    spread = np.diag(np.linspace(0.3, 1.5, DIM))
    features_ref = bits.standard_normal((COUNT_REF, DIM)) @ (mix_ref + spread)
    label = np.arange(300) * CLASSES // 300
    logits = bits.standard_normal((300, CLASSES)) + 3 * np.eye(CLASSES)[label]
    return {"features": features, "features_ref": features_ref, "logits": logits}


def by_torch_fidelity() -> dict:
    """FID, inception scores per number of splits, KID."""
    import torch

    # some CPU builds of torchvision lack the library that declares these two
    declared = torch.library.Library("torchvision", "FRAGMENT")
    for name in ("nms", "qnms"):
        try:
            declared.define(f"{name}(Tensor dets, Tensor scores, float t) -> Tensor")
        except RuntimeError:
            pass  # declared already
    from torch_fidelity import metric_fid, metric_isc, metric_kid

    arrays = {name: torch.from_numpy(a) for name, a in inputs().items()}
    a, b = arrays["features"], arrays["features_ref"]
    statistics = [metric_fid.fid_features_to_statistics(f) for f in (a, b)]
    fid = metric_fid.fid_statistics_to_metric(*statistics, verbose=False)
    kid = metric_kid.kid_features_to_metric(
        a, b, kid_subsets=SUBSETS, kid_subset_size=SUBSET_SIZE, verbose=False
    )
    scores = {
        str(splits): metric_isc.isc_features_to_metric(arrays["logits"], splits)
        for splits in SPLITS
    }
    return {
        "fid": fid["frechet_inception_distance"],
        "inception_score": {
            splits: [s["inception_score_mean"], s["inception_score_std"]]
            for splits, s in scores.items()
        },
        "kid": [
            kid["kernel_inception_distance_mean"],
            kid["kernel_inception_distance_std"],
        ],
    }


def by_dgm_eval(checkout: pathlib.Path) -> dict:
    """FD, FD at infinity with a seeded generator, IS of 10 equal splits, MMD^2."""
    import checkouts  # beside this script, where tests do not look

    fd, score, mmd = (
        checkouts.load(checkout / "dgm_eval" / "metrics" / f"{name}.py")
        for name in ("fd", "inception_score", "mmd")
    )
    arrays = inputs()
    a, b = arrays["features"], arrays["features_ref"]
    seeded = np.random.default_rng(INFINITY_SEED)
    with mock.patch.object(np.random, "default_rng", lambda: seeded):
        infinity = fd.compute_FD_infinity(b, a)
    p = np.exp(arrays["logits"])
    p /= p.sum(1, keepdims=True)
    size = min(len(a), len(b))
    return {
        "fd": fd.compute_FD_with_reps(b, a),
        "fd_infinity": infinity,
        "inception_score": list(score.calculate_score(p, 10, len(p))),
        "mmd2": mmd.compute_polynomial_mmd(a[:size], b[:size]),
    }


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--dgm_eval", type=pathlib.Path, required=True)
    args = parser.parse_args()
    golden = {
        # of what the seeded rule gave
        "sums": {name: float(np.abs(a).sum()) for name, a in inputs().items()},
        "torch_fidelity": by_torch_fidelity(),
        "dgm_eval": by_dgm_eval(args.dgm_eval),
    }
    target = pathlib.Path(__file__).with_name("metrics.json")
    target.write_text(json.dumps(golden, indent=1) + "\n")


if __name__ == "__main__":
    main()
