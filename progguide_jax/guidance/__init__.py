"""Guidance: curves omega(t), combination rules, gradient-norm probing."""
