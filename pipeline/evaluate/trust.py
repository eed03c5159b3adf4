"""What the figures of an evaluation are worth, in sentences."""

from __future__ import annotations

from collections.abc import Sequence

from pipeline.evaluate.curve_rules import aps_of
from pipeline.evaluate.proposals import Row, value_of
from retinanet.evaluation.analysis import Analysis, Calibration, Figure

MUCH = 0.05  # AP
LOWER = " So much lower a value means that the settings were tuned to val, or that the splits differ."
SURE = 0.3  # scores that matter in use
FEW_IMAGES, FEW_OBJECTS = 50, 30  # below these a figure is a rough one


def trust_sentences(analysis: Analysis, history: Sequence[Row], *, split: str, is_given: bool = False) -> list[str]:
    """What the figures are worth.

    Args:
        is_given: of another detector, of whose training nothing is known.
    """
    objects = sum(one.num_truths for one in analysis.classes)
    sentences = []
    ap = analysis.overall.get("AP", Figure(None))
    if ap.value is not None and ap.low is not None and ap.high is not None:
        sentences.append(
            f"AP would lie between {ap.low:.3f} and {ap.high:.3f} on other images of the same kind (95 %). Whether "
            "another detector is better, python -m pipeline.compare says more sharply, image by image."
        )
    if analysis.num_images < FEW_IMAGES:
        images = "1 image" if analysis.num_images == 1 else f"{analysis.num_images} images"
        sentences.append(f"The split has {images} only, so all figures are rough.")
    rare = [f"{one.name} ({one.num_truths})" for one in analysis.classes if one.num_truths < FEW_OBJECTS]
    if rare and objects:
        few = f"{', '.join(rare[:6])}{f' and {len(rare) - 6} more' if len(rare) > 6 else ''}"
        sentences.append(f"Classes with fewer than {FEW_OBJECTS} objects have rough figures: {few}.")
    scores = [float(row["AP"] or 0.0) for row in history if row.get("AP") is not None]
    tested = value_of(analysis, "AP")
    if is_given:
        sentences.append(
            "Whether the detector was trained or tuned on these pictures is not known here; if it was, the figures are "
            "too good."
        )
    elif split == "val":
        sentences.append(
            "Val chose the epoch and the thresholds, so these figures are a little too good; those of test are not."
        )
    elif scores and tested is not None:
        sentences.append(
            f"On val the best epoch had AP {max(scores):.3f}; here it is {tested:.3f}."
            + (LOWER if tested < max(scores) - MUCH else "")
        )
    aps = aps_of(history)
    if aps is not None:
        sentences.append(
            f"AP is {aps.train:.2f} on training pictures, {aps.val:.2f} on val; a large difference is over-fitting."
        )
    if objects and analysis.calibration is not None and analysis.calibration.ece.value is not None:
        sentences.append(_on_calibration(analysis))
    return sentences


def _on_calibration(analysis: Analysis) -> str:
    calibration = analysis.calibration
    assert calibration is not None
    if calibration.in_use:
        return _on_calibrated(calibration)
    known = [one for one in calibration.bins if one.count and one.score is not None and one.precision is not None]
    text = (
        "A score is no probability: it differs from the share of detections that are right by "
        f"{calibration.ece.value:.3f} on average (expected calibration error)."
    )
    sure = [one for one in known if one.low >= SURE]
    if sure:
        gap = sum(one.count * ((one.precision or 0.0) - (one.score or 0.0)) for one in sure)
        text += f" Scores over {SURE:g} are {_difference(gap / sum(one.count for one in sure))} on average."
    if calibration.temperature is None or calibration.ece_with_temperature.value is None:
        return text
    left = calibration.ece_with_temperature.value
    return (
        f"{text} With a temperature of {calibration.temperature:.2f}, fitted on val, the error is {left:.3f}: "
        "postprocess.calibrate makes the detector return such scores."
    )


def _difference(gap: float) -> str:
    """What a score is beside the share that is right; gap is the share less the score."""
    if abs(gap) < 0.005:
        return "what that share is"
    return f"{abs(gap):.2f} {'lower than that (under-confident)' if gap > 0 else 'higher than that (over-confident)'}"


def _on_calibrated(calibration: Calibration) -> str:
    assert calibration.temperature is not None and calibration.ece_with_temperature.value is not None
    return (
        f"Scores are calibrated with a temperature of {calibration.temperature:.2f}, fitted on val: they differ from "
        f"the share of detections that are right by {calibration.ece_with_temperature.value:.3f} on average (expected "
        f"calibration error), raw scores by {calibration.ece.value:.3f}."
    )
