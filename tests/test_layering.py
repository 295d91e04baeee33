"""The plan of the house (docs/architecture.md) as a check of the source text.

Three floors, arrows only downwards. Nothing is imported: the imports are read by `ast`,
those inside functions too.
"""

import ast
import pathlib
import sys

import pytest

ROOT = pathlib.Path(__file__).parents[1]
PACKAGE = "progguide_jax"

# room (first name below the package) -> floor
FLOORS = {
    "registry": 0,
    "formats": 0,
    "diffusion": 0,
    "guidance": 0,
    "analytic": 0,
    "metrics": 0,
    "networks": 1,
    "extractors": 1,
    "pretrained": 1,
    "data": 1,
    "runtime": 1,
    "plots": 1,
    "systems": 2,
    "engine": 2,
    "scoring": 2,
    "experiments": 2,
    "doctor": 2,
    "launch": 2,
}
# floor 2, in the order in which a user types the commands: nothing imports what follows
ORDER = ("systems", "engine", "scoring", "experiments")
# what floor 0 may import beside the standard library
MATHEMATICS = {"jax", "numpy", PACKAGE}
# library -> the only rooms that import it
OWNERS = {
    "flax": {"networks", "extractors", "systems"},
    "orbax": {"runtime"},
    "matplotlib": {"plots"},
    "tensorflow_datasets": {"data"},
}
# files that every experiment has
EACH = ("run", "report")
# top-level folders and scripts that use the library and are never used by it
CALLERS = {
    "eval",
    "configs",
    "benchmarks",
    "tests",
    "notebooks",
    "train",
    "probe",
    "sample",
}
# dotted names that appear nowhere
PRIVATE = ("jax._src",)
OLD_NAMES = {"PRNGKey"}
# a ConfigDict refuses unknown keys; `.get(` on one of these names gives that away
CONFIG_NAMES = {"config", "c"}


def modules(root: pathlib.Path) -> dict[str, pathlib.Path]:
    """Dotted name -> file of every module of the package below `root`."""
    found = {}
    for path in sorted((root / PACKAGE).rglob("*.py")):
        parts = path.relative_to(root).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


def room(module: str) -> str:
    return module.split(".")[1] if "." in module else ""


def place(module: str) -> int:
    """Where the module stands in ORDER: the longest entry that names it."""
    inner = module.removeprefix(f"{PACKAGE}.") + "."
    return max(
        (i for i, entry in enumerate(ORDER) if inner.startswith(f"{entry}.")),
        key=lambda i: len(ORDER[i]),
        default=len(ORDER),
    )


