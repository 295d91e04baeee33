"""What the scores of real images are."""
