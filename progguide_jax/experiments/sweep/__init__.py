"""Schedules x scales x steps on images."""
