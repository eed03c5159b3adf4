"""Laws of the stage train before and after Ray: what is refused, which run it is, what it keeps and writes."""

from __future__ import annotations

import json
import shutil
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch

from pipeline import cluster
from pipeline.cli.progress import Progress
from pipeline.cluster import training
from pipeline.cluster.archive import archive_run
from pipeline.fit.config import WorkerConfig
from pipeline.params import Params, load_params
from pipeline.params.conflicts import check_share
from pipeline.params.runtime import RuntimeConfig, load_runtime
from pipeline.reports.sample_images import SampleImages
from pipeline.runs import fingerprint
from pipeline.runs.checksums import write_checksums
from pipeline.runs.fingerprint import CODE, HOUSE
from pipeline.runs.identity import BEST, ROWS, RUN_ID, RunFolder
from pipeline.storage.outs import write_json
from pipeline.tracking import NoopRun
from pipeline.train import run as stage
from pipeline.train.__main__ import main
from pipeline.train.run import (
    MODEL,
    Listener,
    digest_training,
    export,
    train_in_memory,
    write_reports,
)
from pipeline.worker_config import worker_config
from retinanet.inference.detector_file import load_detector, save_detector
from tests.settings import change

# ---- before any work -------------------------------------------------------------------------------------------------


def here() -> tuple[Params, RuntimeConfig]:
    return load_params(), load_runtime()


@pytest.mark.usefixtures("project")
def test_more_workers_than_images_in_a_batch_are_refused() -> None:
    change("conf/local.yaml", workers=9)
    with pytest.raises(
        ValueError, match=r"workers is 9 in conf/, more than the images of a batch \(train.batch_size 8\)"
    ):
        main([])


@pytest.mark.usefixtures("project")
@pytest.mark.parametrize("gpus", [0, 1])
def test_automatic_precision_is_that_of_the_processor_or_of_the_gpu(gpus: int, monkeypatch: pytest.MonkeyPatch) -> None:
    precisions = []
    monkeypatch.setattr("pipeline.train.run.native_precision", lambda gpu: "bf16" if gpu else "fp32")
    monkeypatch.setattr(
        "pipeline.train.run.digest_training", lambda params, runtime: precisions.append(runtime.precision) or "d1"
    )
    monkeypatch.setattr("pipeline.train.run.storage_location", lambda runtime: "nowhere" / runtime)
    params, runtime = here()
    with pytest.raises(TypeError, match="unsupported operand"):  # it goes no further
        stage.run(params, runtime.model_copy(update={"precision": "auto", "gpus_per_worker": gpus}))
    assert precisions == [("fp32", "bf16")[gpus]]


@pytest.mark.usefixtures("project")
def test_norm_that_sees_one_worker_only_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    change("params.yaml", model__norm="batch")
    params, runtime = here()
    check_share(params, runtime)
    assert capsys.readouterr().out == ""  # one worker sees all images
    check_share(params, runtime.model_copy(update={"workers": 2}))
    check_share(params, runtime.model_copy(update={"images_per_step": 4}))
    assert capsys.readouterr().out.count("model.norm is batch") == 2


@pytest.mark.usefixtures("project")
@pytest.mark.parametrize("name", ["anchors.json", "data/prepared/val.json"])
def test_missing_input_is_told_with_what_to_do(name: str) -> None:
    Path(name).unlink()
    with pytest.raises(ValueError, match=f"{name} does not exist; run the preceding stage"):
        main([])


@pytest.mark.usefixtures("project")
def test_alpha_that_does_not_fit_the_classes_is_told_before_ray_starts(monkeypatch: pytest.MonkeyPatch) -> None:
    change("params.yaml", loss__alpha=[0.25] * 7)
    monkeypatch.setattr(cluster, "start_ray", lambda *arguments, **options: pytest.fail("Ray starts"))
    with pytest.raises(ValueError, match=r"loss\.alpha has 7 entries"):
        main([])


@pytest.mark.usefixtures("project")
def test_missing_weights_are_told_before_ray_starts(monkeypatch: pytest.MonkeyPatch) -> None:
    change("params.yaml", model__weights="resnet.pt")
    monkeypatch.setattr(cluster, "start_ray", lambda *arguments, **options: pytest.fail("Ray starts"))
    with pytest.raises(ValueError, match=r"model\.weights is 'resnet.pt': no such file"):
        main([])


# ---- images that do not fit ------------------------------------------------------------------------------------------


