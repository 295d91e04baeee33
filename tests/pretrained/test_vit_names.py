"""The names of the public files of DINOv2 and CLIP, at full size and in small."""

import functools
import json
import pathlib
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from progguide_jax.extractors import vit
from progguide_jax.pretrained import convert, readers, vit_names

FOLDER = pathlib.Path(__file__).parents[1] / "golden"
NAMES = json.loads((FOLDER / "vit_names.json").read_text())
KINDS = [(name, kind) for name, kinds in NAMES.items() for kind in kinds]


@functools.cache
def traced(module):
    """(features, variables) for three images, as shapes."""
    images = jax.ShapeDtypeStruct((3, 50, 70, 3), jnp.uint8)
    return jax.eval_shape(module.init_with_output, jax.random.key(0), images)


def shapes(module):
    return traced(module)[1]


def full_size(folded: dict) -> dict[str, np.ndarray]:
    """Names -> arrays that take no memory."""
    one = np.zeros((), np.float32)
    return {
        name.replace("#", str(i)): np.broadcast_to(one, shape)
        for name, (layers, shape) in folded.items()
        for i in range(max(layers, 1))
    }


def to_authors(source: dict) -> dict:
    """DINOv2 as on the Hugging Face hub -> as in dinov2_vit*_pretrain.pth.

    The table is that of convert_dinov2_to_hf.py in transformers, read backwards.
    """
    out = {}
    for name, x in source.items():
        for theirs, ours in (
            ("embeddings.cls_token", "cls_token"),
            ("embeddings.mask_token", "mask_token"),
            ("embeddings.position_embeddings", "pos_embed"),
            ("embeddings.patch_embeddings.projection", "patch_embed.proj"),
            ("encoder.layer.", "blocks."),
            ("layer_scale1.lambda1", "ls1.gamma"),
            ("layer_scale2.lambda1", "ls2.gamma"),
            ("attention.output.dense", "attn.proj"),
            ("layernorm.", "norm."),
        ):
            name = name.replace(theirs, ours)
        out[name] = x
    for name in [n for n in out if "attention.attention.query" in n]:
        parts = [out.pop(name.replace("query", p)) for p in ("query", "key", "value")]
        out[name.replace("attention.attention.query", "attn.qkv")] = np.concatenate(
            parts
        )
    return out


def check_coverage(name: str, source: dict) -> None:
    """Each name is used or ignored; each variable is filled once, in its shape."""
    rules, ignore = vit_names.rules_for(name, source)
    filled = {}
    for key, value in source.items():
        matches = [(m, r) for r in rules if (m := re.fullmatch(r.source, key))]
        ignored = any(re.fullmatch(regex, key) for regex in ignore)
        assert bool(matches) != ignored, key
        for match, rule in matches:
            path = match.expand(rule.target)
            assert path not in filled, path
            filled[path] = rule.transform(value).shape
    wanted = {
        "/".join(entry.key for entry in path): leaf.shape
        for path, leaf in jax.tree.leaves_with_path(shapes(vit.create(name)))
    }
    assert filled == wanted


@pytest.mark.parametrize(
    ("name", "width", "parameters"),
    [
        # numel of the models of transformers, without mask token and text tower
        ("dinov2_vits14", 384, 22_056_576 - 384),
        ("dinov2_vitl14", 1024, 304_368_640 - 1024),
        ("clip_vitb32", 512, 87_849_216),
        ("clip_vitb16", 512, 86_192_640),
        ("clip_vitl14", 768, 303_966_208),
    ],
)
def test_named_networks_have_their_size(name, width, parameters):
    module = vit.create(name)
    out, variables = traced(module)
    assert sum(x.size for x in jax.tree.leaves(variables)) == parameters
    assert out["features"].shape == (3, width)
    assert out["features"].dtype == jnp.float32
    assert module.table_offset == (0.1 if "dino" in name else 0.0)


@pytest.mark.parametrize(("name", "kind"), KINDS)
def test_full_size_files_fit(name, kind):
    check_coverage(name, full_size(NAMES[name][kind]))


@pytest.mark.parametrize("name", ["dinov2_vits14", "dinov2_vitl14"])
def test_full_size_files_of_the_authors_fit(name):
    check_coverage(name, to_authors(full_size(NAMES[name]["file"])))


def test_older_clip_files_number_their_positions():
    source = full_size(NAMES["clip_vitl14"]["file"])
    for tower, length in (("vision", 257), ("text", 77)):
        ids = np.arange(length)[None]
        source[f"{tower}_model.embeddings.position_ids"] = ids
    check_coverage("clip_vitl14", source)


def test_the_two_spellings_of_dinov2_hold_the_same_network():
    source = readers.read(str(FOLDER / "vit_dinov2.safetensors"))
    module = vit.ViT(vit.DINOV2, 24, 2, 3, patch=8, table=9, size=32)
    hub, authors = (
        convert.convert(s, rules, shapes(module), ignore=ignore)
        for s in (source, to_authors(source))
        for rules, ignore in [vit_names.rules_for("dinov2_vitl14", s)]
    )
    jax.tree.map(np.testing.assert_array_equal, hub, authors)
    query = source["encoder.layer.1.attention.attention.query.weight"]
    np.testing.assert_array_equal(
        authors["params"]["block1"]["query"]["kernel"], query.T
    )


def test_another_network_is_refused():
    source = readers.read(str(FOLDER / "vit_clip.safetensors"))
    rules, ignore = vit_names.rules_for("dinov2_vits14", source)
    module = vit.ViT(vit.DINOV2, 24, 2, 3, patch=8, table=9, size=32)
    with pytest.raises(ValueError, match="unused: .*vision_model"):
        convert.convert(source, rules, shapes(module), ignore=ignore)


def test_every_named_network_has_weights():
    assert set(vit_names.WEIGHTS) == set(vit.MODELS)
    with pytest.raises(ValueError, match="did you mean 'clip_vitl14'"):
        vit_names.rules_for("clip_vit_l14", [])
