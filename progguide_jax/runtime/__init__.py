"""Adapters to the machine: devices, checkpoints, metric files, configuration."""
