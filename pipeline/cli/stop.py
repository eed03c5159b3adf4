"""The stop of a work that goes on later, for those who run it and for those who record it."""

from __future__ import annotations

STOPPED = "stopped with a checkpoint; run again to resume"
"""What a training says; deploy/slurm.sh looks for it."""


class StoppedError(RuntimeError):
    """The training was told to stop, and did, with a checkpoint."""
