"""Weights that others trained: found, read without executing anything, renamed."""
