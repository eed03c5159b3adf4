"""The analysis of a detector on a split: what the measures of this folder are, in one structure.

Parts that a run does not compute are None or empty: speed where the network does not run, what needs a working point
for a model without one, conditions where the data set has no columns. K is the number of classes, D of detections (of
each image and class the 100 of the highest scores), G of ground-truth boxes without crowds; boxes are xyxy in px of the
original image.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

ErrorKind: TypeAlias = Literal["classification", "localisation", "both", "duplicate", "background", "missed"]
MistakeKind: TypeAlias = Literal["not labelled", "other class", "box"]

ERROR_KINDS: tuple[ErrorKind, ...] = (
    "classification",
    "localisation",
    "both",
    "duplicate",
    "background",
    "missed",
)
RIGHT, IGNORED = -1, -2  # in place of an index into ERROR_KINDS: a true positive, and a detection on a crowd


@dataclass(frozen=True)
class Figure:
    """A figure and its 95 % bootstrap interval over the images; None where it is undefined or was not resampled."""

    value: float | None
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True)
class Bootstrap:
    """How the intervals were made: percentiles of `resamples` draws of N of N images with replacement."""

    resamples: int
    seed: int
    level: float = 0.95


@dataclass(frozen=True)
class ErrorFigures:
    """One kind of error.

    Attributes:
        ap50_gain: what AP50 gains when this kind alone is mended (TIDE's dAP).
        count: of all detections that AP counts (for `missed`, of truths).
        count_in_use: of those at the working point; None without one.
    """

    ap50_gain: Figure
    count: int
    count_in_use: int | None


@dataclass(frozen=True)
class JudgedDetections:
    """Every detection with its verdict, by falling score.

    Attributes:
        image_ids: [D].
        boxes: [D, 4].
        scores: [D].
        labels: [D].
        kinds: [D] index into ERROR_KINDS; or RIGHT or IGNORED.
        truths: [D] row of `JudgedTruths` that it found or was taken for; -1 for none (background).
        ious: [D] IoU with that truth; 0 for none.
        in_use: [D] whether its score is above the threshold of the working point; all False without one.
    """

    image_ids: NDArray[np.int64]
    boxes: NDArray[np.float32]
    scores: NDArray[np.float32]
    labels: NDArray[np.int64]
    kinds: NDArray[np.int64]
    truths: NDArray[np.int64]
    ious: NDArray[np.float64]
    in_use: NDArray[np.bool_]


@dataclass(frozen=True)
class JudgedTruths:
    """Every ground-truth box with its verdict, in the order of the annotations.

    Attributes:
        image_ids: [G].
        boxes: [G, 4].
        labels: [G].
        found: [G] a detection of its class has IoU 0.5 with it and was given to it.
        found_in_use: [G] the same of the detections at the working point; all False without one.
        missed: [G] not found, and no error of classification or localisation that covers it either (TIDE's missed).
    """

    image_ids: NDArray[np.int64]
    boxes: NDArray[np.float32]
    labels: NDArray[np.int64]
    found: NDArray[np.bool_]
    found_in_use: NDArray[np.bool_]
    missed: NDArray[np.bool_]


@dataclass(frozen=True)
class Errors:
    """Errors by kind (Bolya et al. 2020, TIDE: IoU 0.5 for a true positive, 0.1 for background).

    Attributes:
        kinds: of each of ERROR_KINDS.
        false_positives: AP50 that is gained without any false positive.
        false_negatives: AP50 that is gained without any missed truth.
    """

    ap50: Figure
    kinds: dict[ErrorKind, ErrorFigures]
    false_positives: Figure
    false_negatives: Figure
    detections: JudgedDetections
    truths: JudgedTruths


@dataclass(frozen=True)
class Confusion:
    """Confusion between classes at IoU 0.5 and the working point.

    Attributes:
        counts: [K + 1, K + 1], rows the truth, columns the detection. The last row is background (detections without a
            truth), the last column what was not detected.
    """

    class_names: list[str]
    counts: NDArray[np.int64]


@dataclass(frozen=True)
class ClassFigures:
    """One class.

    Attributes:
        num_images: in which the class occurs.
        num_detections: with any score.
        threshold: of the working point; None without one, as are precision, recall and f1 then.
        max_recall: at IoU 0.5 over all detections, whatever their score.
    """

    name: str
    num_truths: int
    num_images: int
    num_detections: int
    ap: Figure
    ap50: Figure
    ap75: Figure
    max_recall: Figure
    threshold: float | None
    precision: Figure
    recall: Figure
    f1: Figure


@dataclass(frozen=True)
class Band:
    """Objects of one size, measured by the square root of their area in px of the original image.

    Attributes:
        name: `s`, `m`, `l` for COCO's, or `32-64`.
        low, high: px, both included, as in COCO; high is None for the last band.
        recall: at the working point and IoU 0.5; None without one.
    """

    name: str
    low: float
    high: float | None
    num_truths: int
    ap: Figure
    ap50: Figure
    recall: Figure


@dataclass(frozen=True)
class CalibrationBin:
    """Detections with a score in (low, high]; score and precision are means, None for an empty bin."""

    low: float
    high: float
    count: int
    score: float | None
    precision: float | None


@dataclass(frozen=True)
class Calibration:
    """How well a score is the probability of a true positive at IoU 0.5.

    Attributes:
        ece: expected calibration error, mean of |score - precision| of the bins by their counts; of all classes pooled.
        temperature: fitted on val, by which the logits of scores are divided; None without one.
        ece_with_temperature, bins_with_temperature: of the scores after that.
        in_use: whether the detector returns the scores with temperature; ece and bins are of raw scores in any case.
    """

    ece: Figure
    bins: list[CalibrationBin]
    temperature: float | None
    ece_with_temperature: Figure
    bins_with_temperature: list[CalibrationBin]
    in_use: bool = False

    @property
    def labels(self) -> tuple[str, str]:
        """Names of the scores without and with the temperature."""
        return ("raw", "as returned, with temperature") if self.in_use else ("as they are", "with temperature")


@dataclass(frozen=True)
class LabelMistake:
    """A place where the annotation may be wrong; one of truth_* or box is None where there is only the other.

    Attributes:
        kind: `not labelled` (a sure detection without a truth), `other class` (a truth that is not found, with a sure
            detection of another class on it), `box` (a sure detection of its class that fits badly).
        suspicion: 0 to 1, by which the list is sorted; of the raw score.
        box, label, score: of the detection.
        truth_id: id of the annotation.
        iou: between the two boxes; 0 without a truth.
    """

    kind: MistakeKind
    suspicion: float
    image_id: int
    file_name: str
    box: tuple[float, float, float, float]
    label: int
    score: float
    truth_id: int | None
    truth_box: tuple[float, float, float, float] | None
    truth_label: int | None
    iou: float


@dataclass(frozen=True)
class BatchSpeed:
    """Time per image in ms of each part at a batch size, and images per second end to end."""

    batch_size: int
    decode_ms: float
    network_ms: float
    postprocess_ms: float
    images_per_s: float


@dataclass(frozen=True)
class Speed:
    """Speed on the device at hand.

    Attributes:
        device: name of the GPU or processor.
        threads: of torch on a CPU; None on a GPU.
        height, width: of the network's input for the measured images, px.
        flops: of the network for one such image; a multiplication and an addition count as two.
        parameters: of the network.
    """

    device: str
    threads: int | None
    height: int
    width: int
    flops: int
    parameters: int
    batches: list[BatchSpeed]


@dataclass(frozen=True)
class Condition:
    """Images with one value of a column of the data set."""

    column: str
    value: str
    num_images: int
    num_truths: int
    ap: Figure
    ap50: Figure


@dataclass(frozen=True)
class Analysis:
    """All of the above for one detector on one split.

    Attributes:
        overall: AP, AP50, AP75, APs, .. and precision, recall, F1 at the working point, by the names of
            reports/evaluate.json.
        mistakes: the most suspicious first.
    """

    class_names: list[str]
    num_images: int
    overall: dict[str, Figure]
    bootstrap: Bootstrap | None = None
    errors: Errors | None = None
    confusion: Confusion | None = None
    classes: list[ClassFigures] = field(default_factory=list)
    bands: list[Band] = field(default_factory=list)
    calibration: Calibration | None = None
    mistakes: list[LabelMistake] = field(default_factory=list)
    speed: Speed | None = None
    conditions: list[Condition] = field(default_factory=list)
