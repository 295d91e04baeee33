"""The same network, training step and guided sampler in PyTorch, to compare with.

Needs torch and numpy only. `benchmarks.against_torch` starts it with a folder that
holds the parameters and inputs (inputs.npz, settings.json); it answers with
outputs.npz, then times what each line on its stdin names. Channels last throughout.
"""

import copy
import json
import pathlib
import sys
import time

import numpy as np
import torch
import torch.nn.functional as F


def to_torch(array: np.ndarray, name: str) -> torch.Tensor:
    """A Flax parameter in PyTorch's layout."""
    tensor = torch.from_numpy(array)
    if tensor.ndim == 4:  # HWIO -> OIHW
        tensor = tensor.permute(3, 2, 0, 1).contiguous()
        return tensor.to(memory_format=torch.channels_last)
    if name.endswith("kernel"):  # [in, out] -> [out, in]
        return tensor.T.contiguous()
    return tensor


def images(array: np.ndarray) -> torch.Tensor:
    """[B,H,W,C] -> [B,C,H,W] in channels-last memory: no copy."""
    return torch.from_numpy(array).permute(0, 3, 1, 2)


class UNet:
    """`progguide_jax.networks.unet.UNet` on a flat dict of its parameters."""

    def __init__(self, params: dict[str, torch.Tensor], settings: dict):
        self.p, self.s = params, settings
        self.sigma = torch.tensor(settings["sigma"])

    def dense(self, x, name):
        return F.linear(x, self.p[f"{name}/kernel"], self.p[f"{name}/bias"])

    def conv(self, x, name, stride=1):
        if stride == 2:  # XLA's SAME pads an even size at the end only
            x = F.pad(x, (0, 1, 0, 1))
        weight, bias = self.p[f"{name}/kernel"], self.p[f"{name}/bias"]
        return F.conv2d(x, weight, bias, stride, padding=2 - stride)

    def norm(self, x, name):
        groups = min(32, x.shape[1] // 4)
        scale, bias = self.p[f"{name}/scale"], self.p[f"{name}/bias"]
        return F.group_norm(x, groups, scale, bias, eps=1e-6)

    def res(self, x, emb, name):
        h = self.conv(F.silu(self.norm(x, f"{name}/norm1")), f"{name}/conv1")
        h = h + self.dense(emb, f"{name}/emb")[:, :, None, None]
        h = self.conv(F.silu(self.norm(h, f"{name}/norm2")), f"{name}/conv2")
        if f"{name}/shortcut/kernel" in self.p:
            weight = self.p[f"{name}/shortcut/kernel"][:, :, None, None]
            x = F.conv2d(x, weight, self.p[f"{name}/shortcut/bias"])
        return x + h

    def attend(self, x, name):
        b, c, h, w = x.shape
        y = self.norm(x, f"{name}/norm").permute(0, 2, 3, 1).reshape(b, 1, h * w, c)
        q, k, v = (self.dense(y, f"{name}/{n}") for n in "qkv")
        y = self.dense(F.scaled_dot_product_attention(q, k, v), f"{name}/out")
        return x + y.reshape(b, h, w, c).permute(0, 3, 1, 2)

    def embedding(self, t, label):
        half = self.s["base_channels"] // 2
        frequency = torch.exp(-np.log(10_000.0) * torch.arange(half) / (half - 1))
        angle = t.float()[:, None] * frequency
        h = torch.cat([angle.sin(), angle.cos()], -1)
        row = self.p["label_table/table"][label]
        if "label_in/kernel" in self.p:
            row = self.dense(row, "label_in")
        h = F.silu(self.dense(h, "time_in") + row)
        return F.silu(self.dense(h, "time_out"))  # every block applies it first

    def __call__(self, x_t, t, label):
        s, emb = self.s, self.embedding(t, label)

        def level(h, name):
            h = self.res(h, emb, name)
            at = h.shape[2] in s["attention_resolutions"]
            return self.attend(h, f"{name}_attention") if at else h

        h = self.conv(x_t, "conv_in")
        skips, last = [h], len(s["channel_mult"]) - 1
        for i in range(last + 1):
            for j in range(s["num_res_blocks"]):
                h = level(h, f"down{i}_{j}")
                skips.append(h)
            if i < last:
                h = self.conv(h, f"down{i}_conv", stride=2)
                skips.append(h)
        h = self.res(h, emb, "middle_0")
        h = self.attend(h, "middle_attention")
        h = self.res(h, emb, "middle_1")
        for i in range(last, -1, -1):
            for j in range(s["num_res_blocks"] + 1):
                h = level(torch.cat([h, skips.pop()], 1), f"up{i}_{j}")
            if i > 0:
                h = F.interpolate(h, scale_factor=2, mode="nearest")
                h = self.conv(h, f"up{i}_conv")
        eps_hat = self.conv(F.silu(self.norm(h, "norm_out")), "conv_out")
        if s["sigma_skip"]:
            eps_hat = eps_hat + self.sigma[t][:, None, None, None] * x_t
        return eps_hat


@torch.inference_mode()
def sample(net: UNet, x, label, double_batch: bool):
    """Guided DDIM as `progguide_jax.diffusion.samplers.sample` with omega 1."""
    null = torch.full_like(label, net.s["num_classes"])
    for t, alpha, sigma, a, b in zip(*net.s["steps"], strict=True):
        t = torch.full_like(label, t)
        if double_batch:
            both = net(torch.cat([x, x]), torch.cat([t, t]), torch.cat([label, null]))
            cond, uncond = both.chunk(2)
        else:
            cond, uncond = net(x, t, label), net(x, t, null)
        x0 = ((x - sigma * (2 * cond - uncond)) / alpha).clamp(-1, 1)
        x = a * x0 + b * (x - alpha * x0) / sigma
    return x


class Trainer:
    """`engine.training.train_step`: Adam, clipping, label dropout, average."""

    def __init__(self, net: UNet, image, label):
        self.net, self.image, self.label = net, image, label
        self.params = [p.requires_grad_() for p in net.p.values()]
        self.ema = [p.detach().clone() for p in self.params]
        self.adam = torch.optim.Adam(self.params, net.s["learning_rate"], fused=True)

    def step(self):
        s, x0 = self.net.s, self.image
        t = torch.randint(len(s["sigma"]), (len(x0),))
        eps = torch.randn_like(x0)
        dropped = torch.rand(len(x0)) < 0.1
        label = torch.where(dropped, s["num_classes"], self.label)
        sigma = self.net.sigma[t][:, None, None, None]
        x_t = (1 - sigma**2).sqrt() * x0 + sigma * eps
        loss = F.mse_loss(self.net(x_t, t, label), eps)
        self.adam.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.params, 1.0)
        self.adam.step()
        with torch.no_grad():
            torch._foreach_lerp_(self.ema, self.params, 1e-3)
        return loss.item()


