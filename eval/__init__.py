"""Evaluation command lines: python -m eval.NAME --config=... --workdir=..."""
