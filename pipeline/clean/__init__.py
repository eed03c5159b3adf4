"""Command clean: list what the storage holds and what needs it, and remove the rest."""
