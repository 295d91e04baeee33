"""The names that public files give to the weights of models/vit.py.

Two sources: the repositories of the Hugging Face hub, and the files of DINOv2's authors
(dl.fbaipublicfiles.com/dinov2), where query, key and value are one matrix, in this
order. The text half of CLIP and DINOv2's token for masked patches have no place here.
"""

import difflib
from collections.abc import Callable, Iterable

import numpy as np

from progguide_jax.pretrained import convert, locate

Rules = tuple[convert.Renaming, ...]


def _linear(source: str, target: str, transform=convert.dense, part=convert.keep):
    """Rules for a weight and a bias; `part` picks the rows of a fused matrix."""
    return (
        convert.Renaming(
            rf"{source}\.weight", f"{target}/kernel", lambda x: transform(part(x))
        ),
        convert.Renaming(rf"{source}\.bias", f"{target}/bias", part),
    )


def _norm(source: str, target: str) -> Rules:
    return (
        convert.Renaming(rf"{source}\.weight", f"{target}/scale"),
        convert.Renaming(rf"{source}\.bias", f"{target}/bias"),
    )


def _third(i: int) -> Callable[[np.ndarray], np.ndarray]:
    return lambda x: np.split(x, 3)[i]


def _drop_batch(x: np.ndarray) -> np.ndarray:
    """[1,N,D] -> [N,D]; an array with more than one row stays and does not fit."""
    return x[0] if len(x) == 1 else x


_LAYER, _BLOCK = r"encoder\.layer\.(\d+)", r"params/block\1"
_HUB_DINOV2 = (
    convert.Renaming(r"embeddings\.cls_token", "params/cls", np.ravel),
    convert.Renaming(
        r"embeddings\.position_embeddings", "params/positions", _drop_batch
    ),
    *_linear(r"embeddings\.patch_embeddings\.projection", "params/patch", convert.conv),
    *_norm(rf"{_LAYER}\.norm([12])", rf"{_BLOCK}/norm\2"),
    *_linear(rf"{_LAYER}\.attention\.attention\.(query|key|value)", rf"{_BLOCK}/\2"),
    *_linear(rf"{_LAYER}\.attention\.output\.dense", f"{_BLOCK}/out"),
    # the same layers as transformers 5 calls them in memory
    *_linear(rf"{_LAYER}\.attention\.q_proj", f"{_BLOCK}/query"),
    *_linear(rf"{_LAYER}\.attention\.k_proj", f"{_BLOCK}/key"),
    *_linear(rf"{_LAYER}\.attention\.v_proj", f"{_BLOCK}/value"),
    *_linear(rf"{_LAYER}\.attention\.o_proj", f"{_BLOCK}/out"),
    convert.Renaming(rf"{_LAYER}\.layer_scale([12])\.lambda1", rf"{_BLOCK}/scale\2"),
    *_linear(rf"{_LAYER}\.mlp\.fc([12])", rf"{_BLOCK}/fc\2"),
    *_norm("layernorm", "params/norm"),
)
_HUB_DINOV2_IGNORED = (r"embeddings\.mask_token",)

_LAYER = r"blocks\.(\d+)"
_DINOV2 = (
    convert.Renaming("cls_token", "params/cls", np.ravel),
    convert.Renaming("pos_embed", "params/positions", _drop_batch),
    *_linear(r"patch_embed\.proj", "params/patch", convert.conv),
    *_norm(rf"{_LAYER}\.norm([12])", rf"{_BLOCK}/norm\2"),
    *_linear(rf"{_LAYER}\.attn\.qkv", f"{_BLOCK}/query", part=_third(0)),
    *_linear(rf"{_LAYER}\.attn\.qkv", f"{_BLOCK}/key", part=_third(1)),
    *_linear(rf"{_LAYER}\.attn\.qkv", f"{_BLOCK}/value", part=_third(2)),
    *_linear(rf"{_LAYER}\.attn\.proj", f"{_BLOCK}/out"),
    convert.Renaming(rf"{_LAYER}\.ls([12])\.gamma", rf"{_BLOCK}/scale\2"),
    *_linear(rf"{_LAYER}\.mlp\.fc([12])", rf"{_BLOCK}/fc\2"),
    *_norm("norm", "params/norm"),
)
_DINOV2_IGNORED = ("mask_token",)

