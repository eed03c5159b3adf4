"""The whole experiment as its users run it: git, DVC, Ray on this machine and MLflow, on a tiny world."""

from __future__ import annotations

import json
import os
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parents[1]
STAGES = ("prepare", "anchor_stats", "train", "evaluate")
# What a clone holds, as far as a run needs it: neither results nor tests.
TREE = ("retinanet", "pipeline", "conf", "dvc.yaml", "params.yaml", ".gitignore", ".dvcignore", "data/raw/.gitignore")
TREE += (".dvc/config", ".dvc/plots", ".dvc/.gitignore")
TINY: dict[str, dict[str, Any]] = {
    "transforms": {"short_side": 64, "long_side": 64, "horizontal_flip": 0.5},
    "anchors": {"base_scale": 3.0},
    "matcher": {"foreground_iou": 0.5},
    "loss": {"gamma": 2.0},
    "postprocess": {"nms_iou": 0.5},
    "model": {"fpn_channels": 16, "head_channels": 16, "head_depth": 1, "prior": 0.2},
    "train": {"batch_size": 8, "epochs": 1, "evaluate_every": 1},
    "evaluate": {"pictures": 4, "resamples": 10, "split": "test"},
}
SHAPES = {"train": 24, "val": 8, "test": 8, "image_size": 64, "max_objects": 3, "min_size": 16, "max_size": 48}
OUTSIDE = ("MLFLOW_TRACKING_URI", "MLFLOW_EXPERIMENT_NAME", "RAY_ADDRESS", "PIPELINE_CONF", "DVC_ROOT", "PYTHONPATH")


class Experiment:
    """A repository of git and DVC with a copy of the house in it."""

    def __init__(self, root: Path) -> None:
        self.root = root
        kept = {key: value for key, value in os.environ.items() if key not in OUTSIDE}
        who = {f"GIT_{role}_{key}": "a@b" for role in ("AUTHOR", "COMMITTER") for key in ("NAME", "EMAIL")}
        self.environment = (
            kept
            | who
            | {
                "PATH": f"{Path(sys.executable).parent}{os.pathsep}{kept['PATH']}",  # as in the Makefile
                "OMP_NUM_THREADS": "1",
                "DVC_NO_ANALYTICS": "1",
                "RAY_AUTH_MODE": "disabled",
                "RAY_TMPDIR": "/tmp",  # a socket's path has at most 107 bytes
            }
        )

    def run(self, *command: str, status: int = 0) -> str:
        """What a command prints, standard error included."""
        pipes: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
        done = subprocess.run(command, cwd=self.root, env=self.environment, check=False, **pipes)
        assert done.returncode == status, f"{command} ended with {done.returncode}\n{done.stdout}"
        return str(done.stdout)

    def dvc(self, *arguments: str, status: int = 0) -> str:
        return self.run(sys.executable, "-m", "dvc", *arguments, status=status)

    def change(self, section: str, **values: Any) -> None:
        content = yaml.safe_load((self.root / "params.yaml").read_text())
        content[section] |= values
        (self.root / "params.yaml").write_text(yaml.safe_dump(content, sort_keys=False))

    def changed_stages(self) -> set[str]:
        """Those that `dvc repro` would run for their own sake; what follows from their outs is not known before."""
        return set(json.loads(self.dvc("status", "--json"))) - {"manifest"}  # which looks at the data each time

    def would_run(self) -> list[str]:
        """The stages that a dry run names, in their order."""
        printed = self.dvc("repro", "--dry")
        return [stage for stage in STAGES if f"Running stage '{stage}'" in printed]

    def query(self, sql: str) -> list[tuple[Any, ...]]:
        """Ask MLflow's database."""
        connection = sqlite3.connect(self.root / "mlflow.db")
        try:
            return connection.execute(sql).fetchall()
        finally:
            connection.close()

    def report(self, name: str) -> dict[str, Any]:
        content: dict[str, Any] = json.loads((self.root / f"reports/{name}.json").read_text())
        return content


def copy_house(root: Path) -> None:
    for name in TREE:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, root / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(ROOT / name, root / name)


@pytest.fixture(scope="module")
def fresh(tmp_path_factory: pytest.TempPathFactory) -> Experiment:
    """Committed, nothing run."""
    experiment = Experiment(tmp_path_factory.mktemp("experiment"))
    copy_house(experiment.root)
    for section, values in TINY.items():
        experiment.change(section, **values)
    experiment.change("data", shapes=yaml.safe_load((ROOT / "params.yaml").read_text())["data"]["shapes"] | SHAPES)
    runtime = yaml.safe_load((ROOT / "conf/local.yaml").read_text()) | {
        "workers": 1,
        "cpus_per_worker": 1,
        "precision": "fp32",
    }
    (experiment.root / "conf/local.yaml").write_text(yaml.safe_dump(runtime))
    experiment.run("git", "init", "-q", "-b", "main")
    experiment.run("git", "add", ".")
    experiment.run("git", "commit", "-q", "-m", "tiny")
    return experiment


