"""Progressive guidance for diffusion models in JAX.

Start reading at `guidance/schedules/`; the plan is `docs/architecture.md`.
"""

__version__ = "0.1.0"
