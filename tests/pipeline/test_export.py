"""Laws of the command export: a name with an alias and its AP, once per model; a folder that stands alone; serving."""

from __future__ import annotations

import base64
import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from pipeline.export.__main__ import main
from pipeline.export.run import figures_of
from pipeline.tracking.store import connect, find_store
from retinanet.evaluation.working_point import choose_points, parse_target
from retinanet.inference.detector import Detector

pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
]
slow = pytest.mark.slow
SILENT = "http://127.0.0.1:9"  # nobody listens there


@pytest.fixture
def at_tracked(tracked: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in ("DVC_ROOT", "PIPELINE_CONF", "MLFLOW_TRACKING_URI", "MLFLOW_EXPERIMENT_NAME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.chdir(tracked)
    return tracked


def picture_of(project: Path) -> Path:
    return min((project / "data/prepared/images").rglob("*.png"))


def found_by_detector(model: Path, picture: Path) -> list[dict[str, Any]]:
    """What serving must answer: what each class has above its threshold of the best F1."""
    detector = Detector.load(model)
    points = choose_points(detector.description, parse_target("f1"))
    assert points is not None
    image = np.asarray(Image.open(picture).convert("RGB"))
    (detections,) = detector([image], score_threshold=points.thresholds)
    rows = zip(*(field.tolist() for field in detections), strict=True)
    return [{"box": box, "score": score, "label": label} for box, score, label in rows]


def assert_same(rows: list[dict[str, Any]], expected: list[dict[str, Any]]) -> None:
    assert len(rows) == len(expected) > 0
    for row, other in zip(rows, expected, strict=True):
        assert [row[side] for side in ("x1", "y1", "x2", "y2")] == pytest.approx(other["box"], abs=1e-3)
        assert row["score"] == pytest.approx(other["score"], abs=1e-5)
        assert row["label"] == other["label"]


# ---- what is refused -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ([], "nothing to do; give --register NAME, --output FOLDER or --onnx"),
        (["--register", "a/b"], "--register 'a/b' is not a model name"),
        (["--register", "x", "--alias", "latest"], "--alias 'latest'"),
        (["--register", "x", "--alias", "v1"], "--alias 'v1'"),
        (["--output", "."], "--output . exists; give a new folder"),
        (["--output", "new"], "models/model.pt does not exist"),
        (["--output", "new", "--model", "other.pt"], "other.pt does not exist"),
        (["--register", "x"], "models/model.pt does not exist"),
    ],
)
@pytest.mark.usefixtures("project")
def test_mistake_is_one_sentence_before_any_work(arguments: list[str], sentence: str) -> None:
    with pytest.raises(ValueError) as caught:  # noqa: PT011 - the sentence is asserted below
        main(arguments)
    assert sentence in str(caught.value)


@slow
@pytest.mark.usefixtures("project")
def test_run_that_is_not_there_is_told() -> None:
    with pytest.raises(ValueError, match="cannot return run 0123"):
        main(["--register", "x", "--run", "0123"])


def test_figures_are_those_of_the_evaluation_where_there_was_one() -> None:
    assert figures_of({"AP": 0.1, "best.AP": 0.2}) == ("val", {"AP": 0.2})
    assert figures_of({"test.AP": 0.3, "test.AP50": 0.5, "best.AP": 0.2}) == ("test", {"AP": 0.3, "AP50": 0.5})
    assert figures_of({}) == ("val", {})


# ---- registry --------------------------------------------------------------------------------------------------------


