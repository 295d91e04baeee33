"""The gallery: every schedule drawn, every rule and reference on the exact model."""