def test_images_that_do_not_fit_are_halved_until_they_do_and_it_is_remembered(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], project: Path
) -> None:
    tried, limit = [], [0]

    def train_on_ray(fit: Any, config: WorkerConfig, **options: Any) -> str:
        tried.append(config.runtime.images_per_step)
        if (tried[-1] or 8) > limit[0]:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return "trained"

    monkeypatch.setattr(training, "train_on_ray", train_on_ray)
    params, runtime = here()
    folder, options = RunFolder(str(tmp_path), "d1"), {"name": "d1", "storage": str(tmp_path), "listener": None}
    # Eight images, one worker; each later start tries twice what fitted, until it is what conf/ says.
    for fits, expected in ((2, [None, 4, 2]), (2, [4, 2]), (4, [4]), (4, [None, 4]), (8, [None])):
        tried.clear()
        limit[0] = fits
        config = worker_config(params, runtime, digest="d1", run="")
        assert train_in_memory(config, runtime, folder, **options) == "trained"  # type: ignore[arg-type, comparison-overlap]
        assert tried == expected
    assert (
        "8 images do not fit into a worker's memory (CUDA out of memory); continuing with micro-batches of 4"
        in capsys.readouterr().out
    )


# ---- which run it is -------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("project")
@pytest.mark.parametrize(
    ("key", "value"), [("loss__gamma", 1.5), ("train__epochs", 4), ("seed", 2), ("transforms__horizontal_flip", 0.0)]
)
def test_parameter_that_changes_the_training_makes_another_run(key: str, value: float) -> None:
    before = digest_training(*here())
    change("params.yaml", **{key: value})
    assert digest_training(*here()) != before


@pytest.mark.usefixtures("project")
@pytest.mark.parametrize(("key", "value"), [("postprocess__nms_iou", 0.6), ("evaluate__split", "val")])
def test_parameter_of_another_stage_makes_no_other_run(key: str, value: object) -> None:
    before = digest_training(*here())
    change("params.yaml", **{key: value})
    assert digest_training(*here()) == before


@pytest.mark.usefixtures("project")
def test_place_changes_the_run_by_its_precision_only() -> None:
    params, runtime = here()
    moved = runtime.model_copy(
        update={"workers": 2, "images_per_step": 1, "cache_images": False, "address": "head:6379"}
    )
    assert digest_training(params, moved) == digest_training(params, runtime)
    precisions = ("fp32", "tf32", "bf16", "fp16")
    assert len({digest_training(params, runtime.model_copy(update={"precision": each})) for each in precisions}) == 4


@pytest.mark.usefixtures("project")
@pytest.mark.parametrize("name", ["data/prepared/train.json", "data/prepared/val.json", "anchors.json"])
def test_changed_data_makes_another_run(name: str) -> None:
    before = digest_training(*here())
    Path(name).write_bytes(Path(name).read_bytes() + b" ")
    assert digest_training(*here()) != before


