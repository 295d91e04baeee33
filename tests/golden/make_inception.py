"""Writes inception.npz: what torch-fidelity's Inception gives for random weights.

Made with torch-fidelity 0.4.0, torch 2.13.0 (CPU), torchvision 0.28.0, numpy 2.4:

    python tests/golden/make_inception.py

Weights and images come from inception_weights.py. Keys: "state", the names and shapes
of the state dict as JSON; features and logits of the images SHAPES (small_, wide_), in
float32 as torch-fidelity computes by default; rounding_*, how far they lie from the
same network in float64, as a share of the largest; resized_*, every 20th row and column
of the resize alone.
"""

import json
import pathlib
import sys

import numpy as np
import torch

sys.path.insert(0, str(pathlib.Path(__file__).parent))
import inception_weights  # noqa: E402

SHAPES = {"small": (4, 32, 32), "wide": (2, 48, 40)}
# up, down by less than 2, down by more than 2
RESIZED = {"up": (1, 32, 24), "down": (1, 400, 333), "far": (1, 640, 600)}


def extractor():
    """torch-fidelity's network with the random weights: no download."""
    _declare_torchvision_operators()
    from torch_fidelity import feature_extractor_inceptionv3 as reference

    def load(module, state, *args, **kwargs):
        shapes = {k: tuple(v.shape) for k, v in module.state_dict().items()}
        random = inception_weights.state_dict(shapes)
        state = {k: torch.from_numpy(v) for k, v in random.items()}
        return torch.nn.Module.load_state_dict(module, state)

    class Network(reference.FeatureExtractorInceptionV3):
        load_state_dict = load

    reference.load_state_dict_from_url = lambda *args, **kwargs: {}
    names = ["2048", "logits_unbiased"]
    return Network("inception-v3-compat", names)


def _declare_torchvision_operators() -> None:
    """torchvision's wheel on PyPI wants CUDA for these two, which are never called."""
    if not hasattr(torch.ops.torchvision, "nms"):
        global _library  # lives as long as the declarations shall
        _library = torch.library.Library("torchvision", "DEF")
        _library.define("nms(Tensor dets, Tensor scores, float t) -> Tensor")
        _library.define("qnms(Tensor dets, Tensor scores, float t) -> Tensor")


def run(network, images: np.ndarray) -> dict[str, np.ndarray]:
    """{"features", "logits"} of uint8 [B,H,W,3]."""
    with torch.no_grad():
        outputs = network(torch.from_numpy(images.transpose(0, 3, 1, 2).copy()))
    return {k: v.numpy() for k, v in zip(("features", "logits"), outputs, strict=True)}


def resize(images: np.ndarray) -> np.ndarray:
    """torch-fidelity's resize of uint8 [B,H,W,3] to 299: float32 [B,299,299,3]."""
    from torch_fidelity import interpolate_compat_tensorflow as reference

    x = torch.from_numpy(images.transpose(0, 3, 1, 2).astype(np.float32))
    x = reference.interpolate_bilinear_2d_like_tensorflow1x(
        x, size=(299, 299), align_corners=False
    )
    return x.numpy().transpose(0, 2, 3, 1)


def main() -> None:
    golden = {}
    network = extractor()
    shapes = {k: tuple(v.shape) for k, v in network.state_dict().items()}
    golden["state"] = np.array(json.dumps(shapes))
    for name, shape in SHAPES.items():
        images = inception_weights.images(*shape)
        for key, value in run(network, images).items():
            golden[f"{name}_{key}"] = value
    # its own option for float64 runs in float32 in version 0.4.0
    network.to(torch.float64).feature_extractor_internal_dtype = torch.float64
    exact = run(network, inception_weights.images(*SHAPES["small"]))
    for key, value in exact.items():
        reference = golden[f"small_{key}"]
        error = np.abs(reference - value).max() / np.abs(value).max()
        golden[f"rounding_{key}"] = np.float32(error)
        print(key, "std", value.std(), "between images", value.std(0).mean(), error)
    for name, shape in RESIZED.items():
        resized = resize(inception_weights.images(*shape))
        golden[f"resized_{name}"] = resized[:, ::20, ::20]
    path = pathlib.Path(__file__).with_name("inception.npz")
    np.savez_compressed(path, **golden)
    print(path, path.stat().st_size, "bytes")


if __name__ == "__main__":
    main()
