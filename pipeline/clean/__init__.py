"""What runs have left in the storage, who needs it, and its removal: `python -m pipeline.clean --help`."""