def convolution(batch, size, in_channels, out_channels, stride, backward: bool):
    """A call of one 3x3 convolution: forward, or both of its gradients."""
    edge = size + (stride == 2)
    x = images(np.ones((batch, edge, edge, in_channels), np.float32))
    w = to_torch(np.ones((3, 3, in_channels, out_channels), np.float32), "kernel")
    padding = 2 - stride
    if not backward:

        def run():
            with torch.inference_mode():
                F.conv2d(x, w, None, stride, padding)

        return run
    y = F.conv2d(x.requires_grad_(), w.requires_grad_(), None, stride, padding)
    gradient = torch.ones_like(y)
    return lambda: torch.autograd.grad(y, (x, w), gradient, retain_graph=True)


def main() -> None:
    folder = pathlib.Path(sys.argv[1])
    settings = json.loads((folder / "settings.json").read_text())
    torch.set_num_threads(settings["threads"])
    inputs = dict(np.load(folder / "inputs.npz"))
    params = {
        name.removeprefix("params/"): to_torch(value, name)
        for name, value in inputs.items()
        if name.startswith("params/")
    }
    net = UNet(params, settings)
    x, t, label = (
        images(inputs["eps"]),
        torch.from_numpy(inputs["t"]).long(),
        torch.from_numpy(inputs["label"]).long(),
    )

    def forward():
        with torch.inference_mode():
            return net(x, t, label)

    def numpy(y):
        return y.permute(0, 2, 3, 1).numpy()

    np.savez(
        folder / "outputs.npz",
        eps_hat=numpy(forward()),
        x_0=numpy(sample(net, x, label, True)),
    )
    trained = UNet(copy.deepcopy(params), settings)
    jobs = {
        "network": forward,
        "sample, two calls": lambda: sample(net, x, label, False),
        "sample, double batch": lambda: sample(net, x, label, True),
        "train": Trainer(trained, images(inputs["image"]), label).step,
    }
    for shape in settings["convolutions"]:
        for way in ("forward", "backward"):
            jobs[f"{way} {shape}"] = convolution(*shape, way == "backward")
    print(torch.__version__, flush=True)
    for line in sys.stdin:
        name, calls = json.loads(line)
        start = time.perf_counter()
        for _ in range(calls):
            jobs[name]()
        print((time.perf_counter() - start) / calls, flush=True)


if __name__ == "__main__":
    main()
