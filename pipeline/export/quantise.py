"""INT8 copies of ONNX files, by onnxruntime's static quantisation, and what they cost in AP."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from pipeline.cli.progress import Count
from pipeline.export.check import Array, Run, detect
from pipeline.export.graph import INPUTS
from pipeline.export.onnx_file import open_onnx, silent
from pipeline.storage.outs import read_json, write_json
from retinanet.data.dataset import Batch, EvaluationBatches
from retinanet.data.splits import Split
from retinanet.evaluation.coco_eval import ImageDetections, evaluate_detections
from retinanet.inference.detector import Detector

QUANTISED = ("Conv",)
"""Operators in INT8: the network's alone, as no operator of the post-processing is among them."""


CALIBRATED = 64
"""Training pictures whose activations give the ranges."""

TRAIN = Path("data/prepared/train.json")
SPLITS = (Path("data/prepared/test.json"), Path("data/prepared/val.json"))
REPORT = Path("reports/export.json")


class Measured(NamedTuple):
    """What a file gives on a split.

    Attributes:
        images_per_s: of onnxruntime, without reading and resizing, one image at a time; None of a single image.
    """

    AP: float | None
    AP50: float | None
    megabytes: float
    images_per_s: float | None

    def __str__(self) -> str:
        precision, precision_50 = ("none" if value is None else f"{value:.3f}" for value in self[:2])
        speed = "" if self.images_per_s is None else f"  {self.images_per_s:.1f} images/s"
        return f"AP {precision}  AP50 {precision_50}  {self.megabytes:.1f} MB{speed}"


def int8_path(path: Path) -> Path:
    """The file of the INT8 copy: model.onnx -> model.int8.onnx."""
    return path.with_name(f"{path.stem}.int8.onnx")


def find_split() -> Path:
    """The prepared split on which AP is measured.

    Raises:
        ValueError: when there is none, or no training pictures.
    """
    split = next((path for path in SPLITS if path.is_file()), None)
    if split is None or not TRAIN.is_file():
        raise ValueError(
            f"--int8 is calibrated on {TRAIN} and measured on {SPLITS[0].name} or {SPLITS[1].name} beside it; run "
            "`dvc repro prepare` in the folder of the experiment first"
        )
    return split


def check_classes(class_names: list[str]) -> None:
    """Refuse a detector of other classes than the training pictures'.

    Raises:
        ValueError: naming both.
    """
    names = [category["name"] for category in read_json(TRAIN)["categories"]]
    if names != class_names:
        raise ValueError(
            f"the model detects {', '.join(class_names)}, but {TRAIN} holds {', '.join(names)}; --int8 needs the data "
            "that the model was trained on"
        )


def export_int8(float_file: Path, int8_file: Path, detector: Detector, split: Path) -> None:
    """Quantise an ONNX file, measure both, print and report the figures.

    Args:
        split: prepared file on which AP is measured, by the post-processing of the detector.
    """
    training = EvaluationBatches(Split(read_json(TRAIN)), detector.transforms, batch_size=1)
    step = max(1, len(training) // CALIBRATED)
    positions = range(0, len(training), step)[:CALIBRATED]
    with Count(len(positions), title="calibrate", units="images") as count:
        quantise(float_file, int8_file, counted((training[position] for position in positions), count))
    files = {"float32": float_file, "int8": int8_file}
    rows = {kind: measure(file, detector, split, title=kind) for kind, file in files.items()}
    for kind, row in rows.items():
        print(f"{kind:8} {row}")
    facts = {"split": split.stem, "calibration_images": len(positions), "threads": torch.get_num_threads()}
    write_json(REPORT, facts | {kind: row._asdict() for kind, row in rows.items()})
    print(f"AP on {split.stem}, speed with {facts['threads']} threads; written to {REPORT}")


def counted(batches: Iterable[Batch], count: Count) -> Iterator[Batch]:
    """Count what is read."""
    for batch in batches:
        yield batch
        count()


def quantise(source: Path, target: Path, batches: Iterable[Batch]) -> None:
    """Write a copy of an ONNX file with convolutions in INT8: weights by channel, activations by tensor.

    Args:
        batches: training pictures, whose activations give the ranges.
    """
    from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static

    class Reader(CalibrationDataReader):  # type: ignore[misc]
        def __init__(self) -> None:
            self.feeds = feeds_of(batches)

        def get_next(self) -> dict[str, Array] | None:
            return next(self.feeds, None)

    with silent():
        quantize_static(
            str(source),
            str(target),
            Reader(),
            quant_format=QuantFormat.QDQ,
            op_types_to_quantize=list(QUANTISED),
            per_channel=True,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
        )


def feeds_of(batches: Iterable[Batch]) -> Iterator[dict[str, Array]]:
    """The inputs of the graph for every batch."""
    for batch in batches:
        images = np.ascontiguousarray(batch.images.permute(0, 2, 3, 1).numpy())
        yield dict(zip(INPUTS, (images, batch.image_sizes.numpy()), strict=True))


def measure(file: Path, detector: Detector, truths: Path, *, title: str) -> Measured:
    """AP and speed of an ONNX file on a prepared split."""
    content = read_json(truths)
    batches = EvaluationBatches(Split(content), detector.transforms, batch_size=1)
    timed, found = Timed(open_onnx(file)), dict[int, ImageDetections]()
    with Count(len(batches), title=title, units="images") as count:
        for position in range(len(batches)):
            batch = batches[position]
            (detections,) = detect(timed, batch)
            boxes, scores, labels = (field.numpy() for field in detections)
            found[batch.image_ids[0]] = boxes, scores, labels
            count()
    metrics = evaluate_detections(content, found).metrics
    return Measured(metrics["AP"], metrics["AP50"], file.stat().st_size / 1e6, timed.calls_per_s)


class Timed:
    """A function that runs a file, with the seconds that its calls took, without the first, which is slow."""

    def __init__(self, run: Run) -> None:
        self.run, self.seconds, self.calls = run, 0.0, 0

    def __call__(self, images: Array, sizes: Array) -> Any:
        """Run."""
        start = time.perf_counter()
        outputs = self.run(images, sizes)
        self.seconds += time.perf_counter() - start if self.calls else 0.0
        self.calls += 1
        return outputs

    @property
    def calls_per_s(self) -> float | None:
        """The pace of the calls that are timed; None if none is."""
        return (self.calls - 1) / self.seconds if self.calls > 1 else None
