"""Two Gaussians: the network beside the exact answer."""
