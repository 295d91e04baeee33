"""Feature networks with public weights (flax.linen), for scores."""
