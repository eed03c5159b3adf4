"""Many variations of one experiment on Ray Tune, and which of them is best: `python -m pipeline.sweep --help`."""
