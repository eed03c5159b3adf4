"""Own data under DVC, as docs/data.md tells it: add, push, clone, pull, reproduce, and experiments from a queue."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from tests.coco_data import write_coco
from tests.test_experiment import ROOT, TINY, Experiment, copy_house

pytestmark = pytest.mark.slow

DATA = "data/raw/mine"
PATIENCE_S = 900  # a busy machine takes 300


def own_data(folder: Path) -> Experiment:
    """A repository with a data set of its own, committed; git does not see the pictures."""
    experiment = Experiment(folder / "house")
    copy_house(experiment.root)
    for section, values in (TINY | {"evaluate": {"pictures": 4, "split": "val"}}).items():
        experiment.change(section, **values)
    splits = {split: {"annotations": f"{split}.json", "images": split} for split in ("train", "val")}
    experiment.change("data", format="coco", root=DATA, test=None, **splits)
    runtime = yaml.safe_load((ROOT / "conf/local.yaml").read_text()) | {
        "workers": 1,
        "cpus_per_worker": 1,
        "precision": "fp32",
    }
    (experiment.root / "conf/local.yaml").write_text(yaml.safe_dump(runtime))
    for split, num_images in {"train": 16, "val": 8}.items():
        write_coco(experiment.root / DATA, split=split, num_images=num_images)
    experiment.run("git", "init", "-q", "-b", "main")
    experiment.run("git", "add", ".")
    experiment.run("git", "commit", "-q", "-m", "tiny")
    return experiment


@pytest.fixture(scope="module")
def added(tmp_path_factory: pytest.TempPathFactory) -> Experiment:
    """After `dvc add`, `dvc repro`, `dvc push` and `git push`."""
    folder = tmp_path_factory.mktemp("versioned")
    experiment = own_data(folder)
    experiment.run("git", "init", "-q", "--bare", "-b", "main", str(folder / "origin"))
    experiment.run("git", "remote", "add", "origin", str(folder / "origin"))
    experiment.dvc("add", DATA)
    experiment.dvc("remote", "add", "--default", "team", str(folder / "team"))
    experiment.dvc("repro")
    experiment.run("git", "add", ".")
    experiment.run("git", "commit", "-q", "-m", "results")
    experiment.dvc("push")
    experiment.run("git", "push", "-q", "origin", "main")
    return experiment


@pytest.fixture(scope="module")
def clone(added: Experiment) -> Experiment:
    """Another's clone, after `dvc pull`."""
    clone = Experiment(added.root.parent / "clone")
    added.run("git", "clone", "-q", str(added.root.parent / "origin"), str(clone.root))
    clone.dvc("pull")
    return clone


def test_git_holds_the_pointer_and_no_picture(added: Experiment) -> None:
    held = added.run("git", "ls-files", "data").split()
    assert held == [
        "data/manifest.json",
        "data/raw/.gitignore",
        f"{DATA}.dvc",
        "data/splits.json",
        "data/weights.json",
    ]


def test_clone_has_everything_and_reproduces_nothing(clone: Experiment) -> None:
    assert len(list((clone.root / DATA).rglob("*.png"))) == 24
    printed = clone.dvc("repro")
    assert f"{DATA}: 26 files, none has changed" in printed
    assert printed.count("Running stage") == printed.count("Running stage 'manifest'") == 1
    assert printed.count("didn't change, skipping") == 4
    assert clone.run("git", "status", "--porcelain") == ""


def test_prepared_data_stand_where_the_raw_data_are_not_pulled(added: Experiment) -> None:
    trainer = Experiment(added.root.parent / "trainer")
    added.run("git", "clone", "-q", str(added.root.parent / "origin"), str(trainer.root))
    trainer.dvc("pull", "prepare", "anchor_stats", "train")
    printed = trainer.dvc("repro", "train")
    assert f"{DATA} is not on this machine" in printed
    assert printed.count("didn't change, skipping") == 3


@pytest.fixture(scope="module")
def queued(clone: Experiment) -> Iterator[Experiment]:
    """After `dvc exp run --queue`, `dvc queue start` and, when all is done, `dvc exp apply`."""
    clone.dvc("exp", "run", "--queue", "-n", "gentle", "-S", "loss.gamma=1.5")
    clone.dvc("queue", "start")
    deadline = time.monotonic() + PATIENCE_S
    while (state := clone.dvc("queue", "status")) and "gentle" in state and time.monotonic() < deadline:
        if any(word in state for word in ("Success", "Failed")):
            break
        time.sleep(2)
    assert "Success" in state, state + clone.dvc("queue", "logs", "gentle")
    clone.dvc("exp", "apply", "gentle")
    yield clone
    clone.dvc("queue", "stop", "--kill")


def test_queued_experiment_has_the_data_and_is_applied(queued: Experiment) -> None:
    assert yaml.safe_load((queued.root / "params.yaml").read_text())["loss"]["gamma"] == 1.5
    lock = yaml.safe_load((queued.root / "dvc.lock").read_text())
    assert lock["stages"]["train"]["params"]["params.yaml"]["loss"]["gamma"] == 1.5
    assert json.loads((queued.root / "data/manifest.json").read_text())["root"] == DATA


def test_queued_experiment_keeps_its_records_in_the_repository(queued: Experiment) -> None:
    """And not in the folder in which DVC ran it, which goes."""
    assert queued.query("select value from tags where key = 'dvc.exp_name'") == [("gentle",)]
    ((digest,),) = queued.query("select value from tags where key = 'run_digest'")
    assert (queued.root / "runs" / digest).is_dir()
    assert [str(path) for name in ("mlflow.db", "runs") for path in (queued.root / ".dvc/tmp").rglob(name)] == []


def test_experiment_is_pushed_to_the_git_remote(queued: Experiment) -> None:
    queued.dvc("exp", "push", "origin", "gentle")
    refs = queued.run("git", "ls-remote", "origin", "refs/exps/*").split()
    assert [ref.rpartition("/")[2] for ref in refs if ref.startswith("refs/exps/")] == ["gentle"]
    lock = yaml.safe_load((queued.root / "dvc.lock").read_text())
    (model,) = lock["stages"]["train"]["outs"][:1]
    assert model["path"] == "models/model.pt"
    assert (queued.root.parent / "team/files/md5" / model["md5"][:2] / model["md5"][2:]).exists()


@pytest.mark.parametrize("kind", ["copy", "hardlink"])
def test_data_that_dvc_links_or_copies_are_read(clone: Experiment, kind: str) -> None:
    clone.dvc("config", "--local", "cache.type", kind)
    clone.dvc("checkout", "--relink", f"{DATA}.dvc")
    clone.dvc("repro", "-s", "-f", "prepare")
    assert len(json.loads((clone.root / "data/prepared/train.json").read_text())["images"]) == 16


def test_symbolic_links_of_dvc_are_refused_with_what_to_do(clone: Experiment) -> None:
    clone.dvc("config", "--local", "cache.type", "symlink")
    clone.dvc("checkout", "--relink", f"{DATA}.dvc")
    printed = clone.run("python", "-m", "pipeline.prepare", status=1)
    clone.dvc("config", "--local", "--unset", "cache.type")
    clone.dvc("checkout", "--relink", f"{DATA}.dvc")
    assert "a link to" in printed and "copy or hard-link the file" in printed
    assert "Traceback" not in printed
