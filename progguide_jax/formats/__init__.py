"""Containers of other people's data, read without trusting what they say."""
