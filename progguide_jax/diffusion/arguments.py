"""What users hand to the samplers, checked before anything is traced: a mistake is one
line that says what to pass instead."""

import inspect
import logging
import numbers
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from progguide_jax.diffusion import noise, plans, prediction

_log = logging.getLogger(__name__)


def start(x_T) -> jax.Array:
    """x_T [B,...] as an array."""
    x_T = jnp.asarray(x_T)
    if not jnp.issubdtype(x_T.dtype, jnp.floating):
        raise ValueError(f"x_T is {x_T.dtype}: pass floating-point noise")
    if not x_T.ndim:
        raise ValueError("x_T is one number: pass noise [B,...], one row an image")
    return x_T


def conditions(cond: Any, x_T: jax.Array) -> Any:
    """cond with arrays [B,...] as leaves; a list of numbers, or of rows of numbers, is
    one array."""
    if not jax.tree.leaves(cond):
        raise ValueError(
            f"cond is {cond}: pass the conditions, any pytree with leading axis B, "
            "such as labels [B]"
        )
    cond = jax.tree.map(_array, cond, is_leaf=_of_numbers)
    check_batch("cond", cond, x_T)
    return cond


def lists_as_arrays(cond: Any) -> Any:
    """cond with an array for each list of numbers, or of rows of numbers."""
    return jax.tree.map(
        lambda leaf: _array(leaf) if _of_numbers(leaf) else leaf,
        cond,
        is_leaf=_of_numbers,
    )


def check_labels(labels: Any, null: Any, num_classes: int | None = None) -> None:
    """ValueError at a label that is neither a class, 0 ... num_classes - 1, nor null.
    What is traced, lies on other hosts or holds no integers is not looked at."""
    given = (labels, null)
    if any(isinstance(leaf, jax.core.Tracer) for leaf in jax.tree.leaves(given)):
        return
    if not getattr(labels, "is_fully_addressable", True):
        return
    found = np.unique(np.asarray(labels))
    if not np.issubdtype(found.dtype, np.integer):
        return
    last = np.inf if num_classes is None else num_classes - 1
    wrong = found[((found < 0) | (found > last)) & ~np.isin(found, null)]
    if len(wrong):
        classes = "0 or more" if num_classes is None else f"0 ... {last}"
        raise ValueError(
            f"cond holds the label {wrong[0]}: use {classes} for a class, or "
            f"{np.ravel(null)[0]} for none"
        )


def _of_numbers(node) -> bool:
    return (
        isinstance(node, list | tuple)
        and len(node) > 0
        and all(
            isinstance(x, numbers.Number) or (type(x) is list and _of_numbers(x))
            for x in node
        )
    )


def _array(leaf) -> jax.Array:
    try:
        return jnp.asarray(leaf)
    except (TypeError, ValueError) as error:
        raise ValueError(
            f"cond holds {leaf!r:.40}, which is no array: pass numbers, such as labels "
            "[B] or embeddings of prompts [B,D]"
        ) from error


def check_batch(name: str, cond: Any, x_T: jax.Array) -> None:
    """ValueError unless every leaf has the leading axis of x_T."""
    for leaf in jax.tree.leaves(cond):
        if np.shape(leaf)[:1] != x_T.shape[:1]:
            raise ValueError(
                f"x_T has shape {x_T.shape} and {name} an array of shape "
                f"{np.shape(leaf)}: both must begin with the batch axis B"
            )


def check_model(eps_fn: Callable, params: Any, name: str = "eps_fn") -> None:
    """ValueError if eps_fn, handed in as `name`, cannot be called as it will be."""
    if not callable(eps_fn) or (params is not None and hasattr(eps_fn, "apply")):
        raise ValueError(
            f"{name} is a {type(eps_fn).__name__}: pass a function {name}(params, x_t, "
            "t, cond), such as net.apply, and params="
        )
    try:
        signature = inspect.signature(eps_fn)
    except (TypeError, ValueError):  # of a function that is not written in Python
        return
    names = ", ".join(signature.parameters)
    if params is not None:
        if not _takes(signature, 4):
            raise ValueError(
                f"{name}({names}) is called as {name}(params, x_t, t, cond): give it "
                "these four arguments, or leave out params="
            )
        return
    first = next(iter(signature.parameters), "")
    if first in ("params", "variables") or not _takes(signature, 3):
        raise ValueError(
            f"{name}({names}) is called as {name}(x_t, t, cond) without params=: "
            "pass params=, or give it these three arguments"
        )


def _takes(signature: inspect.Signature, count: int) -> bool:
    try:
        signature.bind(*range(count))
    except TypeError:
        return False
    return True


