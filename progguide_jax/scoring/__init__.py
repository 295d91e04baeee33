"""Images in, scores with errors out."""
