"""Laws of what MLflow holds of a training and its evaluation: one run, with all that tells it from another."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from pipeline.evaluate.report import read_history
from pipeline.tracking.model import models_of
from pipeline.tracking.store import connect, find_store

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore::DeprecationWarning")]
EPOCHS = 3
REPOSITORY = Path(__file__).parents[2]


@pytest.fixture
def client(tracked: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    for name in ("DVC_ROOT", "MLFLOW_TRACKING_URI", "MLFLOW_EXPERIMENT_NAME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.chdir(tracked)
    return connect(find_store())


def only_run(client: Any) -> Any:
    (run,) = client.search_runs([client.get_experiment_by_name("retinanet").experiment_id])
    return run


def curve(client: Any, key: str) -> list[tuple[int, float]]:
    points = client.get_metric_history(only_run(client).info.run_id, key)
    return sorted((point.step, point.value) for point in points)


def pictures(client: Any, key: str) -> Counter[int]:
    """Step -> number of pictures of the image grid."""
    names = [file.path for file in client.list_artifacts(only_run(client).info.run_id, "images")]
    beginning = f"images/{key.replace('/', '~')}+step+"
    steps = [int(name.removeprefix(beginning).split("+")[0]) for name in names if name.startswith(beginning)]
    return Counter({step: count // 2 for step, count in Counter(steps).items()})  # each with its thumbnail


def test_train_and_evaluate_are_one_run_with_its_curves(client: Any) -> None:
    run = only_run(client)
    assert run.info.status == "FINISHED"
    assert [step for step, _ in curve(client, "loss")] == [1, 2, 3]
    assert {"AP", "best.AP", "best.epoch", "test.AP"} <= set(run.data.metrics)
    assert run.data.params["loss.gamma"] == "2.0"


def test_best_is_the_highest_ap_so_far(client: Any) -> None:
    ap, best = ([value for _, value in curve(client, key)] for key in ("AP", "best.AP"))
    assert best == [max(ap[: epoch + 1]) for epoch in range(EPOCHS)]
    report = json.loads(Path("reports/train.json").read_text())
    assert only_run(client).data.metrics["best.AP"] == report["best"]["AP"]
    assert only_run(client).data.metrics["best.epoch"] == report["best"]["epoch"]


def test_every_epoch_has_its_rate_gradient_norm_and_ap_of_each_class(client: Any) -> None:
    rows = read_history(Path("plots/training.csv"))
    val = json.loads(Path("data/prepared/val.json").read_text())
    names = [category["name"] for category in val["categories"]]
    classes = [f"per_class.{name}.AP" for name in names]
    for key in ("lr", "grad_norm", "grad_norm_max", *classes):
        assert curve(client, key) == [(epoch, pytest.approx(row[key])) for epoch, row in enumerate(rows, start=1)], key
    for row in rows:
        assert 0 < (row["grad_norm"] or 0) <= (row["grad_norm_max"] or 0)
        assert row["AP"] == pytest.approx(sum(row[key] or 0 for key in classes) / len(classes))


def test_ap_on_training_pictures_is_one_point_and_in_the_report(client: Any) -> None:
    best = json.loads(Path("reports/train.json").read_text())["best"]
    assert curve(client, "train_AP") == [(EPOCHS, best["train_AP"])]
    assert 0 < best["train_AP"] < 1
    assert f"AP is {best['train_AP']:.2f} on training pictures" in Path("reports/evaluate.html").read_text()


def test_machine_is_sampled_while_it_trains(client: Any) -> None:
    metrics = only_run(client).data.metrics
    names = {"cpu_utilization_percentage", "system_memory_usage_megabytes", "disk_usage_percentage"}
    assert {f"system/{name}" for name in names} <= set(metrics)
    assert "system/network_receive_megabytes" in metrics
    steps = [step for step, _ in curve(client, "system/cpu_utilization_percentage")]
    assert steps == list(range(len(steps)))


def test_tags_say_on_what_it_ran(client: Any) -> None:
    tags = only_run(client).data.tags
    assert tags["ray.job_id"].isalnum()
    assert tags["ray.num_nodes"] == "1"
    assert tags["ray.nodes"].endswith("4 CPU") or "4 CPU," in tags["ray.nodes"]
    assert tags["hardware.cores"] == str(os.cpu_count())
    assert tags["hardware.memory"].endswith(" GiB")
    assert tags["hardware.cpu"]
    assert {"torch", "torchvision", "ray", "mlflow", "dvc", "python"} <= set(tags)
    assert tags["mlflow.source.name"] == "train"
    assert tags["mlflow.note.content"].startswith("**AP 0.")


def test_each_evaluated_epoch_has_one_sheet_of_the_same_pictures(client: Any) -> None:
    assert pictures(client, "val/detections") == {1: 1, 2: 1, 3: 1}


def test_run_holds_the_artifacts_that_the_document_names(client: Any) -> None:
    document = (REPOSITORY / "docs/tracking.md").read_text()
    (row,) = (line for line in document.splitlines() if line.startswith("| Artifacts |"))
    named = {name.rstrip("/") for name in re.findall(r"`([\w./]+)`", row)} - {"code/git.diff"}
    held = {file.path for file in client.list_artifacts(only_run(client).info.run_id)}
    assert len(named) > 8
    assert named <= held


def test_data_sets_tell_what_they_hold(client: Any) -> None:
    inputs = {given.dataset.name: given.dataset for given in only_run(client).inputs.dataset_inputs}
    assert set(inputs) == {"train", "val", "test"}
    profile = json.loads(inputs["train"].profile)
    assert profile["images"] == 24
    assert sum(profile["boxes_per_class"].values()) == profile["annotations"]
    assert profile["image_width"]["median"] == 64


def test_finished_training_that_runs_again_adds_neither_run_nor_model_nor_picture(
    client: Any, tracked: Path, ray_address: str, stage_variables: dict[str, str]
) -> None:
    variables = stage_variables | {"RAY_ADDRESS": ray_address, "RAY_AUTH_MODE": "disabled"}
    variables |= {"MLFLOW_ENABLE_SYSTEM_METRICS_LOGGING": "false"}
    system = curve(client, "system/cpu_utilization_percentage")
    (model,) = models_of(client, only_run(client))
    subprocess.run([sys.executable, "-m", "pipeline.train"], cwd=tracked, env=variables, check=True, timeout=500)
    assert [held.model_id for held in models_of(client, only_run(client))] == [model.model_id]
    assert pictures(client, "val/detections") == {1: 1, 2: 1, 3: 1}
    assert [step for step, _ in curve(client, "best.AP")] == [1, 2, 3]
    assert curve(client, "system/cpu_utilization_percentage") == system
