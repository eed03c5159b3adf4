"""Comparison of two runs: paired bootstrap of AP over the images, what changed, and the images that differ most."""
