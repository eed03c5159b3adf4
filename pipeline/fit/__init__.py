"""The training of one worker: built from plain values, resumed from a checkpoint, reported epoch by epoch."""

from __future__ import annotations

from pipeline.fit.building import build_criterion
from pipeline.fit.keeping import BEST, ROWS
from pipeline.fit.work import fit, load_splits, train_worker

__all__ = ["BEST", "ROWS", "build_criterion", "fit", "load_splits", "train_worker"]
