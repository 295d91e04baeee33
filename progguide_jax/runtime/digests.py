"""Digests of pytrees of arrays, and tables of their leaves to compare two by."""

import concurrent.futures
import hashlib
import json
import zlib
from typing import Any

import jax
import numpy as np


def digest(tree: Any) -> str:
    """16 hex digits of sha256 over the name, dtype, shape and bytes of each leaf."""
    result = hashlib.sha256()
    for name, leaf in _named_leaves(jax.device_get(tree)).items():
        leaf = np.asarray(leaf)
        result.update(f"{name} {leaf.dtype} {leaf.shape}\n".encode())
        result.update(_bytes(leaf))
    return result.hexdigest()[:16]


def json_digest(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def table(tree: Any) -> dict[str, list[Any]]:
    """{name: ["float32[3,4]", crc32 of the bytes]}; crc32 sees every short error."""
    leaves = _named_leaves(jax.device_get(tree))
    leaves = {name: np.asarray(leaf) for name, leaf in leaves.items()}
    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        sums = pool.map(lambda x: zlib.crc32(_bytes(x)), leaves.values())
        return {
            name: [_spec(leaf), checksum]
            for (name, leaf), checksum in zip(leaves.items(), sums, strict=True)
        }


def check_fit(saved: dict[str, list[Any]], target: Any, where: str) -> None:
    """Raise ValueError that names the first leaf in which the two differ."""
    here = {name: _spec(leaf) for name, leaf in _named_leaves(target).items()}
    there = {name: spec for name, (spec, _) in saved.items()}
    for name in here | there:
        if here.get(name) != there.get(name):
            raise ValueError(
                f"{where} does not fit: {name} is {there.get(name, 'missing')} there "
                f"and {here.get(name, 'missing')} here; the config differs from the "
                "one it was trained with: restore that config or use another workdir"
            )


def _named_leaves(tree: Any) -> dict[str, Any]:
    """{"conv/kernel": leaf}, in the order of the tree."""
    leaves, _ = jax.tree_util.tree_flatten_with_path(tree)
    return {
        jax.tree_util.keystr(path, simple=True, separator="/"): leaf
        for path, leaf in leaves
    }


def _bytes(x: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(x).reshape(-1).view(np.uint8)


def _spec(leaf: Any) -> str:
    return f"{np.dtype(leaf.dtype)}[{','.join(map(str, leaf.shape))}]"
