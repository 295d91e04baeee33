"""What the pickles inside torch's files may name: tensors, storages, containers.

None of it acts on anything outside the result, and tensors stay descriptions (`Tensor`)
of parts of storages that the caller reads.
"""

from typing import Any, NamedTuple

from progguide_jax.formats import pickles

# torch.<name>Storage -> dtype of raw_arrays
_STORAGES = {
    "Double": "float64",
    "Float": "float32",
    "Half": "float16",
    "BFloat16": "bfloat16",
    "Long": "int64",
    "Int": "int32",
    "Short": "int16",
    "Char": "int8",
    "Byte": "uint8",
    "Bool": "bool",
}
_DTYPES = """float64 float32 float16 bfloat16 int64 int32 int16 int8 uint8 bool double
    float half long int short""".split()
_MAX_DIMENSIONS = 64  # of numpy's arrays


class Storage(NamedTuple):
    """The flat memory [numel] that tensors are views of; key: its name in the file."""

    key: str
    dtype: str
    numel: int


class Tensor(NamedTuple):
    """A view of a storage; offset and stride count items."""

    storage: Storage
    offset: int
    size: tuple[int, ...]
    stride: tuple[int, ...]


class StorageType(NamedTuple):
    dtype: str


class Module:
    """Stands for a TorchScript object; keeps its attributes, has no code."""

    attributes: Any = None


def named(whole: str) -> Any:
    """What "module.name" stands for."""
    if whole in _GLOBALS:
        return _GLOBALS[whole]
    if whole.startswith("__torch__."):
        return Module
    raise ValueError(
        f"it asks for {whole[:100]!r}, which is refused because it may be code: save "
        "only the state dict of the network"
    )


def ordered_dict(pairs: Any = ()) -> dict:
    target: dict = {}
    for pair in pairs:
        pickles.fill(target, list(_sequence(pair, 2)))
    return target


def _sequence(value: Any, limit: int) -> tuple:
    """A list or tuple as a tuple."""
    if type(value) not in (list, tuple):
        raise ValueError(f"a {type(value).__name__} where a tuple belongs")
    if len(value) > limit:
        raise ValueError(f"{len(value)} items where at most {limit} belong")
    return tuple(value)


def _rebuild_tensor(storage: Any, offset: Any, size: Any, stride: Any) -> Tensor:
    size, stride = (_sequence(x, _MAX_DIMENSIONS) for x in (size, stride))
    numbers = (offset, *size, *stride)
    if any(type(n) is not int or abs(n) >= 2**63 for n in numbers):
        raise ValueError(
            "a tensor whose size, stride or offset is no integer of 64 bits"
        )
    if (
        type(storage) is not Storage
        or len(size) != len(stride)
        or any(n < 0 for n in numbers)
    ):
        raise ValueError(
            f"a tensor of size {size}, stride {stride} and offset {offset}"
        )
    return Tensor(storage, offset, size, stride)


def _rebuild_tensor_v2(
    storage: Any,
    offset: Any,
    size: Any,
    stride: Any,
    requires_grad: Any,
    hooks: Any,
    metadata: Any = None,
) -> Tensor:
    if metadata:  # bits such as "neg": the values are not those that are stored
        names = [name for name, bit in pickles.expect(metadata, dict).items() if bit]
        if names:
            raise ValueError(f"a tensor with the bit {str(names[0])[:20]!r}")
        if len(metadata) > 8:  # one dict for many tensors would be searched often
            raise ValueError("a tensor with many metadata")
    return _rebuild_tensor(storage, offset, size, stride)


_GLOBALS: dict[str, Any] = {
    "collections.OrderedDict": ordered_dict,
    "torch._utils._rebuild_tensor": _rebuild_tensor,
    "torch._utils._rebuild_tensor_v2": _rebuild_tensor_v2,
    "torch._utils._rebuild_parameter": lambda data, grad, hooks: data,
    "torch.Size": lambda numbers: _sequence(numbers, _MAX_DIMENSIONS),
    "torch.device": lambda *name: None,
    **{f"torch.{name}": f"torch.{name}" for name in _DTYPES},
    **{f"torch.{name}Storage": StorageType(to) for name, to in _STORAGES.items()},
    "torch.jit._pickle.restore_type_tag": lambda value, type_name: value,
    **{
        f"torch.jit._pickle.build_{kind}list": lambda values: pickles.expect(
            values, list
        )
        for kind in ("int", "double", "bool", "tensor")
    },
}
