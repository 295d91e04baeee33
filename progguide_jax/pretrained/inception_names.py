r"""The names that public files give to the weights of models/inception.py.

Three spellings, told apart by the names themselves:

torch     weights-inception-2015-12-05-6726825d.pth of torch-fidelity and pytorch-fid's
          pt_inception-2015-12-05-6726825d.pth, which are one and the same file:
          "Mixed_5b.branch5x5_2.conv.weight", "Mixed_5b.branch5x5_2.bn.running_var".
          Checked against the state dict of torch-fidelity 0.4.0.
graph     classify_image_graph_def.pb in inception-2015-12-05.tgz:
          "mixed/tower/conv_1/conv2d_params", "mixed/tower/conv_1/batchnorm/gamma".
          As listed in torch-fidelity's converter (utils/util_convert_inception_weights)
          and in a printed list of the graph's nodes (anshuman23/tensorflex, README).
nvidia    the TorchScript file inception-2015-12-05.pt that stylegan2-ada-pytorch, edm
          and clean-fid download: "layers.mixed.tower.conv_1.weight", ".beta", ".mean",
          ".var", no gamma (it is 1). Modules as in two independent ports of that file,
          the leaves as in one of them (openai/consistency_models,
          evaluations/inception_v3.py).

None of the three files was at hand; that a whole file fits is for convert.py to say.
The bias of the logits, the batch norms' counters and an auxiliary head are left out.
"""

import re
from collections.abc import Iterable

import numpy as np

from progguide_jax.pretrained import convert, locate

Rules = tuple[convert.Renaming, ...]

_SHA256 = "6726825d0af5f729cebd5821db510b11b1cfad8faad88a03f1befd49fb9129b2"
# no digest is published with the last two
WEIGHTS: tuple[locate.WeightFile, ...] = (
    locate.WeightFile("weights-inception-2015-12-05-6726825d.pth", _SHA256),
    locate.WeightFile("pt_inception-2015-12-05-6726825d.pth", _SHA256),
    locate.WeightFile("inception-2015-12-05.pt"),
    locate.WeightFile("classify_image_graph_def.pb"),
)

# name in the graph -> name in PyTorch, of layers, of blocks, of the layers in a block
_STEM = {
    "conv": "Conv2d_1a_3x3",
    "conv_1": "Conv2d_2a_3x3",
    "conv_2": "Conv2d_2b_3x3",
    "conv_3": "Conv2d_3b_1x1",
    "conv_4": "Conv2d_4a_3x3",
}
_A = {
    "conv": "branch1x1",
    "tower/conv": "branch5x5_1",
    "tower/conv_1": "branch5x5_2",
    "tower_1/conv": "branch3x3dbl_1",
    "tower_1/conv_1": "branch3x3dbl_2",
    "tower_1/conv_2": "branch3x3dbl_3",
    "tower_2/conv": "branch_pool",
}
_B = {
    "conv": "branch3x3",
    "tower/conv": "branch3x3dbl_1",
    "tower/conv_1": "branch3x3dbl_2",
    "tower/conv_2": "branch3x3dbl_3",
}
_C = {
    "conv": "branch1x1",
    "tower/conv": "branch7x7_1",
    "tower/conv_1": "branch7x7_2",
    "tower/conv_2": "branch7x7_3",
    "tower_1/conv": "branch7x7dbl_1",
    "tower_1/conv_1": "branch7x7dbl_2",
    "tower_1/conv_2": "branch7x7dbl_3",
    "tower_1/conv_3": "branch7x7dbl_4",
    "tower_1/conv_4": "branch7x7dbl_5",
    "tower_2/conv": "branch_pool",
}
_D = {
    "tower/conv": "branch3x3_1",
    "tower/conv_1": "branch3x3_2",
    "tower_1/conv": "branch7x7x3_1",
    "tower_1/conv_1": "branch7x7x3_2",
    "tower_1/conv_2": "branch7x7x3_3",
    "tower_1/conv_3": "branch7x7x3_4",
}
_E = {
    "conv": "branch1x1",
    "tower/conv": "branch3x3_1",
    "tower/mixed/conv": "branch3x3_2a",
    "tower/mixed/conv_1": "branch3x3_2b",
    "tower_1/conv": "branch3x3dbl_1",
    "tower_1/conv_1": "branch3x3dbl_2",
    "tower_1/mixed/conv": "branch3x3dbl_3a",
    "tower_1/mixed/conv_1": "branch3x3dbl_3b",
    "tower_2/conv": "branch_pool",
}
_BLOCKS = {
    "mixed": ("Mixed_5b", _A),
    "mixed_1": ("Mixed_5c", _A),
    "mixed_2": ("Mixed_5d", _A),
    "mixed_3": ("Mixed_6a", _B),
    "mixed_4": ("Mixed_6b", _C),
    "mixed_5": ("Mixed_6c", _C),
    "mixed_6": ("Mixed_6d", _C),
    "mixed_7": ("Mixed_6e", _C),
    "mixed_8": ("Mixed_7a", _D),
    "mixed_9": ("Mixed_7b", _E),
    "mixed_10": ("Mixed_7c", _E),
}
_LAYERS = _STEM | {
    f"{block}/{layer}": f"{name}/{branch}"
    for block, (name, branches) in _BLOCKS.items()
    for layer, branch in branches.items()
}

