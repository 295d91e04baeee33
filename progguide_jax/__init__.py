"""Progressive guidance for diffusion models in JAX.

Start reading at `guidance/schedules.py`; the plan is `docs/architecture.md`.
"""
