"""Figures: arrays in, a matplotlib Figure out; `style.png` turns one into bytes."""
