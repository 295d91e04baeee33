"""DINOv2 and CLIP networks against `transformers` on the same random weights."""

import functools
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from progguide_jax.extractors import vit
from progguide_jax.pretrained import convert, readers, vit_names
from progguide_jax.runtime import sharding

FOLDER = pathlib.Path(__file__).parents[1] / "golden"
GOLDEN = np.load(FOLDER / "vit.npz")
# make_vit.py: 2 layers, 24 channels, 3 heads, patches of 8x8 on 32x32 pixels
SMALL = functools.partial(vit.ViT, width=24, depth=2, heads=3, patch=8, size=32)
SMALL_DINOV2 = SMALL(vit.DINOV2, table=9)
SMALL_CLIP = SMALL(vit.CLIP, table=4, projection=10)


def shapes(module):
    images = jax.ShapeDtypeStruct((1, 32, 32, 3), jnp.uint8)
    return jax.eval_shape(module.init, jax.random.key(0), images)


def load(module, name: str, path) -> dict:
    source = readers.read(str(path))
    rules, ignore = vit_names.rules_for(name, source)
    return convert.convert(source, rules, shapes(module), ignore=ignore)


@functools.cache
def small(name: str) -> tuple[vit.ViT, dict]:
    module = SMALL_DINOV2 if name == "dinov2" else SMALL_CLIP
    known = "dinov2_vits14" if name == "dinov2" else "clip_vitb32"
    return module, load(module, known, FOLDER / f"vit_{name}.safetensors")


# compiling well takes longer than these programs run
@functools.partial(
    jax.jit, static_argnums=0, compiler_options={"xla_backend_optimization_level": 0}
)
def features(module, variables, images):
    return module.apply(variables, images)["features"]


@pytest.mark.parametrize(
    ("name", "offset", "key"),
    [
        ("dinov2", 0.0, "40x40"),
        ("dinov2_offset", 0.1, "45x61"),
        ("clip", 0.0, "40x40"),
        ("clip", 0.0, "45x61"),
    ],
)
def test_features_are_those_of_transformers(name, offset, key):
    module, variables = small(name.split("_")[0])
    module = module.clone(table_offset=offset)
    result = features(module, variables, GOLDEN[f"images_{key}"])
    expected = GOLDEN[f"{name}_{key}"]
    assert result.dtype == jnp.float32
    np.testing.assert_allclose(result, expected, atol=3e-5 * np.abs(expected).max())


def test_the_golden_networks_use_all_their_parts():
    # each leaf matters: doubling it moves the features
    for name in ("dinov2", "clip"):
        module, variables = small(name)
        images = GOLDEN["images_40x40"]
        base = features(module, variables, images)
        leaves, tree = jax.tree.flatten_with_path(variables)
        for i, (path, _) in enumerate(leaves):
            if "key" in str(path) and "bias" in str(path):
                continue  # softmax does not see a shift of all its logits
            moved = [2 * x if i == j else x for j, (_, x) in enumerate(leaves)]
            moved = features(module, jax.tree.unflatten(tree, moved), images)
            assert jnp.abs(moved - base).max() > 1e-2, path


def test_an_unknown_name_is_refused():
    with pytest.raises(ValueError, match="did you mean 'dinov2_vitl14'"):
        vit.create("dinov2_vit_l14")


@pytest.mark.parametrize(
    ("shape", "dtype"),
    [((2, 32, 32, 3), "float32"), ((2, 32, 32, 1), "uint8"), ((32, 32, 3), "uint8")],
)
def test_other_images_are_refused(shape, dtype):
    module, variables = small("clip")
    with pytest.raises(ValueError, match=r"takes images uint8 \[N, H, W, 3\], got"):
        module.apply(variables, jnp.zeros(shape, dtype))


@pytest.mark.parametrize("name", ["dinov2", "clip"])
def test_every_product_has_full_precision(name):
    module, variables = small(name)
    jaxpr = jax.make_jaxpr(module.apply)(variables, GOLDEN["images_40x40"])
    found = products(jaxpr.jaxpr)
    highest = (jax.lax.Precision.HIGHEST, jax.lax.Precision.HIGHEST)
    assert len(found) > 15
    assert all(precision == highest for precision in found)


def products(jaxpr) -> list:
    """The precision of every matrix product and convolution."""
    found = []
    for equation in jaxpr.eqns:
        if equation.primitive.name in ("dot_general", "conv_general_dilated"):
            found.append(equation.params["precision"])
        for value in equation.params.values():
            if hasattr(value, "jaxpr"):
                found += products(value.jaxpr)
    return found


@pytest.mark.parametrize("name", ["dinov2", "clip"])
def test_a_sharded_batch_has_the_same_features(name):
    module, variables = small(name)
    # three images in turn, two on a device
    images = np.tile(GOLDEN["images_40x40"], (6, 1, 1, 1))[:16]
    expected = np.tile(GOLDEN[f"{name}_40x40"], (6, 1))[:16]
    rows = sharding.batch(sharding.mesh())
    result = features(module, variables, jax.device_put(images, rows))
    assert result.sharding.is_equivalent_to(rows, 2)
    np.testing.assert_allclose(result, expected, atol=3e-5 * np.abs(expected).max())


@pytest.mark.slow
@pytest.mark.parametrize("name", ["dinov2_vits14", "clip_vitb32"])
def test_full_size_beside_transformers(name, tmp_path):
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    images = np.random.default_rng(0).integers(0, 256, (2, 224, 224, 3), np.uint8)
    if name.startswith("dinov2"):
        shape = {"hidden_size": 384, "num_hidden_layers": 12, "num_attention_heads": 6}
        config = transformers.Dinov2Config(**shape, image_size=518, patch_size=14)
        model = transformers.Dinov2Model(config)
    else:
        config = transformers.CLIPVisionConfig(projection_dim=512)
        model = transformers.CLIPVisionModelWithProjection(config)
    for parameter in model.parameters():  # 0.02 at first: attention would be uniform
        parameter.data.mul_(2.0).add_(0.02 * torch.randn_like(parameter))
    model.eval().save_pretrained(tmp_path)
    module = vit.create(name).clone(table_offset=0.0)
    variables = load(module, name, tmp_path / "model.safetensors")
    family = module.family
    x = (images / 255.0 - np.array(family.mean)) / np.array(family.std)
    with torch.no_grad():
        x = torch.from_numpy(x.transpose(0, 3, 1, 2)).float()
        out = model(x)
    expected = (out.pooler_output if "dino" in name else out.image_embeds).numpy()
    result = features(module, variables, images)
    np.testing.assert_allclose(result, expected, atol=1e-4 * np.abs(expected).max())
