"""Code of the authors of methods, to run beside ours.

PROGGUIDE_CLONES is a folder with clones of their repositories. Of a file there one
function is read, or some lines of one, so that nothing that the rest imports is needed.
"""

import ast
import os
import pathlib

import numpy as np
import pytest

torch = pytest.importorskip("torch")


def theirs(file, name, **around):
    """The function or class `name` of a file of a clone; around: what it reads."""
    path, node = _read(file, name)
    node.decorator_list = []
    return _run([node], path, around)[name]


def lines(file, name, first, last, **around):
    """The variables after some lines of the function `name` of a file of a clone:
    those from the first that sets `first` to the last that sets `last`, in the
    innermost block that has both. around: what they read."""
    path, node = _read(file, name)
    blocks = [
        block
        for part in ast.walk(node)
        for block in (getattr(part, "body", []), getattr(part, "orelse", []))
        if isinstance(block, list)
    ]
    for block in blocks:
        begin = [k for k, line in enumerate(block) if _sets(line, first)]
        end = [
            k
            for k, line in enumerate(block)
            if isinstance(line, ast.Assign) and _sets(line, last)
        ]
        if begin and end and begin[0] <= end[-1]:
            found = block[begin[0] : end[-1] + 1]  # blocks further in come later
    return _run(found, path, around)


def _read(file, name):
    path = pathlib.Path(os.environ.get("PROGGUIDE_CLONES", "no folder")) / file
    if not path.exists():
        pytest.skip(f"PROGGUIDE_CLONES holds no {file}: clone its repository there")
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.FunctionDef | ast.ClassDef) and node.name == name:
            return path, node
    raise LookupError(f"{file} has no {name}")


def _run(nodes, path, around):
    scope = {"torch": torch, "np": np} | around
    exec(compile(ast.Module(nodes, []), str(path), "exec"), scope)
    return scope


def _sets(line, name):
    stored = (n for n in ast.walk(line) if isinstance(n, ast.Name))
    return any(n.id == name and isinstance(n.ctx, ast.Store) for n in stored)
