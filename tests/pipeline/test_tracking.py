from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import textwrap
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from PIL import Image

from pipeline.tracking import NoRun, Run, open_run, outbox, provenance_tags
from pipeline.tracking.provenance import git
from pipeline.tracking.records import clean_name
from pipeline.tracking.store import Store, connect, find_store

if TYPE_CHECKING:
    from mlflow import MlflowClient

# MLflow declares its tables with what SQLAlchemy deprecates.
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")

PROJECT = Path(__file__).resolve().parents[2]
VARIABLES = ("MLFLOW_TRACKING_URI", "MLFLOW_EXPERIMENT_NAME", "DVC_ROOT", "DVC_EXP_NAME", "DVC_EXP_BASELINE_REV")


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project whose store has been migrated once for all tests: that takes seconds."""
    return tmp_path_factory.mktemp("a project")


@pytest.fixture(autouse=True)
def at_project(project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("DVC_ROOT", str(project))
    monkeypatch.chdir(tmp_path)  # nothing may depend on it or lie in it


def begin(run_id: str | None = None, params: dict[str, object] | None = None) -> Run:
    return open_run(run_id=run_id, name="trial", params=params or {}, tags={"kind": "test"})


def id_of(run: Run) -> str:
    assert run.run_id is not None
    return run.run_id


def client() -> MlflowClient:
    return connect(find_store())


def history(epochs: int) -> list[dict[str, float | int | None]]:
    """Rows 0..epochs-1, 10 steps each, AP only in every second."""
    return [
        {"epoch": epoch, "step": 10 * (epoch + 1), "loss": 1 / (epoch + 1), "AP": 0.25 * epoch if epoch % 2 else None}
        for epoch in range(epochs)
    ]


def curve(run: Run, key: str) -> list[tuple[int, float]]:
    return [(point.step, point.value) for point in client().get_metric_history(id_of(run), key)]


def png(path: Path, *, width: int = 8, height: int = 6) -> Path:
    Image.new("RGB", (width, height), (200, 30, 30)).save(path)
    return path


def run_python(code: str, *, cwd: Path, python_path: str) -> str:
    environment = {**os.environ, "PYTHONPATH": python_path, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)], cwd=cwd, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


# ---- where the store is ---------------------------------------------------------------------------------------------


def test_store_is_in_the_real_root_inside_a_dvc_experiment(monkeypatch: pytest.MonkeyPatch, project: Path) -> None:
    monkeypatch.setenv("DVC_ROOT", str(project / ".dvc/tmp/exps/standalone/tmpabc"))
    assert find_store().uri == f"sqlite:///{project}/mlflow.db"
    assert find_store().artifacts == (project / "mlartifacts").as_uri()
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "sqlite:///runs/other.db")
    assert find_store().uri == f"sqlite:///{project}/runs/other.db"


def test_server_of_the_environment_decides_where_artifacts_are(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "https://me:secret@host:5000/mlflow")
    store = find_store()
    assert store.artifacts is None
    assert store.public_uri == "https://host:5000/mlflow"


def test_import_of_tracking_writes_nothing_and_leaves_mlflow_alone(tmp_path: Path) -> None:
    code = "import sys, pipeline.tracking; print('mlflow' in sys.modules)"
    assert run_python(code, cwd=tmp_path, python_path=str(PROJECT)).strip() == "False"
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_run_writes_into_the_root_and_nowhere_else(project: Path, tmp_path: Path) -> None:
    run = begin()
    run.log_artifact(png(project / "sheet.png"), "plots")
    run.log_metrics({"AP": 0.5})
    run.finish()
    assert list(tmp_path.iterdir()) == []
    assert (project / "mlflow.db").exists()
    assert list((project / "mlartifacts").rglob("sheet.png"))
    assert run.url == "make ui"


def test_name_of_the_experiment_comes_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    assert find_store().experiment == "retinanet"
    monkeypatch.setenv("MLFLOW_EXPERIMENT_NAME", "cells")
    run = begin()
    experiment_id = client().get_run(id_of(run)).info.experiment_id
    assert client().get_experiment(experiment_id).name == "cells"


def test_deleted_experiment_is_told_before_any_work(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_EXPERIMENT_NAME", "gone")
    client().delete_experiment(client().create_experiment("gone"))
    with pytest.raises(ValueError, match=r"experiment gone .* is deleted; restore it"):
        begin()


def test_store_that_mlflow_no_longer_supports_is_told_before_any_work(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "./mlruns")
    with pytest.raises(ValueError, match="MLFLOW_TRACKING_URI"):
        begin()


# ---- one run, one curve ---------------------------------------------------------------------------------------------


def test_resume_gives_one_curve_without_gap_or_double() -> None:
    first = begin()
    first.log_history(history(2))
    first.log_history(history(3))
    second = begin(run_id=first.run_id)  # killed after epoch 2: the run is never finished
    second.log_history(history(3))
    second.log_history(history(5))
    second.finish()
    assert second.run_id == first.run_id
    assert curve(second, "step") == [(0, 10), (1, 20), (2, 30), (3, 40), (4, 50)]
    assert curve(second, "AP") == [(1, 0.25), (3, 0.75)]  # None is no point
    assert client().get_run(id_of(second)).info.status == "FINISHED"


def test_continued_run_is_running_again() -> None:
    run = begin()
    run.finish()
    again = begin(run_id=run.run_id)
    assert client().get_run(id_of(again)).info.status == "RUNNING"


def test_empty_history_makes_no_curve() -> None:
    run = begin()
    run.log_history([])
    assert curve(run, "step") == []


def test_unknown_run_begins_a_new_one_and_says_so(capsys: pytest.CaptureFixture[str]) -> None:
    run = begin(run_id="0" * 32)
    assert run.run_id not in (None, "0" * 32)
    assert "has no run 0000" in capsys.readouterr().out


def test_deleted_run_begins_a_new_one() -> None:
    run = begin()
    client().delete_run(id_of(run))
    assert begin(run_id=run.run_id).run_id != run.run_id


def test_block_that_fails_leaves_a_failed_run() -> None:
    with pytest.raises(ZeroDivisionError), begin() as failed:
        _ = 1 / 0
    with pytest.raises(KeyboardInterrupt), begin() as killed:
        raise KeyboardInterrupt
    assert client().get_run(id_of(failed)).info.status == "FAILED"
    assert client().get_run(id_of(killed)).info.status == "KILLED"


def test_run_leaves_no_active_run_behind() -> None:
    begin().finish()
    import mlflow

    assert mlflow.active_run() is None


# ---- what a run holds -----------------------------------------------------------------------------------------------


def test_params_are_spelt_as_in_the_file_and_the_same_value_may_come_again(capsys: pytest.CaptureFixture[str]) -> None:
    params: dict[str, object] = {"loss.alpha": None, "anchors.aspect_ratios": [0.5, 1.0], "anchors.rounded": False}
    run = begin(params=params | {"data.root": "data/raw", "data.classes": "x" * 7000})
    begin(run_id=run.run_id, params=params | {"data.root": "data/raw", "data.classes": "x" * 7000, "seed": 1})
    held = client().get_run(id_of(run)).data.params
    assert held.pop("data.classes") == "x" * 6000
    assert held == {
        "loss.alpha": "null",
        "anchors.aspect_ratios": "[0.5, 1.0]",
        "anchors.rounded": "false",
        "data.root": "data/raw",
        "seed": "1",
    }
    assert capsys.readouterr().err == ""


def test_changed_param_is_told_and_the_others_are_kept(capsys: pytest.CaptureFixture[str]) -> None:
    run = begin(params={"evaluate.split": "val"})
    begin(run_id=run.run_id, params={"evaluate.split": "test", "evaluate.pictures": 16})
    data = client().get_run(id_of(run)).data
    assert data.params == {"evaluate.split": "val", "evaluate.pictures": "16"}
    assert data.tags["changed.evaluate.split"] == "test"
    assert "keeps evaluate.split = val; it now goes on with test" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("name", "clean"),
    [
        ("val/AP50", "val/AP50"),
        ("AP@[.5:.95]", "AP__.5:.95_"),
        ("per_class.traffic light (red).AP", "per_class.traffic light _red_.AP"),
        ("//a/../b%", "a/_/b_"),
        ("K\u00e4fer", "K\u00e4fer"),
        ("", "_"),
    ],
)
def test_odd_names_become_names_that_mlflow_takes(name: str, clean: str) -> None:
    assert clean_name(name) == clean
    run = begin()
    run.log_metrics({name: 0.25, "x" * 300: 1.0, "diverged": float("nan")}, step=3)
    assert curve(run, clean) == [(3, 0.25)]


def test_refused_record_is_told_once_and_blocks_nothing(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    run = begin()
    run.log_artifact(tmp_path / "missing.png")
    run.log_artifact(tmp_path / "missing too.png")
    run.log_metrics({"AP": 0.5})
    assert curve(run, "AP") == [(0, 0.5)]
    assert capsys.readouterr().err.count("MLflow does not accept artifact") == 1


def test_pictures_lie_in_the_image_grid_with_their_step(tmp_path: Path) -> None:
    run = begin()
    run.log_picture("val/predictions: best", png(tmp_path / "sheet.png"), step=4)
    names = [file.path for file in client().list_artifacts(id_of(run), "images")]
    assert sorted(Path(name).suffix for name in names) == [".png", ".webp"]
    assert all(name.startswith("images/val~predictions_ best+step+4+") for name in names)


def test_dataset_is_an_input_once_and_its_source_can_be_read(tmp_path: Path) -> None:
    import mlflow.data

    run = begin()
    for _ in range(2):  # a resume says it again
        run.log_dataset(
            name="BCCD", digest="a" * 64, source="data/raw/BCCD", context="training", profile={"num_rows": 205}
        )
    inputs = client().get_run(id_of(run)).inputs
    assert inputs is not None
    (given,) = inputs.dataset_inputs
    assert (given.dataset.name, given.dataset.digest) == ("BCCD", "a" * 36)
    assert json.loads(given.dataset.profile or "") == {"num_rows": 205}
    assert [tag.value for tag in given.tags] == ["training"]
    assert mlflow.data.get_source(given.dataset).to_dict() == {"uri": "data/raw/BCCD"}


def test_silent_run_knows_every_verb_and_does_nothing(tmp_path: Path) -> None:
    run = NoRun()
    run.log_history(history(2))
    run.log_metrics({"AP": 1.0})
    run.log_artifact(tmp_path)
    run.log_picture("a", tmp_path, 1)
    run.log_dataset(name="a", digest="b", source="c", context="d", profile={})
    run.set_tags({"a": "b"})
    run.finish()
    assert run.log_model(tmp_path, class_names=["a"]) is None
    assert run.run_id is None
    verbs = {name for name in vars(Run) if not name.startswith("_")} - {"open", "try_to_open", "log_params"}
    assert verbs <= set(vars(NoRun))


# ---- the store is away ----------------------------------------------------------------------------------------------


def test_store_that_never_answers_stops_nothing_and_is_told_once(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://me:secret@127.0.0.1:{free_port()}")
    monkeypatch.setattr(outbox, "LAST_PAUSES_S", (0.0,))
    start = time.monotonic()
    run = begin(params={"seed": 1})
    run.log_history(history(2))
    run.finish()
    assert time.monotonic() - start < 10
    assert run.run_id is None
    told = capsys.readouterr().err
    assert told.count("does not answer at http://127.0.0.1:") == 1
    assert "lacks what could not be sent: parameters; tags kind; history; end of the run" in told
    assert "secret" not in told


def test_absent_store_is_left_alone_for_nine_times_what_a_try_costs(monkeypatch: pytest.MonkeyPatch) -> None:
    clock, tries = [100.0], []

    def dial() -> tuple[MlflowClient, str]:
        tries.append(clock[0])
        clock[0] += 2.0  # a try takes 2 s, so the next one may come 9 * 2 = 18 s after its end
        raise ConnectionError("no route")

    monkeypatch.setattr("pipeline.tracking.outbox.time.monotonic", lambda: clock[0])
    box = outbox.Outbox(dial, address="there")
    for _ in range(5):
        box.put("history", lambda client, run_id: None)
        clock[0] += 10.0
    # 100: tried until 102, silent until 120. Asked at 112, 122 (tried until 124, silent until 142), 134, 144.
    assert tries == [100.0, 122.0, 144.0]
    monkeypatch.setattr(outbox, "LAST_PAUSES_S", (0.0,))
    assert box.put_last("end", lambda client, run_id: None) == ["history", "end"]


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def start_server(folder: Path, port: int) -> subprocess.Popen[bytes]:
    """A real server, once it answers."""
    command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port), "--workers", "1"]
    command += ["--backend-store-uri", f"sqlite:///{folder}/mlflow.db", "--artifacts-destination", f"{folder}/files"]
    with (folder / "server.log").open("ab") as log:
        server = subprocess.Popen(command, cwd=folder, stdout=log, stderr=log, start_new_session=True)
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=5):
                return server
        except (urllib.error.URLError, OSError):
            time.sleep(0.3)
    stop_server(server)
    raise TimeoutError((folder / "server.log").read_text())


def stop_server(server: subprocess.Popen[bytes]) -> None:
    """The server and its workers, as a power cut would."""
    os.killpg(server.pid, signal.SIGKILL)
    server.wait()


@pytest.fixture
def port(monkeypatch: pytest.MonkeyPatch) -> int:
    """The port of a server that each test starts and kills itself."""
    port = free_port()
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://127.0.0.1:{port}")
    return port


@pytest.mark.slow
def test_nothing_is_lost_while_the_server_is_away(
    port: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(outbox, "PATIENCE", 0.0)
    run = begin(params={"seed": 1})  # no server yet
    run.log_history(history(1))
    assert run.run_id is None

    server = start_server(tmp_path, port)
    try:
        run.log_history(history(2))
        page = f"http://127.0.0.1:{port}/#/experiments/1/runs/{run.run_id}"
        assert run.url == page
        assert curve(run, "step") == [(0, 10), (1, 20)]
    finally:
        stop_server(server)

    run.log_history(history(3))
    run.log_history(history(4))
    run.log_artifact(png(tmp_path / "sheet.png"))
    run.log_picture("val", tmp_path / "sheet.png", step=3)
    run.set_tags({"late": "yes"})
    again = begin(run_id=run.run_id)  # a resume that begins without the server

    server = start_server(tmp_path, port)
    try:
        run.log_history(history(5))
        again.log_history(history(6))
        again.finish()
        stored = client().get_run(id_of(run))
        assert again.run_id == run.run_id
        assert curve(run, "step") == [(0, 10), (1, 20), (2, 30), (3, 40), (4, 50), (5, 60)]
        assert stored.data.params == {"seed": "1"}
        assert stored.data.tags["late"] == "yes"
        assert {file.path for file in client().list_artifacts(id_of(run))} == {"images", "sheet.png"}
        assert stored.info.status == "FINISHED"
        assert len(client().search_runs([stored.info.experiment_id])) == 1
    finally:
        stop_server(server)
    # before the first start, after the kill, and the resume
    assert capsys.readouterr().err.count("does not answer") == 3


# ---- where a run comes from -----------------------------------------------------------------------------------------


@pytest.fixture
def repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("DVC_ROOT", str(tmp_path))
    (tmp_path / "pipeline").mkdir()
    (tmp_path / "pipeline/train.py").write_text("")
    (tmp_path / "params.yaml").write_text("loss:\n  gamma: 2.0\ndata:\n  format: shapes\n")
    git("init", "-q", "-b", "main")
    git("add", ".")
    git("-c", "user.name=a", "-c", "user.email=a@b", "commit", "-q", "-m", "first")
    return tmp_path


def tags_of(params: dict[str, object]) -> dict[str, str]:
    return provenance_tags(params=params, data_hash="d1", run_digest="r1")


def test_run_of_a_clean_commit_is_reproduced_by_dvc_repro(repository: Path) -> None:
    commit = git("rev-parse", "HEAD")
    tags = tags_of({"loss.gamma": 2.0, "data.format": "shapes"})
    assert tags["reproduce"] == f"git checkout {commit} && dvc repro"
    assert (tags["git.commit"], tags["git.branch"], tags["git.dirty"]) == (commit, "main", "false")
    assert (tags["data_hash"], tags["run_digest"]) == ("d1", "r1")
    assert tags["torch"].startswith("2.")


def test_changed_params_are_in_the_reproducing_command(repository: Path) -> None:
    tags = tags_of({"loss.gamma": 1.5, "data.format": "shapes"})
    assert tags["reproduce"] == f"git checkout {tags['git.commit']} && dvc exp run -S loss.gamma=1.5"
    assert tags["git.dirty"] == "false"  # parameters are told apart from code


def test_changed_code_makes_a_run_dirty(repository: Path) -> None:
    (repository / "pipeline/train.py").write_text("changed = True")
    tags = tags_of({"loss.gamma": 2.0})
    assert tags["git.dirty"] == "true"
    assert "pipeline/train.py" in tags["git.changes"]


def test_dvc_experiment_is_named(repository: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DVC_EXP_NAME", "bumpy-boar")
    monkeypatch.setenv("DVC_EXP_BASELINE_REV", "abc")
    tags = tags_of({})
    assert (tags["dvc.exp_name"], tags["dvc.exp_baseline_rev"]) == ("bumpy-boar", "abc")


def test_without_git_there_are_no_git_tags(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    tags = tags_of({"loss.gamma": 2.0})
    assert not [key for key in tags if "git" in key or key == "reproduce"]


# ---- the model ------------------------------------------------------------------------------------------------------

DETECTOR = '''
from typing import NamedTuple
import numpy as np, torch

class Detections(NamedTuple):
    boxes: torch.Tensor
    scores: torch.Tensor
    labels: torch.Tensor

class Detector:
    class_names = ["cat", "dog"]

    @classmethod
    def load(cls, path, device):
        assert open(path).read() == "weights"
        return cls()

    def __call__(self, images, *, score_threshold=None):
        """One dog of score .5 that fills each image; none above a higher threshold."""
        kept = int((score_threshold or 0.05) < 0.5)
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
empty = model.predict(pd.DataFrame({{"image": pd.Series([], dtype=object)}}))
print(found.to_json(orient="split"))
print(len(none), list(none.columns) == list(found.columns), len(empty))
print(model.metadata.metadata["class_names"], "{project}" in " ".join(sys.path))
"""


