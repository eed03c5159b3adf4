"""Command replay: recompute a step with a non-finite loss, image by image."""