_TORCH = (
    *(
        convert.Renaming(rf"{pattern}\.{leaf}", f"params/{path}/{ours}", transform)
        for pattern, path in ((r"(\w+)", r"\1"), (r"(\w+)\.(\w+)", r"\1/\2"))
        for leaf, ours, transform in (
            (r"conv\.weight", "kernel", convert.conv),
            (r"bn\.weight", "scale", convert.keep),
            (r"bn\.bias", "bias", convert.keep),
            (r"bn\.running_mean", "mean", convert.keep),
            (r"bn\.running_var", "var", convert.keep),
        )
    ),
    convert.Renaming(r"fc\.weight", "params/fc/kernel", convert.dense),
)
_TORCH_IGNORED = (r"fc\.bias", r".*\.num_batches_tracked", r"AuxLogits\..*")


def _graph_rules() -> Rules:
    rules = [convert.Renaming("softmax/weights", "params/fc/kernel")]
    for name, path in _LAYERS.items():
        rules += [
            convert.Renaming(f"{name}/conv2d_params", f"params/{path}/kernel"),
            convert.Renaming(f"{name}/batchnorm/gamma", f"params/{path}/scale"),
            convert.Renaming(f"{name}/batchnorm/beta", f"params/{path}/bias"),
            convert.Renaming(f"{name}/batchnorm/moving_mean", f"params/{path}/mean"),
            convert.Renaming(f"{name}/batchnorm/moving_variance", f"params/{path}/var"),
        ]
    return tuple(rules)


# sizes of pools and reshapes, axes of concatenations, the input image
_GRAPH_IGNORED = (
    "softmax/biases",
    r"(?!.*(conv2d_params|/batchnorm/|softmax/weights)).*",
)


def _nvidia_rules() -> Rules:
    rules = [convert.Renaming(r"output\.weight", "params/fc/kernel", convert.dense)]
    for name, path in _LAYERS.items():
        block, _, layer = name.partition("/")
        # towers are modules, except in the last two blocks
        flat = block in ("mixed_9", "mixed_10")
        layer = layer.replace("/", "_" if flat else ".")
        source = re.escape(".".join(filter(None, ("layers", block, layer))))
        rules += [
            convert.Renaming(
                rf"{source}\.weight", f"params/{path}/kernel", convert.conv
            ),
            convert.Renaming(rf"{source}\.beta", f"params/{path}/bias"),
            convert.Renaming(rf"{source}\.mean", f"params/{path}/mean"),
            convert.Renaming(rf"{source}\.var", f"params/{path}/var"),
            convert.Renaming(rf"{source}\.var", f"params/{path}/scale", np.ones_like),
        ]
    return tuple(rules)


_NVIDIA_IGNORED = (r"output\.bias", r"constants/\d+")


def rules_for(source_names: Iterable[str]) -> tuple[Rules, tuple[str, ...]]:
    """(rules, ignore) of `convert.convert` for a file with these names.

    ValueError if they are not those of one of the public files.
    """
    names = set(source_names)
    if "Conv2d_1a_3x3.conv.weight" in names:
        return _TORCH, _TORCH_IGNORED
    if "conv/conv2d_params" in names:
        return _graph_rules(), _GRAPH_IGNORED
    if "layers.conv.weight" in names:
        return _nvidia_rules(), _NVIDIA_IGNORED
    some = ", ".join(sorted(names)[:3])
    raise ValueError(
        f"no weights of the 2015 Inception network: they begin with {some}: use "
        f"{', '.join(file.name for file in WEIGHTS)}"
    )
