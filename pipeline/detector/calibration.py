"""Whether the command calibrates scores, and the post-processing that this needs."""

from __future__ import annotations

from argparse import BooleanOptionalAction
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from retinanet.inference.detector import Detector


OPTION: dict[str, Any] = {
    "action": BooleanOptionalAction,
    "help": "scores nearer to probabilities, by the temperature in the model; by default postprocess.calibrate of "
    "params.yaml for the project's own model, off for any other",
}
"""Of a parser, what --calibrate and --no-calibrate are."""


def choose_temperature(description: Mapping[str, Any], *, option: bool | None, is_projects: bool) -> float | None:
    """The temperature with which the command calibrates scores, which is printed; None: scores as they are.

    Args:
        description: of the detector.
        option: what the command was told; None: postprocess.calibrate of params.yaml, or no calibration.
        is_projects: the detector is that of the project in the current folder.

    Raises:
        ValueError: when the detector has none. If only too few detections on val are the reason, and the project asks
            for calibration, it is printed instead.
    """
    from pipeline.params import load_params
    from retinanet.inference.temperature import TOO_FEW, demand_temperature, find_temperature

    if option:
        temperature: float | None = demand_temperature(description)
    elif option is None and is_projects and Path("params.yaml").is_file() and load_params().postprocess.calibrate:
        temperature = find_temperature(description)
        if temperature is None:
            print(f"warning: {TOO_FEW}; the scores are not calibrated (postprocess.calibrate)", flush=True)
    else:
        return None
    if temperature is not None:
        print(f"scores are calibrated with the temperature {temperature:g}", flush=True)
    return temperature


def set_postprocess(detector: Detector, *, lowest: float, calibrate: bool) -> None:
    """Give a detector post-processing that finds whatever has a score above the lowest, as it returns scores.

    Raises:
        ValueError: as of Detector.build_postprocess.
    """
    from retinanet.inference.temperature import demand_temperature, raw_threshold

    own = detector.description.get("postprocess", {})
    temperature = demand_temperature(detector.description) if calibrate else None
    changed = {"score_threshold": raw_threshold(lowest, temperature), "calibrate": calibrate}
    detector.postprocess = detector.build_postprocess(**own | changed)
