"""Command replay: look again at a step whose loss was not finite, image by image."""
