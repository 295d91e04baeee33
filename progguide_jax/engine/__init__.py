"""Training, probing and sampling a workdir."""
