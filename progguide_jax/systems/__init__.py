"""From a config to what is sampled, trained and probed."""
