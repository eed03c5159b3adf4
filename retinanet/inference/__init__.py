"""Detections from images: forward pass, post-processing, and the file of a trained detector."""
