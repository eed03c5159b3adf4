"""Types of the tracking interface, and a run without tracking."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal

from pipeline.tracking.model import Picture

Row = Mapping[str, float | int | None]
"""One epoch: "epoch", "step" (optimiser steps so far) and the metrics; None where an epoch has no value."""

Status = Literal["FINISHED", "FAILED", "KILLED"]


class NoopRun:
    """A run without tracking: the methods of `Run`, which do nothing."""

    run_id: str | None = None
    url: str = ""

    def log_history(self, history: Sequence[Row]) -> None: ...
    def log_metrics(self, metrics: Row, step: int | None = None) -> None: ...
    def log_artifact(self, path: Path, folder: str | None = None) -> None: ...
    def link_artifact(self, path: str, title: str) -> None: ...
    def log_text(self, text: str, name: str) -> None: ...
    def log_picture(self, key: str, picture: Path | bytes, step: int) -> None: ...
    def log_dataset(
        self, *, name: str, digest: str, source: str, context: str, profile: Mapping[str, object]
    ) -> None: ...
    def log_model(
        self,
        path: Path,
        *,
        class_names: Sequence[str],
        example: Picture | None = None,
        tags: Mapping[str, str] | None = None,
        card: str | None = None,
    ) -> str | None: ...
    def log_system_metrics(self) -> None: ...
    def log_node_load(self, node: str, load: Mapping[str, float]) -> None: ...
    def set_tags(self, tags: Mapping[str, str]) -> None: ...
    def finish(self, status: Status = "FINISHED") -> None: ...
