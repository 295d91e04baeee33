"""Writes vit_dinov2.safetensors, vit_clip.safetensors, vit.npz and vit_names.json.

    python tests/golden/make_vit.py

Needs torch, transformers, safetensors and Pillow (the files here: torch 2.13.0 CPU,
transformers 5.23.0, Pillow 13.0.0, NumPy 2.4.6); nothing of progguide_jax is imported.

vit_*.safetensors   two-layer networks of 24 channels and 3 heads at 32x32 pixels, as
                    `save_pretrained` writes them, in float16 to be small. The weights
                    are seeded and large enough for every branch and every attention
                    map to matter; the networks run in float64 with these very values.
vit.npz             images and what PyTorch, PIL and the networks make of them
vit_names.json      network -> names in the full-size files -> [layers, shape]; layers
                    are alike and have "#" for their number, 0 = not in a layer
"""

import hashlib
import json
import pathlib
import re

import numpy as np
import PIL.Image
import torch
import transformers
from safetensors import numpy as safetensors
from transformers import core_model_loading

HERE = pathlib.Path(__file__).parent
SIZE, TABLE, PATCH = 32, 9, 8
SHAPE = {"hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 3}
OFFSET = 0.1  # of DINOv2's authors, in interpolate_pos_encoding
DINOV2 = {
    "dinov2_vits14": (384, 12, 6),
    "dinov2_vitl14": (1024, 24, 16),
}
CLIP = {
    "clip_vitb32": (768, 12, 12, 32, 512, 512),
    "clip_vitb16": (768, 12, 12, 16, 512, 512),
    "clip_vitl14": (1024, 24, 16, 14, 768, 768),
}


def randomise(model, seed):
    """Weights of O(1) effect: logits of attention and branches are neither 0 nor huge.

    Embeddings are small, so that the epsilon of the first LayerNorm counts. Values are
    float16 numbers, so that the small file holds them exactly.
    """
    draw = np.random.RandomState(seed)
    for name, p in model.named_parameters():
        x = draw.standard_normal(p.shape)
        if p.ndim >= 2 and "embedding" not in name and "token" not in name:
            x *= 1.5 / np.sqrt(np.prod(p.shape[1:]))
        elif "patch" in name and p.ndim == 4:
            x *= 1.0 / np.sqrt(np.prod(p.shape[1:]))
        elif "norm" in name and name.endswith("weight") or "lambda" in name:
            x = 1 + 0.3 * x
        elif name.endswith("bias"):
            x *= 0.3
        if "embedding" in name or "cls_token" in name:
            x *= 0.01
        p.data = torch.from_numpy(x.astype(np.float16).astype(np.float64))
    return model.double().eval()


def save(model, name):
    state = core_model_loading.revert_weight_conversion(model, model.state_dict())
    arrays = {k: v.numpy().astype(np.float16) for k, v in state.items()}
    safetensors.save_file(arrays, HERE / f"{name}.safetensors")


def normalised(x, mean, std):
    """[B,3,H,W] in 0 ... 255 -> network input, float64."""
    mean, std = (torch.tensor(v, dtype=torch.float64) for v in (mean, std))
    return (x.double() / 255 - mean[:, None, None]) / std[:, None, None]


def torch_bicubic(images, size):
    x = torch.from_numpy(images).permute(0, 3, 1, 2).float()
    return torch.nn.functional.interpolate(x, size, mode="bicubic", antialias=True)


def pil_bicubic(images, size):
    """The CLIP processor on PIL, up to the crop: uint8 [B,size,size,3]."""
    processor = transformers.CLIPImageProcessorPil(
        size={"shortest_edge": size},
        crop_size={"height": size, "width": size},
        do_rescale=False,
        do_normalize=False,
    )
    out = [processor(PIL.Image.fromarray(x)).pixel_values[0] for x in images]
    return np.stack(out).transpose(0, 2, 3, 1).astype(np.uint8)


def dinov2(images):
    """Features as transformers resamples the positions, and as the authors do."""
    config = transformers.Dinov2Config(
        **SHAPE, image_size=TABLE * PATCH, patch_size=PATCH
    )
    model = randomise(transformers.Dinov2Model(config), 1)
    save(model, "vit_dinov2")
    mean, std = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
    x = normalised(torch_bicubic(images, SIZE), mean, std)
    theirs = model(x).pooler_output
    table = model.embeddings.position_embeddings.data
    grid = SIZE // PATCH
    square = table[:, 1:].reshape(1, TABLE, TABLE, -1).permute(0, 3, 1, 2)
    square = torch.nn.functional.interpolate(
        square, scale_factor=[(grid + OFFSET) / TABLE] * 2, mode="bicubic"
    )
    flat = square.permute(0, 2, 3, 1).reshape(1, grid * grid, -1)
    # a table of the grid's own size is used as it is
    small = transformers.Dinov2Config(**SHAPE, image_size=SIZE, patch_size=PATCH)
    authors = transformers.Dinov2Model(small).double().eval()
    state = model.state_dict()
    state["embeddings.position_embeddings"] = torch.cat([table[:, :1], flat], 1)
    authors.load_state_dict(state)
    return theirs, authors(x).pooler_output


def clip(images):
    config = transformers.CLIPVisionConfig(
        **SHAPE, intermediate_size=96, projection_dim=10, image_size=SIZE, patch_size=8
    )
    model = randomise(transformers.CLIPVisionModelWithProjection(config), 2)
    save(model, "vit_clip")
    x = torch.from_numpy(pil_bicubic(images, SIZE)).permute(0, 3, 1, 2)
    mean = (0.48145466, 0.4578275, 0.40821073)
    std = (0.26862954, 0.26130258, 0.27577711)
    return model(normalised(x, mean, std)).image_embeds


def names(model):
    """Names and shapes as `save_pretrained` writes them, and in memory if different."""
    state = model.state_dict()
    saved = core_model_loading.revert_weight_conversion(model, state)
    kinds = {"file": saved} | ({"memory": state} if set(saved) != set(state) else {})
    return {
        kind: folded({k: list(v.shape) for k, v in sorted(tensors.items())})
        for kind, tensors in kinds.items()
    }


def folded(shapes):
    """Name -> [number of layers or 0, shape]."""
    out, layers = {}, {}
    for name, shape in shapes.items():
        key = re.sub(r"\.\d+\.", ".#.", name)
        layers[key] = layers.get(key, 0) + ("#" in key)
        assert out.setdefault(key, shape) == shape, name
    return {key: [layers[key], shape] for key, shape in out.items()}


def full_size():
    out = {}
    with torch.device("meta"):
        for name, (width, depth, heads) in DINOV2.items():
            config = transformers.Dinov2Config(
                hidden_size=width,
                num_hidden_layers=depth,
                num_attention_heads=heads,
                image_size=518,
                patch_size=14,
            )
            out[name] = names(transformers.Dinov2Model(config))
        for name, (width, depth, heads, patch, projection, text) in CLIP.items():
            config = transformers.CLIPConfig(
                vision_config={
                    "hidden_size": width,
                    "intermediate_size": 4 * width,
                    "num_hidden_layers": depth,
                    "num_attention_heads": heads,
                    "patch_size": patch,
                    "image_size": 224,
                },
                text_config={
                    "hidden_size": text,
                    "intermediate_size": 4 * text,
                    "num_attention_heads": text // 64,
                },
                projection_dim=projection,
            )
            out[name] = names(transformers.CLIPModel(config))
    return out


@torch.no_grad()
def main():
    draw = np.random.RandomState(0)
    arrays = {}
    for shape in ((3, 40, 40), (1, 45, 61), (1, 250, 230)):
        h, w = shape[1:]
        noise = draw.randint(0, 256, (*shape, 3))
        # half of the contrast in smooth colours, half in noise
        slope = (
            np.linspace(0, 255, w)[None, :, None]
            * np.linspace(1, 0.2, h)[:, None, None]
        )
        images = ((noise + slope[None]) / 2).astype(np.uint8)
        if h < 100:
            arrays[f"images_{h}x{w}"] = images
        else:
            images = np.tile(arrays["images_40x40"][:1], (1, 7, 6, 1))[:, :h, :w]
        key = f"{h}x{w}"
        arrays[f"torch_{key}"] = torch_bicubic(images, 224)[:, :, ::23, ::19].numpy()
        digest = hashlib.sha256(pil_bicubic(images, 224).tobytes()).hexdigest()
        arrays[f"pil_{key}"] = np.array(digest)
    for key in ("40x40", "45x61"):
        images = arrays[f"images_{key}"]
        theirs, authors = dinov2(images)
        arrays[f"dinov2_{key}"] = theirs.numpy()
        arrays[f"dinov2_offset_{key}"] = authors.numpy()
        arrays[f"clip_{key}"] = clip(images).numpy()
    np.savez_compressed(HERE / "vit.npz", **arrays)
    text = json.dumps(full_size(), separators=(",", ":"))
    (HERE / "vit_names.json").write_text(text.replace('],"', '],\n"') + "\n")


if __name__ == "__main__":
    main()
