"""Laws of promotion: the champion of a name falls only to a model that a paired bootstrap finds better."""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import chdir
from pathlib import Path
from typing import Any

import pytest
import torch

from pipeline.evaluate.__main__ import main as evaluate
from pipeline.export.__main__ import main as export
from pipeline.export.promotion import check_same
from pipeline.reports.evaluated import EvaluatedSplit
from pipeline.runs.identity import BEST
from pipeline.tracking import open_existing_run
from pipeline.tracking.card import MAX_DESCRIPTION
from pipeline.tracking.registry import Version, fetch_weights
from pipeline.tracking.store import connect, find_store
from retinanet.inference.detector_file import load_detector, save_detector
from tests.judged_world import random_truth
from tests.servers import running_mlflow
from tests.settings import change
from tests.training import train_in_process

pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
]
EPOCHS = {"weak": 1, "strong": 15}


def tags_of(name: str, alias: str) -> dict[str, str]:
    tags: dict[str, str] = connect(find_store()).get_model_version_by_alias(name, alias).tags
    return tags


@pytest.fixture(scope="module")
def judged(prepared: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """Two trained detectors, evaluated on the pictures that they were trained on, as runs of a real MLflow server."""
    folder = tmp_path_factory.mktemp("promotion") / "project"
    shutil.copytree(prepared, folder)
    server = tempfile.mkdtemp(prefix="mlflow", dir=folder.parent)
    arguments = ["--backend-store-uri", f"sqlite:///{folder}/mlflow.db", "--artifacts-destination", server]
    with (
        pytest.MonkeyPatch.context() as patch,
        running_mlflow([*arguments, "--workers", "1"], folder=folder.parent, variables={}) as address,
        chdir(folder),
    ):
        for name in ("DVC_ROOT", "PIPELINE_CONF", "MLFLOW_EXPERIMENT_NAME"):
            patch.delenv(name, raising=False)
        patch.setenv("MLFLOW_TRACKING_URI", address)
        shutil.copyfile("data/prepared/train.json", "data/prepared/test.json")
        runs = {}
        for name, epochs in EPOCHS.items():
            change("params.yaml", train__epochs=epochs, train__evaluate_every=epochs)
            train_in_process(folder / name)
            weights, description = load_detector(folder / name / BEST)
            save_detector(
                Path("models/model.pt"), weights, description | {"run": description["run"] | {"digest": name}}
            )
            runs[name] = judge(name)
        yield runs


def keep_model(path: Path, name: str) -> None:
    """Make a detector models/model.pt, as of a run of this digest."""
    weights, description = load_detector(path)
    run = description["run"] | {"digest": name}
    save_detector(Path("models/model.pt"), weights, description | {"run": run})


def judge(name: str) -> str:
    """Evaluate models/model.pt and log it; the id of its MLflow run."""
    evaluate([])
    tags = {"data_hash": "0" * 64}
    with open_existing_run(run_id=None, digest=name, name=name, params={}, tags=tags) as run:
        run.log_model(Path("models/model.pt"), class_names=["disc", "square", "triangle"])
    shutil.copyfile("reports/evaluate.json", f"{name}.json")
    assert run.run_id is not None
    return run.run_id


def status(*arguments: str) -> int:
    """Exit status of the command export."""
    try:
        export(list(arguments))
    except SystemExit as end:
        return int(end.code or 0)
    return 0


@pytest.mark.slow
def test_better_model_replaces_the_champion_and_a_worse_one_challenges(
    judged: dict[str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    def register(name: str) -> int:
        return status("--register", "cells", "--run", judged[name], "--if-better")

    assert register("weak") == 0
    assert "champion: cells had no champion\nregistered cells version 1\n" in capsys.readouterr().out
    assert register("weak") == 0
    assert "champion: it is the champion already" in capsys.readouterr().out
    assert register("strong") == 0
    said = capsys.readouterr().out
    old, new = (json.loads(Path(f"{name}.json").read_text())["AP"] for name in ("weak", "strong"))
    assert f"champion: better than version 1 (AP {old:.3f} -> {new:.3f} on test, {new - old:+.3f}, 95 % +" in said
    assert tags_of("cells", "champion")["promotion.against"] == "1"

    export(["--register", "other", "--run", judged["strong"]])
    assert status("--register", "other", "--run", judged["weak"], "--if-better") == 3
    said = capsys.readouterr().out
    assert f"challenger: worse than version 1 (AP {new:.3f} -> {old:.3f} on test" in said
    assert tags_of("other", "champion")["run_digest"] == "strong"
    assert tags_of("other", "challenger")["run_digest"] == "weak"
    assert tags_of("other", "challenger")["promotion"].startswith("worse than version 1")


@pytest.mark.slow
def test_training_starts_from_a_model_in_mlflow_that_is_downloaded_once(
    judged: dict[str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    export(["--register", "start", "--run", judged["weak"]])
    weak, strong = (load_detector(Path(name) / BEST)[0] for name in ("weak", "strong"))
    for uri in ("models:/start@champion", "models:/start/1", f"runs:/{judged['weak']}/retinanet"):
        weights, _ = load_detector(fetch_weights(uri, tmp_path))
        assert all(torch.equal(weights[key], weak[key]) for key in weak)
    assert not all(torch.equal(weights[key], strong[key]) for key in strong)
    assert len(list(tmp_path.iterdir())) == 1
    said = capsys.readouterr().out
    assert said.count("downloading models:/") == 1  # the second URI of the same model finds the file
    with pytest.raises(ValueError, match=r"MLflow at .* has no detector models:/nobody@champion: "):
        fetch_weights("models:/nobody@champion", tmp_path)


@pytest.mark.slow
def test_tags_and_card_have_the_numbers_of_the_report(judged: dict[str, str], tmp_path: Path) -> None:
    export(["--register", "carded", "--run", judged["strong"], "--output", str(tmp_path / "exported")])
    report: dict[str, Any] = json.loads(Path("strong.json").read_text())
    client = connect(find_store())
    entry = client.get_model_version_by_alias("carded", "champion")
    card = (tmp_path / "exported/model_card.md").read_text()
    assert entry.description == card == (tmp_path / "exported/pyfunc/model_card.md").read_text()
    note = client.get_run(judged["strong"]).data.tags["mlflow.note.content"]
    assert note.startswith(f"{card}\n[Report of the evaluation](#/")
    assert card.startswith(f"**AP {report['AP']:.3f} (95 % ") and f", AP50 {report['AP50']:.3f} (95 %" in card
    assert entry.tags["working_point"] == "best F1 on val"
    for name, figures in report["per_class"].items():
        row = next(line for line in card.splitlines() if line.startswith(f"| {name} |")).split(" | ")
        low, high = (float(text) for text in row[2].split(" to "))
        assert row[1] == f"{figures['AP']:.3f}" and low <= figures["AP"] <= high
        assert row[3] == f"{figures['threshold']:.3f}"
        assert f"{name} {figures['threshold']:.3f}" in entry.tags["thresholds"].split(", ")
    for text in (
        "shapes, data/raw",
        "random weights",
        "resnet18",
        f"MLflow run {judged['strong']}",
        "24 images of test",
    ):
        assert text in card, text
    assert len(entry.description) <= MAX_DESCRIPTION


def test_models_of_other_splits_are_refused() -> None:
    champion = Version("3", "1234abcd", "m-1", {}, {})
    truth = random_truth(1)
    for edit, sentence in (
        ({"annotations": truth["annotations"][1:]}, r"the ground truth of test differs between the champion and this"),
        ({"images": truth["images"][1:]}, r"^this model \(B\) cannot be compared .* 1 images are only in A's split"),
        ({"categories": truth["categories"][1:]}, r"the classes are brick, leaf, pond in A and leaf, pond in B"),
    ):
        old, new = EvaluatedSplit(truth, [], None), EvaluatedSplit(truth | edit, [], None)
        with pytest.raises(ValueError, match=rf"{sentence}.*evaluate version 3 of cells on this split"):
            check_same(old, new, "test", "cells", champion)
        check_same(old, old, "test", "cells", champion)


def test_if_better_chooses_the_alias_itself() -> None:
    for arguments in (["--register", "cells", "--alias", "mine", "--if-better"], ["--output", "new", "--if-better"]):
        with pytest.raises(ValueError, match="--if-better chooses between the aliases champion and challenger"):
            export(arguments)