_LAYER = r"vision_model\.encoder\.layers\.(\d+)"
_EMBEDDINGS = r"vision_model\.embeddings"
_HUB_CLIP = (
    convert.Renaming(rf"{_EMBEDDINGS}\.class_embedding", "params/cls"),
    convert.Renaming(rf"{_EMBEDDINGS}\.position_embedding\.weight", "params/positions"),
    convert.Renaming(
        rf"{_EMBEDDINGS}\.patch_embedding\.weight", "params/patch/kernel", convert.conv
    ),
    *_norm(r"vision_model\.pre_layrnorm", "params/pre_norm"),
    *_norm(rf"{_LAYER}\.layer_norm([12])", rf"{_BLOCK}/norm\2"),
    *_linear(rf"{_LAYER}\.self_attn\.q_proj", f"{_BLOCK}/query"),
    *_linear(rf"{_LAYER}\.self_attn\.k_proj", f"{_BLOCK}/key"),
    *_linear(rf"{_LAYER}\.self_attn\.v_proj", f"{_BLOCK}/value"),
    *_linear(rf"{_LAYER}\.self_attn\.out_proj", f"{_BLOCK}/out"),
    *_linear(rf"{_LAYER}\.mlp\.fc([12])", rf"{_BLOCK}/fc\2"),
    *_norm(r"vision_model\.post_layernorm", "params/norm"),
    convert.Renaming(
        r"visual_projection\.weight", "params/projection/kernel", convert.dense
    ),
)
_HUB_CLIP_IGNORED = (
    r"text_model\..*",
    r"text_projection\.weight",
    "logit_scale",
    r"(vision_model|text_model)\.embeddings\.position_ids",
)


def _hub(repo: str) -> tuple[locate.WeightFile, ...]:
    return (
        locate.WeightFile("model.safetensors", repo=repo),
        locate.WeightFile("pytorch_model.bin", repo=repo),
    )


# No digests: none are known. A file whose name says which network it is comes first.
WEIGHTS: dict[str, tuple[locate.WeightFile, ...]] = {
    "dinov2_vits14": (
        locate.WeightFile("dinov2_vits14_pretrain.pth"),
        *_hub("facebook/dinov2-small"),
    ),
    "dinov2_vitl14": (
        locate.WeightFile("dinov2_vitl14_pretrain.pth"),
        *_hub("facebook/dinov2-large"),
    ),
    "clip_vitb32": _hub("openai/clip-vit-base-patch32"),
    "clip_vitb16": _hub("openai/clip-vit-base-patch16"),
    "clip_vitl14": _hub("openai/clip-vit-large-patch14"),
}


def rules_for(name: str, source_names: Iterable[str]) -> tuple[Rules, tuple[str, ...]]:
    """(rules, ignore) of `convert.convert` for the network `name` from such a file.

    The names in the file tell DINOv2's two spellings apart. ValueError for a name that
    is not in WEIGHTS.
    """
    if name not in WEIGHTS:
        near = difflib.get_close_matches(name, WEIGHTS, n=1)
        hint = f"did you mean {near[0]!r}? " if near else ""
        raise ValueError(
            f"no public weights for {name!r}: {hint}use one of {', '.join(WEIGHTS)}"
        )
    if name.startswith("clip"):
        return _HUB_CLIP, _HUB_CLIP_IGNORED
    if "pos_embed" in source_names:
        return _DINOV2, _DINOV2_IGNORED
    return _HUB_DINOV2, _HUB_DINOV2_IGNORED
