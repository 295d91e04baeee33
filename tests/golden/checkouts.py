"""Single files of other projects, for the scripts that make golden numbers."""

import importlib.util
import pathlib
import types


def load(path: pathlib.Path) -> types.ModuleType:
    """The file as a module, without the package around it."""
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
