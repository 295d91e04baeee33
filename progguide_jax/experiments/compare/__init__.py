"""Schedules, or any cells, side by side: a picture, and scores where there are any."""
