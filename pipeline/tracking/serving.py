"""The detector as an MLflow pyfunc model. MLflow copies this file into the model, so it does not import pipeline.

    detect = mlflow.pyfunc.load_model("models:/m-...")
    detect.predict(pd.DataFrame({"image": ["a.jpg", png_bytes, array]}), params={"score_threshold": 0.3})

An image is the path of a file, the bytes of a PNG or JPEG file (base64 in a request to `mlflow models serve`), or an
array [H, W, 3] uint8 RGB. The table that comes back has a row per detection: image (the position of the image in the
input, from 0), x1 y1 x2 y2 (px in that image), score, label (from 0) and class_name.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from mlflow.models import set_model
from mlflow.pyfunc.model import PythonModel, PythonModelContext

# MLflow also runs this file in the driver, to save the model. So torch and the detector are imported only where a
# detector is loaded and called: torchvision costs a training 1.7 s of CPU time, more without bytecode.
if TYPE_CHECKING:
    from retinanet.inference.detector import Detector
    from retinanet.inference.postprocess import Detections

COLUMNS = {"image": "int64", "x1": "float64", "y1": "float64", "x2": "float64", "y2": "float64"}
COLUMNS |= {"score": "float64", "label": "int64", "class_name": "object"}


class ServedDetector(PythonModel):
    """Maps a table of images to a table of detections."""

    def load_context(self, context: PythonModelContext) -> None:
        """Load the detector from the model's artifacts, on the GPU if there is one."""
        import torch

        from retinanet.inference.detector import Detector

        device = "cuda" if torch.cuda.is_available() else "cpu"
        self.detector = Detector.load(context.artifacts["weights"], device)

    def predict(
        self, context: PythonModelContext, model_input: pd.DataFrame, params: dict[str, Any] | None = None
    ) -> pd.DataFrame:
        """Detect objects in every image.

        Args:
            params: `score_threshold`, one for all classes; or `working_point`, f1 by default, precision=P or recall=R,
                for that of each class. A model without a working point returns all detections. `calibrate`: scores are
                nearer to probabilities; thresholds are those of the scores that are returned.
        """
        chosen = dict(params or {})
        detector, temperature = self.detector, None
        if chosen.pop("calibrate", False):
            detector = self.calibrated()
            temperature = detector.postprocess.temperature
        threshold = self.threshold(**chosen, temperature=temperature)
        names = detector.class_names
        tables = [empty_table()]  # columns and types, also without detections
        for index, picture in enumerate(model_input["image"]):
            (detections,) = detector([read_image(picture)], score_threshold=threshold)
            tables.append(as_table(index, detections, class_names=names))
        return pd.concat(tables, ignore_index=True)

    def calibrated(self) -> Detector:
        """The detector with calibrated scores; another object, because requests run at the same time.

        Raises:
            ValueError: when it has no temperature.
        """
        from retinanet.inference.detector import Detector

        detector = Detector(self.detector.model, self.detector.description)
        own = detector.description.get("postprocess", {})
        detector.postprocess = detector.build_postprocess(**own | {"calibrate": True})
        return detector

    def threshold(
        self,
        score_threshold: float | None = None,
        working_point: str | None = None,
        *,
        temperature: float | None = None,
    ) -> float | list[float] | None:
        """One score threshold for all classes, or that of each class at the working point; None: there is none."""
        from retinanet.evaluation.working_point import choose_points, parse_target

        if score_threshold is not None:
            return score_threshold
        target = parse_target("f1" if working_point is None else working_point)
        points = choose_points(self.detector.description, target, temperature=temperature)
        return points.thresholds if points else None


def read_image(picture: object) -> np.ndarray[Any, Any]:
    """Return the image [H, W, 3] uint8 RGB."""
    if isinstance(picture, np.ndarray):
        if picture.dtype != np.uint8 or picture.ndim != 3 or picture.shape[2] != 3:
            raise ValueError(f"an image array is {picture.dtype} {list(picture.shape)}, expected uint8 [H, W, 3] RGB")
        return picture
    if not isinstance(picture, bytes | str):
        raise ValueError(f"an image is a {type(picture).__name__}, expected a path, the bytes of a file, or an array")
    from retinanet.data.pixels import decode_rgb

    return decode_rgb(picture if isinstance(picture, bytes) else Path(picture).read_bytes())


def as_table(index: int, detections: Detections, *, class_names: Sequence[str]) -> pd.DataFrame:
    """Return one row per detection of the image with this index."""
    boxes, scores, labels = (field.numpy(force=True) for field in detections)  # [D, 4], [D], [D]
    columns = {"image": np.full(len(labels), index), "x1": boxes[:, 0], "y1": boxes[:, 1], "x2": boxes[:, 2]}
    columns |= {"y2": boxes[:, 3], "score": scores, "label": labels}
    columns |= {"class_name": np.array([class_names[label] for label in labels], dtype=object)}
    return pd.DataFrame(columns).astype(COLUMNS)


def empty_table() -> pd.DataFrame:
    """Return a table without detections."""
    return pd.DataFrame({name: [] for name in COLUMNS}).astype(COLUMNS)


set_model(ServedDetector())