@pytest.fixture
def own_code(project: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of a copy of the code that computes the result, which names the run."""
    for path in CODE:
        copy = project / path.relative_to(HOUSE)
        copy.parent.mkdir(parents=True, exist_ok=True)
        copy.write_bytes(path.read_bytes())
    monkeypatch.setattr(fingerprint, "CODE", tuple(project / path.relative_to(HOUSE) for path in CODE))
    monkeypatch.setattr(fingerprint, "HOUSE", project)
    return project


def test_changed_code_makes_another_run_of_the_same_experiment(own_code: Path) -> None:
    """Else DVC would run the stage for a mended loss, and get the model of the old one."""
    assert {"sigmoid.py", "engine.py", "loop.py"} <= {path.name for path in CODE}
    before = digest_training(*here())
    with (own_code / "retinanet/losses/sigmoid.py").open("a") as file:
        file.write("MENDED = True\n")
    after = digest_training(*here())
    assert after != before
    assert after.partition("-")[0] == before.partition("-")[0]


@pytest.mark.usefixtures("own_code")
def test_comment_in_any_file_of_the_code_makes_no_other_run() -> None:
    before = digest_training(*here())
    for path in fingerprint.CODE:
        with path.open("a") as file:
            file.write("# a thought\n")
    assert digest_training(*here()) == before


@pytest.mark.parametrize("is_own", [True, False])
@pytest.mark.usefixtures("project")
def test_exported_detector_bears_the_name_of_the_run_that_exports_it(tmp_path: Path, is_own: bool) -> None:
    checkpoint = tmp_path / "checkpoint"
    weights = {"weight": torch.ones(2)}
    save_detector(checkpoint / BEST, weights, {"run": {"digest": "own" if is_own else "other", "epoch": 2}})
    write_json(checkpoint / ROWS, [{"epoch": 1}, {"epoch": 2}])
    assert export(checkpoint, digest="own") == ([{"epoch": 1}, {"epoch": 2}], 2)
    found, description = load_detector(MODEL)
    assert description["run"] == {"digest": "own", "epoch": 2}
    assert torch.equal(found["weight"], weights["weight"])
    assert (MODEL.read_bytes() == (checkpoint / BEST).read_bytes()) == is_own


def test_backbone_from_a_file_is_found_by_workers_elsewhere_and_is_part_of_the_run(project: Path) -> None:
    change("params.yaml", model__weights="weights/r18.pt")
    with pytest.raises(ValueError, match=r"model\.weights is 'weights/r18\.pt': no such file"):
        digest_training(*here())
    (project / "weights").mkdir()
    (project / "weights/r18.pt").write_bytes(b"first")
    first = digest_training(*here())
    (project / "weights/r18.pt").write_bytes(b"other")
    assert digest_training(*here()) != first
    config = worker_config(*here(), digest="d1", run="runs/d1")
    assert config.params.model.weights == str(project / "weights/r18.pt")
    assert config.description["model"]["weights"] == "weights/r18.pt"


@pytest.mark.usefixtures("project")
def test_training_from_scratch_has_no_weights() -> None:
    assert worker_config(*here(), digest="d1", run="runs/d1").params.model.weights is None


def test_paths_that_workers_get_do_not_depend_on_where_they_run(project: Path) -> None:
    data = worker_config(*here(), digest="d1", run="runs/d1").data
    assert data.train == str(project / "data/prepared/train.json")
    assert data.root == str(project / "data/prepared/images")
    change("conf/local.yaml", data_root="s3://bucket/pictures")
    assert worker_config(*here(), digest="d1", run="runs/d1").data.root == "s3://bucket/pictures"


def test_run_of_which_only_its_outputs_were_kept_gives_them_again_without_ray(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    params, runtime = here()
    digest, storage = digest_training(params, runtime), str(project / "runs")
    checkpoint = project / "runs" / digest / "checkpoint_000000009_1"
    save_detector(checkpoint / BEST, {"weight": torch.ones(2)}, {"run": {"digest": digest, "epoch": 2}})
    row = {"step": 3, "loss": 1.0, "loss_cls": 0.5, "loss_box": 0.5, "lr": 0.1, "images_per_s": 1.0, "seconds": 1.0}
    rows = [row | {"epoch": epoch, "AP": 0.5, "AP50": 0.5} for epoch in range(1, params.train.epochs + 1)]
    write_json(checkpoint / ROWS, rows)
    write_checksums(checkpoint)
    archive_run(storage, digest)
    shutil.rmtree(checkpoint)
    monkeypatch.setattr(cluster, "start_ray", lambda *arguments, **options: pytest.fail("Ray starts"))
    monkeypatch.setattr(stage, "open_run", lambda **options: nullcontext(NoopRun()))
    stage.run(params, runtime)
    assert MODEL.read_bytes() == (project / "runs" / digest / "finished" / BEST).read_bytes()
    report = json.loads(Path("reports/train.json").read_text())
    assert (report["run"], report["epochs"], report["best"]["epoch"]) == (digest, params.train.epochs, 2)


# ---- what it keeps and writes ----------------------------------------------------------------------------------------


def test_run_of_the_tracker_is_kept_as_soon_as_it_is_known(tmp_path: Path) -> None:
    run, folder = NoopRun(), RunFolder(str(tmp_path), "d1")
    sample_images = SampleImages(tmp_path / "val.json", root="", score_threshold=0.3)
    listener = Listener(run, folder, Progress(1), sample_images)  # type: ignore[arg-type]  # the silent twin
    listener.keep_run_id()
    assert folder.read(RUN_ID) is None  # the store has not answered yet
    run.run_id = "0123"
    row = {"epoch": 1, "loss": 1.0, "loss_cls": 0.5, "loss_box": 0.5, "seconds": 1.0, "images_per_s": 1.0}
    listener({"kind": "report", "is_partial": False, "history": [row]})
    assert folder.read(RUN_ID) == "0123"


@pytest.mark.usefixtures("project")
def test_report_tells_the_best_epoch_without_times() -> None:
    rows = [
        {"epoch": n, "loss": 1.0 / n, "AP": ap, "seconds": 1.0, "images_per_s": 2.0} for n, ap in ((1, 0.5), (2, 0.25))
    ]
    write_reports(rows, best=rows[0], digest="d1")
    report = json.loads(Path("reports/train.json").read_text())
    assert report == {"run": "d1", "epochs": 2, "best": {"epoch": 1, "loss": 1.0, "AP": 0.5}}


@pytest.mark.usefixtures("project")
def test_report_has_ap_on_training_pictures_beside_the_best_epoch_whose_weights_are_stored() -> None:
    rows: list[dict[str, Any]] = [
        {"epoch": 1, "loss": 1.0, "AP": 0.5, "per_class.a.b.AP": 0.5, "per_class.c.AP": None},
        {"epoch": 2, "loss": 0.5, "AP": 0.25, "per_class.a.b.AP": 0.25, "per_class.c.AP": None, "train_AP": 0.75},
    ]
    write_reports(rows, best=rows[0], digest="d1")
    best = json.loads(Path("reports/train.json").read_text())["best"]
    classes = {"a.b": {"AP": 0.5}, "c": {"AP": None}}
    assert best == {"epoch": 1, "loss": 1.0, "AP": 0.5, "train_AP": 0.75, "per_class": classes}
    assert Path("plots/training_classes.csv").read_text() == "epoch,class,AP\n1,a.b,0.5\n2,a.b,0.25\n"
