"""Noise schedules, the forward process and the sampling loop."""