@pytest.mark.slow
def test_logged_model_loads_and_predicts_without_the_project(tmp_path: Path, project: Path) -> None:
    (tmp_path / "retinanet").mkdir()
    (tmp_path / "retinanet/__init__.py").write_text("")
    (tmp_path / "retinanet/detector.py").write_text(DETECTOR)
    (tmp_path / "model.pt").write_text("weights")
    png(tmp_path / "a.png", width=8, height=6)
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    png(elsewhere / "a.png", width=8, height=6)

    model_id = run_python(LOG, cwd=tmp_path, python_path=f"{tmp_path}:{PROJECT}").strip()
    assert model_id.startswith("m-")
    code = PREDICT.format(uri=find_store().uri, model_id=model_id, project=PROJECT / "retinanet")
    found, others, about = run_python(code, cwd=elsewhere, python_path="").splitlines()

    table = json.loads(found)
    assert table["columns"] == ["image", "x1", "y1", "x2", "y2", "score", "label", "class_name"]
    assert table["data"][0] == [0, 0, 0, 8, 6, 0.5, 1, "dog"]
    assert table["data"][2] == [2, 0, 0, 3, 4, 0.5, 1, "dog"]
    assert [row[0] for row in table["data"]] == [0, 1, 2]
    assert others == "0 True 0"
    assert about == "['cat', 'dog'] False"
    stored = client().get_logged_model(model_id)
    assert stored.status == "READY"
    (requirements,) = (project / "mlartifacts").rglob(f"{model_id}/**/requirements.txt")
    names = {line.partition("==")[0] for line in requirements.read_text().split()}
    assert names == {"mlflow", "torch", "torchvision", "numpy", "pillow", "pycocotools", "fsspec"}
    assert "+" not in requirements.read_text()


def test_address_of_the_store_says_what_a_browser_can_open() -> None:
    assert Store("http://h", "e", None).is_server
    assert not Store("sqlite:////a/mlflow.db", "e", None).is_server
