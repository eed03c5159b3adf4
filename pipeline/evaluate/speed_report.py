"""The speed of a detector as files and metrics have it."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from retinanet.evaluation.analysis import Speed

TIMES = ("decode_ms", "network_ms", "postprocess_ms", "images_per_s")


def describe_speed(speed: Speed | None) -> dict[str, Any]:
    """The content of reports/speed.json; without a device where the network did not run in this process."""
    if speed is None:
        return {"device": None, "batches": {}}
    content = asdict(speed)
    return content | {"batches": {f"batch_{one.pop('batch_size')}": one for one in content["batches"]}}


def speed_metrics(speed: Speed | None) -> dict[str, float]:
    """Times and images per second by stable dotted names; none where the speed is unknown."""
    if speed is None:
        return {}
    return {f"speed.batch_{one.batch_size}.{name}": getattr(one, name) for one in speed.batches for name in TIMES}