@pytest.fixture(scope="module")
def done(fresh: Experiment) -> Experiment:
    """After one `dvc repro`, committed."""
    fresh.dvc("repro")
    fresh.run("git", "add", ".")
    fresh.run("git", "commit", "-q", "-m", "results")
    return fresh


@pytest.fixture
def experiment(done: Experiment) -> Experiment:
    """As after the first `dvc repro`, whatever the test before has changed; to look at."""
    # DVC stages what it writes (core.autostage), so the index is no place to come back to.
    done.run("git", "reset", "-q", "--hard")
    return done


@pytest.fixture
def experiment_to_run(experiment: Experiment) -> Iterator[Experiment]:
    """As `experiment`, and its outs are put back afterwards."""
    yield experiment
    experiment.run("git", "reset", "-q", "--hard")
    experiment.dvc("checkout")


def test_wrong_key_stops_before_any_work_with_the_right_one(fresh: Experiment) -> None:
    fresh.change("loss", gama=1.0)
    printed = fresh.dvc("repro", status=255)
    fresh.run("git", "checkout", "-q", "--", "params.yaml")
    assert "loss.gama is not a parameter; did you mean loss.gamma?" in printed
    assert "Traceback" not in printed
    assert not (fresh.root / "data/prepared/train.json").exists()


def test_repro_makes_every_out_and_leaves_the_large_ones_to_dvc(experiment: Experiment) -> None:
    outs = ["data/prepared/train.json", "anchors.json", "models/model.pt", "plots/training.csv", "plots/training.png"]
    outs += ["plots/anchors.png", "plots/precision_recall.csv", "plots/precision_recall.png", "plots/detections.png"]
    outs += ["plots/training_classes.csv"]
    for name in ("thresholds", "errors", "calibration"):
        outs += [f"plots/{name}.csv", f"plots/{name}.png"]
    outs += ["plots/confusion.png", "reports/confusion.csv", "reports/label_mistakes.csv", "reports/speed.json"]
    outs += ["reports/detections.json.gz", "reports/evaluate.html", *(f"reports/{stage}.json" for stage in STAGES)]
    assert [out for out in outs if not (experiment.root / out).exists()] == []
    assert experiment.report("train")["epochs"] == 1
    assert experiment.report("evaluate")["AR100"] > 0
    assert experiment.run("git", "ls-files", "data/prepared", "models", "plots/*.png", "*.gz") == ""
    # All is ignored before DVC would have to write it into a .gitignore of its own.
    ignoring = experiment.run("git", "ls-files", "*.gitignore").split()
    assert ignoring == [".dvc/.gitignore", ".gitignore", "data/raw/.gitignore"]


def test_second_repro_does_nothing(experiment: Experiment) -> None:
    printed = experiment.dvc("repro")
    assert printed.count("Running stage") == printed.count("Running stage 'manifest'") == 1  # it looks at the data
    assert printed.count("didn't change, skipping") == len(STAGES)
    assert experiment.run("git", "status", "--porcelain") == ""


@pytest.mark.parametrize(
    ("section", "key", "value", "stages"),
    [
        # evaluate's page shows the parameters of the training.
        ("loss", "gamma", 1.5, {"train", "evaluate"}),
        ("matcher", "foreground_iou", 0.6, {"anchor_stats", "train", "evaluate"}),
        ("transforms", "horizontal_flip", 0.0, {"anchor_stats", "train", "evaluate"}),
        ("postprocess", "nms_iou", 0.6, {"evaluate"}),
        ("postprocess", "calibrate", True, {"evaluate"}),
        ("evaluate", "split", "val", {"evaluate"}),
        ("evaluate", "working_point", {"precision": 0.9}, {"evaluate"}),
        ("anchors", "base_scale", 3.5, {"anchor_stats", "evaluate"}),
        ("anchors", "mode", "fitted", {"anchor_stats", "evaluate"}),
        ("train", "epochs", 2, {"train", "evaluate"}),
    ],
)
def test_parameter_touches_the_stages_that_read_it(
    experiment: Experiment, section: str, key: str, value: object, stages: set[str]
) -> None:
    experiment.change(section, **{key: value})
    assert experiment.changed_stages() == stages


def test_evaluation_of_another_split_trains_nothing(experiment_to_run: Experiment) -> None:
    experiment = experiment_to_run
    experiment.change("evaluate", split="val")
    assert experiment.would_run() == ["evaluate"]
    experiment.dvc("repro")
    assert experiment.changed_stages() == set()
    assert experiment.query("select count(*) from runs") == [(1,)]
    names = {name for (name,) in experiment.query("select distinct key from metrics")}
    assert {"val.AP", "test.AP"} <= names


