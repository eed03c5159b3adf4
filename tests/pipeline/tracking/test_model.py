"""Law of the model in the store: it runs without the project."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from pipeline.tracking.store import find_store

PROJECT = Path(__file__).resolve().parents[3]

# MLflow declares its tables with what SQLAlchemy deprecates.
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")


DETECTOR = '''
from typing import NamedTuple
import numpy as np, torch

class Detections(NamedTuple):
    boxes: torch.Tensor
    scores: torch.Tensor
    labels: torch.Tensor

# The best F1 is above 0.4; above 0.7 all are right.
DOGS = {"num_truths": 2, "thresholds": [0.7, 0.4], "true_positives": [1, 2], "false_positives": [0, 1]}
CATS = {"num_truths": 2, "thresholds": [], "true_positives": [], "false_positives": []}

class Detector:
    class_names = ["cat", "dog"]
    description = {"working_point": {"overall": DOGS, "classes": [CATS, DOGS]}}

    @classmethod
    def load(cls, path, device):
        assert open(path).read() == "weights"
        return cls()

    def __call__(self, images, *, score_threshold=None):
        """One dog of score .5 that fills each image; none above a higher threshold."""
        kept = int((score_threshold[1] if isinstance(score_threshold, list) else score_threshold) < 0.5)
        return [
            Detections(
                torch.tensor([[0.0, 0.0, image.shape[1], image.shape[0]]])[:kept],
                torch.tensor([0.5])[:kept],
                torch.tensor([1])[:kept],
            )
            for image in images
        ]
'''

LOG = """
from pathlib import Path
from pipeline.tracking import open_run
with open_run(run_id=None, name="model", params={}, tags={}) as run:
    print(run.log_model(Path("model.pt"), class_names=["cat", "dog"], example="a.png"))
"""

PREDICT = """
import sys, warnings
warnings.simplefilter("ignore")
import mlflow, numpy as np, pandas as pd
mlflow.set_tracking_uri("{uri}")
model = mlflow.pyfunc.load_model("models:/{model_id}")
images = ["a.png", open("a.png", "rb").read(), np.zeros((4, 3, 3), np.uint8)]
found = model.predict(pd.DataFrame({{"image": images}}))
none = model.predict(pd.DataFrame({{"image": images}}), params={{"score_threshold": 0.6}})
sure = model.predict(pd.DataFrame({{"image": images}}), params={{"working_point": "precision=0.9"}})
empty = model.predict(pd.DataFrame({{"image": pd.Series([], dtype=object)}}))
print(found.to_json(orient="split"))
print(len(none), len(sure), list(none.columns) == list(found.columns), len(empty))
print(model.metadata.metadata["class_names"], "{project}" in " ".join(sys.path))
"""


WRITE = """
import sys
from pathlib import Path
from mlflow.models import Model
from pipeline.tracking.model import write_model
write_model(Path("model"), Path("model.pt"), description=Model(), class_names=["cat", "dog"], example=None)
print([name for name in ("torch", "torchvision", "retinanet.inference") if name in sys.modules])
"""


@pytest.mark.slow
def test_writing_a_model_imports_neither_the_detector_nor_torchvision(tracker: Any, tmp_path: Path) -> None:
    """The driver of a training writes it; only the workers need them."""
    (tmp_path / "model.pt").write_text("weights")
    assert tracker.run_python(WRITE, cwd=tmp_path, python_path=str(PROJECT)) == "[]\n"
    assert (tmp_path / "model/MLmodel").is_file()


@pytest.mark.slow
def test_logged_model_loads_and_predicts_without_the_project(tracker: Any, tmp_path: Path, home: Path) -> None:
    for package in ("retinanet", "retinanet/inference", "retinanet/data", "retinanet/evaluation"):
        (tmp_path / package).mkdir()
        (tmp_path / package / "__init__.py").write_text("")
    (tmp_path / "retinanet/inference/detector.py").write_text(DETECTOR)
    for name in ("pixels", "jpeg"):  # they decode what is served
        shutil.copy(PROJECT / f"retinanet/data/{name}.py", tmp_path / "retinanet/data")
    for name in ("working_point", "temperature"):
        shutil.copy(PROJECT / f"retinanet/evaluation/{name}.py", tmp_path / "retinanet/evaluation")
    (tmp_path / "model.pt").write_text("weights")
    tracker.png(tmp_path / "a.png", width=8, height=6)
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    tracker.png(elsewhere / "a.png", width=8, height=6)

    model_id = tracker.run_python(LOG, cwd=tmp_path, python_path=f"{tmp_path}:{PROJECT}").strip()
    assert model_id.startswith("m-")
    code = PREDICT.format(uri=find_store().uri, model_id=model_id, project=PROJECT / "retinanet")
    found, others, about = tracker.run_python(code, cwd=elsewhere, python_path="").splitlines()

    table = json.loads(found)
    assert table["columns"] == ["image", "x1", "y1", "x2", "y2", "score", "label", "class_name"]
    assert table["data"][0] == [0, 0, 0, 8, 6, 0.5, 1, "dog"]
    assert table["data"][2] == [2, 0, 0, 3, 4, 0.5, 1, "dog"]
    assert [row[0] for row in table["data"]] == [0, 1, 2]
    assert others == "0 0 True 0"
    assert about == "['cat', 'dog'] False"
    stored = tracker.client().get_logged_model(model_id)
    assert stored.status == "READY"
    (requirements,) = (home / "mlartifacts").rglob(f"{model_id}/**/requirements.txt")
    names = {line.partition("==")[0] for line in requirements.read_text().split()}
    assert names == {"mlflow", "torch", "torchvision", "numpy", "pillow", "fsspec"}
    assert "+" not in requirements.read_text()
