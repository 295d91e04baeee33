"""One script a question; `python -m benchmarks.NAME` from the repository root."""
