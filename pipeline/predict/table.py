"""Detections as a table: a row per picture, with lists of its boxes, labels and scores."""

from __future__ import annotations

import io
from collections.abc import Iterable, Sequence

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.predict.detection import Failed, Found

SCHEMA = pa.schema(
    {
        "path": pa.string(),
        "width": pa.int32(),
        "height": pa.int32(),
        "labels": pa.list_(pa.string()),
        "scores": pa.list_(pa.float32()),
        "boxes": pa.list_(pa.list_(pa.float32(), 4)),
        "error": pa.string(),
    }
)
"""Boxes are x1, y1, x2, y2 in px. A picture without detections has empty lists; one that could not be read has an
error, and neither size nor lists. So there are as many rows as pictures, whatever was found."""


def to_table(results: Iterable[Found | Failed], class_names: Sequence[str]) -> pa.Table:
    """The table of these pictures, in their order."""
    return pa.Table.from_pylist([to_row(result, class_names) for result in results], schema=SCHEMA)


def to_row(result: Found | Failed, class_names: Sequence[str]) -> dict[str, object]:
    """One picture; what is not there is null."""
    if isinstance(result, Failed):
        return {"path": result.source.name, "error": result.reason}
    (height, width), found = result.size, result.detections
    return {
        "path": result.source.name,
        "width": width,
        "height": height,
        "labels": [class_names[label] for label in found.labels.tolist()],
        "scores": found.scores.tolist(),
        "boxes": found.boxes.tolist(),
    }


def to_parquet(table: pa.Table) -> bytes:
    """The content of a Parquet file."""
    content = io.BytesIO()
    pq.write_table(table, content, compression="zstd")
    return content.getvalue()
