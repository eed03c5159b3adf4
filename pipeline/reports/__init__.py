"""Reports: curves, sheets of images, result files."""
