"""The stop of a work that goes on later, for those who run it and for those who record it."""

from __future__ import annotations


class StoppedError(RuntimeError):
    """The training was told to stop, and did, with a checkpoint."""
