"""Writes resnet.npz: the CIFAR ResNets of PyTorch on a few images, in float64.

    PROGGUIDE_WEIGHTS=FOLDER python tests/golden/make_resnet.py

Needs torch (the file here: torch 2.13.0 CPU, NumPy 2.4.6); nothing of progguide_jax is
imported. FOLDER holds the public resnet20-12fca82f.th and resnet56-4bfd9763.th. The
network is that of He et al. 2015, section 4.2, option A, with the names and the zero
padding of github.com/akamaster/pytorch_resnet_cifar10. For D = 20 and 56:

names_D                      "name shape" of a DataParallel network's state dict
features_D, logits_D         with the weights of inception_weights.state_dict, those
                             called bn2.weight times 0.3: else the signal, and with it
                             the rounding of float32, would double from block to block
public_features_D, ..._D     with the public weights
"""

import os
import pathlib

import inception_weights
import numpy as np
import torch
from torch import nn

FILES = {20: "resnet20-12fca82f.th", 56: "resnet56-4bfd9763.th"}
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
COUNT = 4


class Block(nn.Module):
    def __init__(self, in_planes, planes, stride):
        super().__init__()
        self.conv1 = nn.Conv2d(in_planes, planes, 3, stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(planes)
        self.conv2 = nn.Conv2d(planes, planes, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(planes)
        self.changes = stride != 1 or in_planes != planes

    def forward(self, x):
        h = self.bn2(self.conv2(torch.relu(self.bn1(self.conv1(x)))))
        if self.changes:
            quarter = h.shape[1] // 4
            x = nn.functional.pad(
                x[:, :, ::2, ::2], (0, 0, 0, 0, quarter, quarter), value=0.0
            )
        return torch.relu(h + x)


class Network(nn.Module):
    def __init__(self, depth):
        super().__init__()
        self.conv1 = nn.Conv2d(3, 16, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(16)
        in_planes = 16
        for stage, planes in enumerate((16, 32, 64), 1):
            blocks = []
            for i in range((depth - 2) // 6):
                blocks.append(Block(in_planes, planes, 1 if i or stage == 1 else 2))
                in_planes = planes
            setattr(self, f"layer{stage}", nn.Sequential(*blocks))
        self.linear = nn.Linear(64, 10)

    def forward(self, images):
        mean, std = (torch.tensor(v, dtype=torch.float64) for v in (MEAN, STD))
        x = (torch.from_numpy(images).double() / 255 - mean) / std
        x = torch.relu(self.bn1(self.conv1(x.permute(0, 3, 1, 2))))
        x = self.layer3(self.layer2(self.layer1(x)))
        features = nn.functional.avg_pool2d(x, x.shape[-1]).flatten(1)
        return features.numpy(), self.linear(features).numpy()


@torch.no_grad()
def main():
    images = inception_weights.images(COUNT, 32, 32)
    folder = pathlib.Path(os.environ["PROGGUIDE_WEIGHTS"])
    golden = {}
    for depth, name in FILES.items():
        network = Network(depth).double().eval()
        wrapped = nn.DataParallel(network)
        shapes = {k: tuple(v.shape) for k, v in wrapped.state_dict().items()}
        golden[f"names_{depth}"] = np.array(
            [f"{k} {','.join(map(str, shape))}" for k, shape in shapes.items()]
        )
        seeded = inception_weights.state_dict(shapes)
        for key in seeded:
            if key.endswith("bn2.weight"):
                seeded[key] *= np.float32(0.3)
        wrapped.load_state_dict({k: torch.from_numpy(v) for k, v in seeded.items()})
        golden[f"features_{depth}"], golden[f"logits_{depth}"] = network(images)
        public = torch.load(folder / name, "cpu", weights_only=True)["state_dict"]
        # strict but for the counters, which the old files lack
        missing, unused = wrapped.load_state_dict(public, strict=False)
        assert not unused and all("num_batches_tracked" in k for k in missing)
        features, logits = network(images)
        golden[f"public_features_{depth}"] = features
        golden[f"public_logits_{depth}"] = logits
    np.savez_compressed(pathlib.Path(__file__).with_name("resnet.npz"), **golden)


if __name__ == "__main__":
    main()
