"""The names that Y. Idelbayev's public files give to the weights of models/classifiers.

github.com/akamaster/pytorch_resnet_cifar10; torch.nn.DataParallel put "module." before
every name. Published test errors on CIFAR-10: 8.27 % (ResNet-20), 6.61 % (ResNet-56).
"""

from progguide_jax.pretrained import convert, locate

WEIGHTS: dict[str, tuple[locate.WeightFile, ...]] = {
    "resnet20": (
        locate.WeightFile(
            "resnet20-12fca82f.th",
            "12fca82f0bebc4135bf1f32f6e3710e61d5108578464b84fd6d7f5c1b04036c8",
        ),
    ),
    "resnet56": (
        locate.WeightFile(
            "resnet56-4bfd9763.th",
            "4bfd97631478d6b638d2764fd2baff3edb1d7d82252d54439343b6596b9b5367",
        ),
    ),
}


def _rules_of_layer(source: str, target: str) -> tuple[convert.Renaming, ...]:
    """Convolution and batch normalisation number N of a block or of the beginning."""
    bn = rf"{source}bn(\d)"
    number = rf"\{bn.count('(')}"
    return (
        convert.Renaming(
            rf"{source}conv(\d)\.weight",
            f"params/{target}conv{number}/kernel",
            convert.conv,
        ),
        convert.Renaming(rf"{bn}\.weight", f"params/{target}bn{number}/scale"),
        convert.Renaming(rf"{bn}\.bias", f"params/{target}bn{number}/bias"),
        convert.Renaming(
            rf"{bn}\.running_mean", f"batch_stats/{target}bn{number}/mean"
        ),
        convert.Renaming(rf"{bn}\.running_var", f"batch_stats/{target}bn{number}/var"),
    )


RULES: tuple[convert.Renaming, ...] = (
    *_rules_of_layer(r"module\.", ""),
    *_rules_of_layer(r"module\.layer(\d)\.(\d+)\.", r"layer\1_\2/"),
    convert.Renaming(r"module\.linear\.weight", "params/linear/kernel", convert.dense),
    convert.Renaming(r"module\.linear\.bias", "params/linear/bias"),
)
# a counter of batches, which newer versions of torch save too
IGNORE = (r".*\.num_batches_tracked",)
