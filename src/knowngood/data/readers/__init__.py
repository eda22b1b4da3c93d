"""Readers: one file a format. `files` decides which reader takes an image file."""
