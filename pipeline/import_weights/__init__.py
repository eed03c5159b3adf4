"""Command import_weights: make a detector of another project's RetinaNet."""