def check_plan(plan: Any) -> None:
    """ValueError for a solver or levels that were not put together."""
    if not isinstance(plan, plans.Plan):
        raise ValueError(
            f"plan is a {type(plan).__name__}: pass solver(levels), such as "
            "solvers.ddim()(levels.karras(noise_schedule, 20))"
        )


def check_branches(branches: dict[str, prediction.Branch], x_T: jax.Array) -> None:
    """ValueError unless each is a branch for the images of x_T."""
    if not isinstance(branches, dict):
        raise ValueError(
            f"branches are a {type(branches).__name__}: pass a dict of them, such as "
            'references.branches(model, labels, {"null": {}})'
        )
    for name, branch in branches.items():
        if not isinstance(branch, prediction.Branch):
            raise ValueError(
                f"the branch {name!r} is a {type(branch).__name__}: pass "
                "prediction.Branch(jax.tree_util.Partial(fn, params), cond)"
            )
        if jax.tree_util.all_leaves([branch.fn]):  # no argument of a program
            raise ValueError(
                f"the branch {name!r} has a plain function: wrap it with its "
                "parameters, jax.tree_util.Partial(fn, params)"
            )
        check_batch(f"the branch {name!r}", branch.cond, x_T)
        if branch.shape not in (None, x_T.shape[1:]):
            raise ValueError(
                f"x_T has shape {x_T.shape} and the System makes {branch.shape}: pass "
                f"noise of shape {(len(x_T), *branch.shape)}"
            )


def check_weights(omega: Any) -> None:
    """ValueError for what is no array of weights, or a dict with such a thing."""
    for value in omega.values() if isinstance(omega, dict) else [omega]:
        if value is None or isinstance(value, str) or callable(value):
            name = value if isinstance(value, str) else "cosine"
            raise ValueError(
                f"omega is {value!r:.40}: pass the weights [S], such as "
                f"schedules.make({name!r}, scale, timesteps, num_timesteps)"
            )
        if np.iscomplexobj(value):
            raise ValueError("omega holds complex numbers: pass real weights [S]")


def check_axes(
    omega: Any,
    plan: plans.Plan,
    branches: dict[str, prediction.Branch],
    x_T: jax.Array,
) -> None:
    """Say so where [S,B] and a table [K,S] look the same: it is taken as [S,B]."""
    num_steps = int(plan.omega.max()) + 1
    if np.shape(omega) == (num_steps, len(x_T)) and num_steps == len(x_T) > 1:
        name = next((name for name in branches if name != "cond"), "null")
        _log.warning(
            "omega of shape %s is taken as [S,B], a column an image: pass a table "
            "[K,S] with labels= of samplers.sample, or {%r: omega} to say that it is "
            "meant so",
            np.shape(omega),
            name,
        )


def of_labels(omega: Any, labels: Any, num_steps: int, batch: int) -> jax.Array:
    """[S,B] from a curve for each class [K,S] and labels [B]."""
    if isinstance(omega, dict):
        raise ValueError("omega is a dict: with labels it is a table [K,S]")
    omega, labels = jnp.asarray(omega), np.asarray(labels)
    if omega.ndim != 2 or omega.shape[1] != num_steps:
        raise ValueError(
            f"omega has shape {omega.shape}: with labels it is a table [K,S], S = "
            f"{num_steps}"
        )
    if labels.shape != (batch,) or not np.issubdtype(labels.dtype, np.integer):
        raise ValueError(
            f"labels are {labels.dtype} {labels.shape}: pass integers, one an image "
            f"({batch},)"
        )
    if labels.min() < 0 or labels.max() >= len(omega):
        raise ValueError(
            f"labels are {labels.min()} ... {labels.max()} and omega has {len(omega)} "
            "rows: give one row a class"
        )
    return omega[labels].T


def keys(key: Any, batch: int) -> jax.Array:
    """One key an image [B], of one key or of one an image; None: keys not drawn from,
    so that the program is that of a stochastic solver."""
    key = jax.random.key(0) if key is None else key
    if not jnp.issubdtype(getattr(key, "dtype", float), jax.dtypes.prng_key):
        if getattr(key, "dtype", None) != np.uint32 or not key.ndim:
            seed = key if isinstance(key, numbers.Integral) else "seed"
            raise ValueError(
                f"key is {key!r:.40}: pass jax.random.key({seed}), or one key an image"
            )
        key = jax.random.wrap_key_data(key)
    found = key if key.ndim else noise.image_keys(key, jnp.arange(batch))
    if found.shape != (batch,):
        raise ValueError(f"key has shape {found.shape}: expected () or ({batch},)")
    return found
