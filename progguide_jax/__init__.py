"""Progressive guidance for diffusion models in JAX.

Start reading at `guidance/schedules.py`; the plan is `docs/architecture.md`.
"""

import importlib.metadata

try:
    __version__ = importlib.metadata.version("progguide_jax")
except importlib.metadata.PackageNotFoundError:  # a folder that is not installed
    __version__ = "unknown"