def test_place_touches_no_stage(experiment: Experiment) -> None:
    runtime = yaml.safe_load((experiment.root / "conf/local.yaml").read_text()) | {"workers": 2, "cache_images": False}
    (experiment.root / "conf/local.yaml").write_text(yaml.safe_dump(runtime))
    assert experiment.changed_stages() == set()


@pytest.mark.parametrize(
    ("room", "stages"),
    [
        ("retinanet/losses/sigmoid.py", {"train"}),
        ("retinanet/network/model.py", {"train", "evaluate"}),
        ("retinanet/training/optim.py", {"train"}),
        ("pipeline/formats/shapes.py", {"prepare"}),
        ("pipeline/reports/pictures.py", {"train", "evaluate"}),
        ("pipeline/compare/report.py", set()),
        ("pipeline/tracking/run.py", set()),
        ("pipeline/params/reading.py", set()),
    ],
)
def test_changed_code_touches_the_stages_that_enter_it(experiment: Experiment, room: str, stages: set[str]) -> None:
    with (experiment.root / room).open("a") as file:
        file.write("\n# changed\n")
    assert experiment.changed_stages() == stages


def test_mlflow_has_one_run_that_can_be_traced(experiment: Experiment) -> None:
    ((run_id, status),) = experiment.query("select run_uuid, status from runs")
    assert status == "FINISHED"
    params = dict(experiment.query("select key, value from params"))
    assert (params["loss.gamma"], params["data.shapes.train"], params["conf.workers"]) == ("2.0", "24", "1")
    metrics = dict(experiment.query("select key, value from latest_metrics"))
    assert metrics["test.AR100"] == pytest.approx(experiment.report("evaluate")["AR100"])
    assert metrics["loss"] == pytest.approx(experiment.report("train")["best"]["loss"])
    tags = dict(experiment.query("select key, value from tags"))
    first = experiment.run("git", "rev-list", "--max-parents=0", "HEAD").strip()
    assert (tags["git.commit"], tags["git.dirty"]) == (first, "false")
    assert tags["reproduce"] == f"git checkout {first} && dvc repro"
    assert tags["run_digest"] == experiment.report("train")["run"]
    files = {path.name for path in (experiment.root / "mlartifacts").rglob(f"{run_id}/artifacts/*")}
    logged = {"params.yaml", "anchors.json", "train.json", "training.png", "evaluate.json", "precision_recall.png"}
    assert logged | {"thresholds.png", "errors.png", "confusion.csv", "speed.json"} <= files
    assert {"anchors.png", "detections.png", "judged"} <= files
    assert experiment.query("select count(*) from logged_models where status = 'READY' or status = 2") == [(1,)]


@pytest.fixture(scope="module")
def varied(done: Experiment) -> Experiment:
    """After `dvc exp run -S loss.gamma=1.5`."""
    done.run("git", "reset", "-q", "--hard")
    done.dvc("exp", "run", "-n", "gentle", "-S", "loss.gamma=1.5")
    return done


def test_variation_is_one_command(varied: Experiment) -> None:
    shown = json.loads(varied.dvc("exp", "show", "--json"))
    names = {experiment["name"] for row in shown for experiment in row["experiments"] or []}
    assert names == {"gentle"}
    changed = json.loads(varied.dvc("metrics", "diff", "--json"))
    assert "best.loss" in changed["reports/train.json"]
    differing = json.loads(varied.dvc("params", "diff", "--json"))
    assert differing["params.yaml"] == {"loss.gamma": {"old": 2.0, "new": 1.5, "diff": -0.5}}


def test_variation_has_a_run_of_its_own_under_the_name_of_the_experiment(varied: Experiment) -> None:
    runs = varied.query("select run_uuid from tags where key = 'dvc.exp_name' and value = 'gentle'")
    assert len(runs) == 1
    (gamma,) = varied.query(f"select value from params where key = 'loss.gamma' and run_uuid = '{runs[0][0]}'")
    assert gamma == ("1.5",)
    (command,) = varied.query(f"select value from tags where key = 'reproduce' and run_uuid = '{runs[0][0]}'")
    assert command[0].endswith("dvc exp run -S loss.gamma=1.5")


def test_plots_are_shown_as_a_page(varied: Experiment) -> None:
    page = varied.root / "dvc_plots/index.html"
    varied.dvc("plots", "show")
    assert "precision_recall.csv" in page.read_text()
    assert all(f'"text": "{title}"' in page.read_text() for title in ("Learning rate", "AP of each class on val"))
    assert list(page.parent.rglob("*detections.png"))
    shutil.rmtree(page.parent)
