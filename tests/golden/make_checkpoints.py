"""Writes small checkpoints in every format of torch and safetensors.

    python tests/golden/make_checkpoints.py

checkpoint_zip.pt, checkpoint_legacy.pt: a training checkpoint by torch.save in its two
formats. checkpoint_script.pt: a traced module by torch.jit.save.
checkpoint.safetensors: the same tensors by the safetensors library. checkpoint.npz:
what torch reads from them, by file and name ("torch/w"), bfloat16 as float32. Made with
torch 2.13.0 and safetensors 0.8.0.
"""

import io
import pathlib
import zipfile

import numpy as np
import torch
from safetensors import torch as safetensors_torch

HERE = pathlib.Path(__file__).parent


def state_dict() -> dict[str, torch.Tensor]:
    """Every dtype, and views that share a storage."""
    torch.manual_seed(0)
    w = torch.randn(3, 4)
    integers = torch.randint(-100, 100, (5,))
    return {
        "w": w,
        "transposed": w.t(),
        "column": w[1:, 2],
        "expanded": torch.randn(2, 1).expand(2, 3),
        "scalar": torch.tensor(1.5),
        "empty": torch.zeros(0, 3),
        "parameter": torch.nn.Parameter(torch.randn(2)),
        "float64": torch.randn(3, dtype=torch.float64),
        "float16": torch.randn(3).half(),
        "bfloat16": torch.tensor([1.0, -3.140625, 1e38, 1e-40]).bfloat16(),
        "int64": integers * 2**40,
        "int32": integers.int() * 2**20,
        "int16": integers.short(),
        "int8": integers.char(),
        "uint8": (integers + 100).byte(),
        "bool": integers > 0,
    }


class Block(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = torch.nn.Conv2d(2, 3, 1, bias=False)
        self.layers = torch.nn.ModuleList([torch.nn.Linear(3, 2) for _ in range(2)])
        self.register_buffer("beta", torch.randn(3).half())
        self.register_buffer("steps", torch.tensor(7))

    def forward(self, x):
        x = self.conv(x).mean((2, 3)) + self.beta.float()
        return self.layers[0](x) + self.layers[1](x) + torch.tensor([5.0, 6.0])


def script() -> torch.jit.ScriptModule:
    torch.manual_seed(1)
    return torch.jit.trace(Block().eval(), torch.ones(1, 2, 2, 2))


def write_script(module: torch.jit.ScriptModule, path: pathlib.Path) -> None:
    """torch.jit.save without the debug entries, which hold paths of this machine."""
    buffer = io.BytesIO()
    torch.jit.save(module, buffer)
    with zipfile.ZipFile(buffer) as source, zipfile.ZipFile(path, "w") as target:
        for info in source.infolist():
            if not info.filename.endswith(".debug_pkl"):
                target.writestr(
                    zipfile.ZipInfo(info.filename),
                    source.read(info),
                    compress_type=info.compress_type,
                )
    torch.jit.load(path)


def array(tensor: torch.Tensor) -> np.ndarray:
    tensor = tensor.detach()
    return (tensor.float() if tensor.dtype == torch.bfloat16 else tensor).numpy()


def main() -> None:
    tensors = state_dict()
    layer = torch.nn.Linear(2, 2)
    optimizer = torch.optim.SGD(layer.parameters(), momentum=0.9)
    layer(torch.ones(1, 2)).sum().backward()
    optimizer.step()
    # As training scripts write it; a module's state_dict has attributes of its own.
    checkpoint = {
        "epoch": 3,
        "arch": "none",
        "best": None,
        "state_dict": layer.state_dict(prefix="layer.") | tensors,
        "optimizer": optimizer.state_dict(),
    }
    for name, zipped in ("zip", True), ("legacy", False):
        path = HERE / f"checkpoint_{name}.pt"
        torch.save(checkpoint, path, _use_new_zipfile_serialization=zipped)
    whole = {k: v.detach().clone().contiguous() for k, v in tensors.items()}
    safetensors_torch.save_file(
        whole, HERE / "checkpoint.safetensors", metadata={"format": "pt"}
    )
    module = script()
    write_script(module, HERE / "checkpoint_script.pt")
    saved = torch.load(HERE / "checkpoint_zip.pt")["state_dict"]
    np.savez_compressed(
        HERE / "checkpoint.npz",
        **{f"torch/{k}": array(v) for k, v in saved.items()},
        **{f"safetensors/{k}": array(v) for k, v in whole.items()},
        **{f"script/{k}": array(v) for k, v in module.state_dict().items()},
        **{"script/constants/0": np.float32([5, 6])},
    )


if __name__ == "__main__":
    main()
