"""Regions of images that are ignored: polygons and masks."""
