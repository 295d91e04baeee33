"""The pickles inside torch's files, read without torch and without executing anything.

Such a pickle can name only what `torch_names.named` knows.
"""

from typing import Any, BinaryIO

from progguide_jax.formats import pickles
from progguide_jax.pretrained import torch_names


def load(file: BinaryIO) -> tuple[Any, dict[str, torch_names.Storage]]:
    """The object of the pickle at the file's position, and its storages by key.

    Leaves the position behind the pickle. Sets come as lists. ValueError, naming what
    it found, if the pickle is damaged or wants anything but tensors and containers.
    """
    machine = _Machine()
    return machine.load(file), machine.storages


class _Machine(pickles.Machine):
    named = staticmethod(torch_names.named)

    def __init__(self) -> None:
        super().__init__()
        self.storages: dict[str, torch_names.Storage] = {}
        self.copied = 0  # items of lists that became dicts

    def called(self, function: Any, arguments: tuple, count: int) -> Any:
        if function is torch_names.ordered_dict and arguments:
            # Python 2 writes a list for each; one for many would be copied often.
            self.copied += len(pickles.expect(arguments[0], list))
            if self.copied > count:
                raise ValueError("it makes many dicts of one list")
        return function(*arguments)

    def made(self, kind: Any, arguments: Any) -> Any:
        if kind is not torch_names.Module or arguments != ():
            raise ValueError(f"it makes an object of a {type(kind).__name__}")
        return torch_names.Module()

    def build(self, target: Any, state: Any) -> None:
        # A dict's are those of an OrderedDict, as _metadata of a state_dict.
        if type(target) is not dict:
            pickles.expect(target, torch_names.Module).attributes = state

    def outside(self, pid: Any) -> torch_names.Storage:
        # ("storage", type, key, device, numel), in the old format with a view's place
        match pid:
            case (
                "storage",
                torch_names.StorageType(dtype),
                str(key),
                _,
                int(numel),
                *view,
            ) if (
                0 <= numel < 2**63
                and len(key) < 100
                and (not view or (len(view) == 1 and view[0] is None))
            ):
                storage = torch_names.Storage(key, dtype, numel)
            case _:
                raise ValueError(
                    f"it asks for a {type(pid).__name__} outside, which is no storage"
                )
        if self.storages.setdefault(key, storage) != storage:
            raise ValueError(f"storage {key} is used as two types")
        return storage