@slow
def test_model_is_registered_once_with_alias_and_ap(at_tracked: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main(["--register", "once"])
    assert "registered once version 1" in capsys.readouterr().out
    main(["--register", "once", "--alias", "newest"])
    said = capsys.readouterr().out
    assert "once version 1 is already this model; no new version was created" in said
    assert "models:/once@newest" in said

    client = connect(find_store())
    (entry,) = client.search_model_versions("name = 'once'")
    assert sorted(client.get_registered_model("once").aliases) == ["champion", "newest"]
    report = json.loads(Path("reports/evaluate.json").read_text())
    assert (entry.tags["AP"], entry.tags["split"]) == (f"{report['AP']:.4f}", "test")
    assert entry.tags["run_digest"] == json.loads(Path("reports/train.json").read_text())["run"]
    assert entry.description.startswith(f"**AP {report['AP']:.3f}")
    main(["--register", "once", "--run", entry.run_id])
    assert len(client.search_model_versions("name = 'once'")) == 1


@slow
def test_file_that_its_run_does_not_hold_is_told(at_tracked: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipeline.export.run.digest_file", lambda path: "0" * 64)
    with pytest.raises(ValueError, match="holds no model with these weights; run the train stage again"):
        main(["--register", "other"])


@slow
@pytest.mark.parametrize("of", ["file", "run"])
def test_folder_stands_alone(at_tracked: Path, tmp_path: Path, of: str) -> None:
    import mlflow.pyfunc
    import pandas as pd

    run_id = next(Path("runs").glob("*/mlflow_run_id")).read_text()
    folder = tmp_path / "given" / "detector"
    main(["--output", str(folder), *(["--run", run_id] if of == "run" else [])])
    assert (folder / "model.pt").read_bytes() == Path("models/model.pt").read_bytes()
    assert [path.name for path in folder.parent.iterdir()] == ["detector"]  # nothing half written beside it
    picture = picture_of(at_tracked)
    inputs = [str(picture), picture.read_bytes(), np.asarray(Image.open(picture).convert("RGB"))]
    table = mlflow.pyfunc.load_model(str(folder / "pyfunc")).predict(pd.DataFrame({"image": inputs}))
    expected = found_by_detector(Path("models/model.pt"), picture)
    for index in range(len(inputs)):
        assert_same(table[table.image == index].to_dict("records"), expected)


# ---- serving ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def served(at_tracked: Path) -> Iterator[str]:
    """The address of `mlflow models serve` of the registered model, in a process that reaches no network."""
    main(["--register", "served"])
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    variables = {key: value for key, value in os.environ.items() if not key.lower().endswith("_proxy")}
    variables |= {
        "MLFLOW_TRACKING_URI": find_store().uri,
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
    }
    variables |= {f"{kind}_proxy": SILENT for kind in ("http", "https", "all")} | {"no_proxy": "127.0.0.1"}
    variables |= {"MLFLOW_DISABLE_TELEMETRY": "true", "PIP_INDEX_URL": SILENT, "PYTHONPATH": ""}
    command = [sys.executable, "-m", "mlflow", "models", "serve", "-m", "models:/served@champion"]
    command += ["--env-manager", "local", "--host", "127.0.0.1", "--port", str(port)]
    log = at_tracked / "serve.log"
    with log.open("w") as file:
        process = subprocess.Popen(command, env=variables, stdout=file, stderr=file, start_new_session=True)
        try:
            wait_for(f"http://127.0.0.1:{port}/ping", process, log)
            yield f"http://127.0.0.1:{port}"
        finally:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def wait_for(address: str, process: subprocess.Popen[bytes], log: Path) -> None:
    for _ in range(600):
        assert process.poll() is None, log.read_text()
        try:
            with urllib.request.urlopen(address, timeout=5):
                return
        except (urllib.error.URLError, OSError):
            time.sleep(0.2)
    raise AssertionError(log.read_text())


def ask(address: str, pictures: list[bytes], **params: float) -> list[dict[str, Any]]:
    """One request: the pictures in base64, the detections as rows."""
    rows = [[base64.b64encode(picture).decode()] for picture in pictures]
    content = {"dataframe_split": {"columns": ["image"], "data": rows}, **({"params": params} if params else {})}
    request = urllib.request.Request(
        f"{address}/invocations", json.dumps(content).encode(), {"Content-Type": "application/json"}
    )
    with urllib.request.urlopen(request, timeout=60) as answer:
        found: list[dict[str, Any]] = json.loads(answer.read())["predictions"]
    return found


@slow
def test_registered_model_answers_a_request_with_detections_offline(served: str, at_tracked: Path) -> None:
    picture = picture_of(at_tracked)
    expected = found_by_detector(Path("models/model.pt"), picture)
    rows = ask(served, [picture.read_bytes(), picture.read_bytes()])
    for index in (0, 1):
        assert_same([row for row in rows if row["image"] == index], expected)
    highest = expected[0]["score"]
    assert ask(served, [picture.read_bytes()], score_threshold=highest + 0.001) == []
