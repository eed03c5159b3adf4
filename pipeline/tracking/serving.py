"""The detector as MLflow serves it. MLflow copies this file into the model and runs it there: it imports no pipeline.

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
import torch
from mlflow.models import set_model
from mlflow.pyfunc.model import PythonModel, PythonModelContext

from retinanet.data.pixels import decode_rgb
from retinanet.inference.detector import Detector

if TYPE_CHECKING:
    from retinanet.inference.postprocess import Detections

COLUMNS = {"image": "int64", "x1": "float64", "y1": "float64", "x2": "float64", "y2": "float64"}
COLUMNS |= {"score": "float64", "label": "int64", "class_name": "object"}


class ServedDetector(PythonModel):
    """A table of images in, a table of detections out."""

    def load_context(self, context: PythonModelContext) -> None:
        """Load the detector from the model's own files, onto the GPU where there is one."""
        device = "cuda" if torch.cuda.is_available() else "cpu"
        self.detector = Detector.load(context.artifacts["weights"], device)

    def predict(
        self, context: PythonModelContext, model_input: pd.DataFrame, params: dict[str, Any] | None = None
    ) -> pd.DataFrame:
        """Detect on every image; without `score_threshold` in params the model's own holds."""
        threshold = (params or {}).get("score_threshold")
        names = self.detector.class_names
        tables = [empty_table()]  # columns and types, also where nothing is found
        for place, picture in enumerate(model_input["image"]):
            (detections,) = self.detector([read_image(picture)], score_threshold=threshold)
            tables.append(as_table(place, detections, class_names=names))
        return pd.concat(tables, ignore_index=True)


def read_image(picture: object) -> np.ndarray[Any, Any]:
    """The image [H, W, 3] uint8 RGB."""
    if isinstance(picture, np.ndarray):
        if picture.dtype != np.uint8 or picture.ndim != 3 or picture.shape[2] != 3:
            raise ValueError(f"an image array is {picture.dtype} {list(picture.shape)}, expected uint8 [H, W, 3] RGB")
        return picture
    if not isinstance(picture, bytes | str):
        raise ValueError(f"an image is a {type(picture).__name__}, expected a path, the bytes of a file, or an array")
    return decode_rgb(picture if isinstance(picture, bytes) else Path(picture).read_bytes())


def as_table(place: int, detections: Detections, *, class_names: Sequence[str]) -> pd.DataFrame:
    """One row per detection of the image at this place."""
    boxes, scores, labels = (field.numpy(force=True) for field in detections)  # [D, 4], [D], [D]
    columns = {"image": np.full(len(labels), place), "x1": boxes[:, 0], "y1": boxes[:, 1], "x2": boxes[:, 2]}
    columns |= {"y2": boxes[:, 3], "score": scores, "label": labels}
    columns |= {"class_name": np.array([class_names[label] for label in labels], dtype=object)}
    return pd.DataFrame(columns).astype(COLUMNS)


def empty_table() -> pd.DataFrame:
    """No detections."""
    return pd.DataFrame({name: [] for name in COLUMNS}).astype(COLUMNS)


set_model(ServedDetector())