def imports(name: str, path: pathlib.Path, known) -> set[str]:
    """Every module that the file imports, the package's own by their full names."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                package = name if path.stem == "__init__" else name.rpartition(".")[0]
                parents = package.split(".")[: len(package.split(".")) - node.level + 1]
                base = ".".join([*parents, *([base] if base else [])])
            for alias in node.names:
                deeper = f"{base}.{alias.name}"
                found.add(deeper if deeper in known else base)
    return found


def cycle(graph: dict[str, set[str]]) -> list[str]:
    """One cycle of the graph, its first node again at the end; [] if there is none."""
    done = set()

    def visit(node: str, path: list[str]) -> list[str]:
        if node in path:
            return [*path[path.index(node) :], node]
        if node not in done:
            for following in sorted(graph[node]):
                if found := visit(following, [*path, node]):
                    return found
            done.add(node)
        return []

    for node in sorted(graph):
        if found := visit(node, []):
            return found
    return []


def dotted(node: ast.AST) -> str:
    """a.b.c of nested attributes, "" for anything else."""
    if isinstance(node, ast.Name):
        return node.id
    if isinstance(node, ast.Attribute):
        base = dotted(node.value)
        return f"{base}.{node.attr}" if base else ""
    return ""


def layering(root: pathlib.Path) -> list[str]:
    """What the imports of the package below `root` violate, one line each."""
    known = modules(root)
    wrong, graph = [], {}
    for name, path in known.items():
        imported = imports(name, path, known)
        graph[name] = {i for i in imported if i in known and i != name}
        if name == PACKAGE:
            wrong += [f"{name} imports {i}: it stays empty" for i in imported]
            continue
        here = room(name)
        if here not in FLOORS:
            wrong.append(f"{name} has no floor: give it one in FLOORS")
            continue
        for target in sorted(imported):
            library = target.split(".")[0]
            arrow = f"{name} imports {target}"
            if library in CALLERS:
                wrong.append(f"{arrow}: the library never imports its callers")
            if here not in OWNERS.get(library, {here}):
                wrong.append(f"{arrow}: {library} belongs to another room")
            standard = library in sys.stdlib_module_names
            if FLOORS[here] == 0 and not standard and library not in MATHEMATICS:
                wrong.append(f"{arrow}: floor 0 knows jax and numpy only")
            there = room(target)
            if library != PACKAGE or there not in FLOORS:
                continue
            if FLOORS[there] > FLOORS[here]:
                wrong.append(f"{arrow}: an arrow upwards")
            if FLOORS[there] == FLOORS[here] == 1 and there != here:
                wrong.append(f"{arrow}: an adapter imports another adapter")
            if FLOORS[there] == FLOORS[here] == 2 and place(target) > place(name):
                wrong.append(f"{arrow}: an arrow back")
    if found := cycle(graph):
        wrong.append("cycle: " + " -> ".join(found))
    return wrong


def habits(path: pathlib.Path) -> list[str]:
    """Names and calls of one file that no file of the project may hold."""
    wrong = []
    for node in ast.walk(ast.parse(path.read_text())):
        where = f"{path.name}:{getattr(node, 'lineno', 0)}"
        names = []
        if isinstance(node, ast.Attribute | ast.Name):
            names = [dotted(node) or getattr(node, "attr", "")]
        elif isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and not node.level:
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        for name in names:
            if any(f"{name}.".startswith(f"{private}.") for private in PRIVATE):
                wrong.append(f"{where}: {name} is private")
            if name.split(".")[-1] in OLD_NAMES:
                wrong.append(f"{where}: {name} is the old form: use jax.random.key")
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
            owner = dotted(node.func.value).split(".")[0]
            if node.func.attr == "get" and owner in CONFIG_NAMES:
                wrong.append(f"{where}: .get( hides a key that configs/base.py lacks")
    return wrong


def doubles(root: pathlib.Path) -> list[str]:
    """Files and public classes of the package below `root` that share a name."""
    wrong, files, classes = [], {}, {}
    for name, path in modules(root).items():
        if path.stem not in ("__init__", *EACH):
            files.setdefault(path.stem, []).append(name)
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
                classes.setdefault(node.name, []).append(name)
    for kind, found in (("file", files), ("class", classes)):
        for name, places in found.items():
            if len(places) > 1:
                wrong.append(f"{kind} {name} in {' and '.join(places)}: rename one")
    return wrong


def sources(root: pathlib.Path) -> list[pathlib.Path]:
    """Every python file of the project, wherever it lies."""
    folders = [PACKAGE, *sorted(CALLERS)]
    nested = (p for folder in folders for p in sorted((root / folder).rglob("*.py")))
    return [*sorted(root.glob("*.py")), *nested]


def test_floors_and_arrows():
    assert len(modules(ROOT)) > 10
    assert layering(ROOT) == []


def test_no_two_files_or_classes_have_one_name():
    assert doubles(ROOT) == []


def test_habits():
    assert [line for path in sources(ROOT) for line in habits(path)] == []


# --- the checks fail when they should ---

SOUND = {
    "__init__.py": '"""Nothing."""\n',
    "diffusion/__init__.py": "",
    "diffusion/process.py": "import dataclasses\nimport jax.numpy as jnp\n",
    "diffusion/samplers.py": (
        "from progguide_jax.diffusion import process\n"
        "from progguide_jax.guidance import rules\n"
    ),
    "guidance/__init__.py": "",
    "guidance/rules.py": "import jax\n",
    "guidance/gradnorm.py": "from progguide_jax.diffusion.process import at\n",
    "networks/unet.py": "import flax.linen as nn\nfrom . import layers\n",
    "networks/layers.py": "from progguide_jax.diffusion import process\n",
    "runtime/checkpoints.py": "import orbax.checkpoint as ocp\n",
    "data/__init__.py": "def load():\n    import tensorflow_datasets\n",
    "plots/__init__.py": "",
    "plots/style.py": "import matplotlib.pyplot\n",
    "systems/build.py": "from progguide_jax.networks import unet\n",
    "engine/training.py": (
        "from progguide_jax import data\n"
        "from progguide_jax.systems import build\n"
        "def train(config, counts):\n"
        "    return counts.get('a', config.train.num_steps)\n"
    ),
}


def build(root: pathlib.Path, changes: dict[str, str]) -> pathlib.Path:
    for name, text in (SOUND | changes).items():
        path = root / PACKAGE / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


def test_a_sound_tree_passes(tmp_path):
    root = build(tmp_path, {})
    assert layering(root) == [] == doubles(root)
    assert [line for path in sources(root) for line in habits(path)] == []


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("guidance/a.py", "from progguide_jax.engine import training", "upwards"),
        ("guidance/a.py", "def f():\n  import progguide_jax.data", "upwards"),
        ("networks/a.py", "from progguide_jax.systems.build import x", "upwards"),
        ("diffusion/a.py", "from ..runtime import checkpoints", "upwards"),
        ("runtime/a.py", "from progguide_jax import data", "another adapter"),
        ("plots/a.py", "from progguide_jax.networks import unet", "another adapter"),
        ("data/a.py", "from .. import plots", "another adapter"),
        ("guidance/rules.py", "from progguide_jax.diffusion import samplers", "cycle"),
        ("systems/a.py", "from progguide_jax.engine import training", "arrow back"),
        ("engine/a.py", "from progguide_jax.scoring import x", "arrow back"),
        ("scoring/a.py", "from progguide_jax.experiments import x", "arrow back"),
        ("data/b.py", "import flax", "flax belongs to another room"),
        ("engine/a.py", "from flax.linen import Dense", "flax belongs"),
        ("engine/a.py", "import orbax.checkpoint", "orbax belongs"),
        ("engine/a.py", "import matplotlib", "matplotlib belongs"),
        ("metrics/a.py", "import tensorflow as tf", "jax and numpy only"),
        ("metrics/a.py", "import scipy.linalg", "jax and numpy only"),
        ("analytic/a.py", "from absl import logging", "jax and numpy only"),
        ("diffusion/a.py", "import ml_collections", "jax and numpy only"),
        ("diffusion/a.py", "def f():\n  import clu", "jax and numpy only"),
        ("guidance/a.py", "import tensorflow_datasets", "jax and numpy only"),
        ("scoring/a.py", "from eval import metrics", "never imports its callers"),
        ("engine/a.py", "import configs.base", "never imports its callers"),
        ("utils.py", "", "utils has no floor"),
        ("__init__.py", "from progguide_jax import data", "it stays empty"),
    ],
)
def test_a_bad_import_is_found(tmp_path, name, text, message):
    found = layering(build(tmp_path, {name: text}))
    assert len([line for line in found if message in line]) == 1, found


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("from jax._src import core", "jax._src.core is private"),
        ("import jax._src.core", "private"),
        ("from jax import _src", "private"),
        ("import jax\njax._src.core", "private"),
        ("import jax\njax.random.PRNGKey(0)", "use jax.random.key"),
        ("from jax.random import PRNGKey", "use jax.random.key"),
        ("f().PRNGKey(0)", "use jax.random.key"),
        ("config.get('lr', 1)", "hides a key"),
        ("def f(c):\n  return c.get('lr')", "hides a key"),
        ("config.train.get('lr')", "hides a key"),
    ],
)
@pytest.mark.parametrize(
    "name", ["train.py", "eval/a.py", "progguide_jax/runtime/a.py"]
)
def test_a_bad_habit_is_found(tmp_path, name, text, message):
    root = build(tmp_path, {})
    path = root / name
    path.parent.mkdir(exist_ok=True)
    path.write_text(text)
    found = [line for path in sources(root) for line in habits(path)]
    assert found and all(message in line for line in found), found


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("plots/rules.py", "", ["file rules in", "guidance.rules", "plots.rules"]),
        ("engine/a.py", "class B: pass\nclass B: pass", ["class B in", "engine.a"]),
        ("engine/run.py", "class _B: pass", []),  # each experiment has one; private
    ],
)
def test_a_name_that_is_taken_is_found(tmp_path, name, text, message):
    same = {"data/run.py": "class _B: pass\n"}
    found = doubles(build(tmp_path, same | {name: text}))
    assert len(found) == bool(message)
    assert all(words in line for line in found for words in message)
