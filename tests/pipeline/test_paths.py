"""Laws of paths and URLs in params.yaml and conf/: one reading, for every command, before anything starts."""

from __future__ import annotations

import ast
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from pipeline import cluster, prepare
from pipeline.compare.run import root_of
from pipeline.evaluate import detection
from pipeline.evaluate import run as evaluate
from pipeline.export import run as export
from pipeline.params import load_params, project_root
from pipeline.params.paths import outer_root, picture_root, resolve, storage_location
from pipeline.params.runtime import load_runtime
from pipeline.replay.run import load_step
from pipeline.sweep.__main__ import main as sweep
from pipeline.sweep.run import make_plan
from pipeline.tracking.provenance import git
from pipeline.tracking.store import find_store
from pipeline.train.__main__ import main as train
from pipeline.worker_config import initial_weights, worker_config
from tests.settings import change

PIPELINE = Path(__file__).parents[2] / "pipeline"
NAMES = st.text("abc._- @%\u00e9", min_size=1, max_size=6).filter(lambda name: name.strip(". ") == name)


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home of the user that runs the commands."""
    folder = tmp_path / "home of me"
    folder.mkdir()
    monkeypatch.setenv("HOME", str(folder))
    return folder


# ---- the reading -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("location", "absolute"),
    [
        ("runs", "/base/runs"),
        ("./runs/a", "/base/runs/a"),
        ("/data/runs", "/data/runs"),
        ("~/runs", "/people/me/runs"),
        ("~", "/people/me"),
        ("a/~/b", "/base/a/~/b"),
        ("./~", "/base/~"),
        ("file:///data/a%20b", "/data/a b"),
        ("local:///data", "/data"),
        ("file:/data", "/data"),
        ("s3://bucket/runs", "s3://bucket/runs"),
        ("https://host:8080/~me/a", "https://host:8080/~me/a"),
        ("memory://cells", "memory://cells"),
    ],
)
def test_location_is_an_absolute_path_or_a_url(location: str, absolute: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/people/me")
    assert resolve(location, Path("/base"), name="storage") == absolute


@given(parts=st.lists(NAMES, min_size=1, max_size=3))
def test_a_folder_is_the_same_however_it_is_written(parts: list[str]) -> None:
    path = "/people/me/" + "/".join(parts)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HOME", "/people/me")
        ways = [path, "~/" + "/".join(parts), "./" + "/".join(parts), Path(path).as_uri()]
        found = {resolve(way, Path("/people/me"), name="storage") for way in ways}
    assert found == {path}


@pytest.mark.parametrize(
    ("location", "sentence"),
    [
        (
            "~nobody.of.that.name/runs",
            r"storage is ~nobody\.of.*no user nobody\.of\.that\.name; write an absolute path",
        ),
        ("file://runs", r"storage is file://runs, expected an absolute path after file://"),
        ("file:runs", r"storage is file:runs, expected an absolute path after file://"),
    ],
)
def test_location_that_means_no_folder_is_told(location: str, sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        resolve(location, Path("/base"), name="storage")


def test_nobody_else_reads_a_path_of_params_or_conf() -> None:
    """The law that keeps a second reading out: only pipeline/params turns these texts into a path."""
    readers = [
        f"{path.relative_to(PIPELINE)}:{node.lineno}"
        for path in PIPELINE.rglob("*.py")
        if path.parent.name != "params"
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Attribute)
        and isinstance(node.value, ast.Name | ast.Attribute)
        and (getattr(node.value, "id", None) or getattr(node.value, "attr", None)) in ("runtime", "plan")
        and node.attr in ("storage", "data_root")
    ]
    assert readers == []


# ---- where the project is --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("root", "outer"),
    [
        ("/a/b", "/a/b"),
        ("/a/b/.dvc/tmp/exps/standalone/tmp1", "/a/b"),
        ("/a/b/.dvc/tmp/exps/tmp1", "/a/b"),
        ("/a/.dvc/tmp/b", "/a/.dvc/tmp/b"),
        ("/", "/"),
    ],
)
def test_outer_root_of_a_dvc_experiment_is_the_repository(root: str, outer: str) -> None:
    assert outer_root(Path(root)) == Path(outer)


@pytest.mark.parametrize("copy", ["standalone/tmp1", "tmp1"])
@pytest.mark.parametrize("below", [".", "cells", "teams/cells"])
def test_project_below_the_root_of_a_dvc_repository_is_found_in_a_copy_too(
    copy: str, below: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    repository = tmp_path / "repository"
    aside = repository / ".dvc/tmp/exps" / copy
    for root in (repository, aside):
        (root / ".dvc").mkdir(parents=True, exist_ok=True)
        (root / below).mkdir(parents=True, exist_ok=True)
        (root / below / "params.yaml").write_text("seed: 1\n")
    monkeypatch.setenv("DVC_ROOT", str(repository))  # what DVC sets in both cases
    for root in (repository, aside):
        monkeypatch.chdir(root / below)
        assert project_root() == root / below
        assert outer_root(project_root()) == repository / below
        assert find_store().uri == f"sqlite:///{repository / below}/mlflow.db"


def test_copy_has_its_own_pictures_before_those_of_the_project(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`dvc exp run --temp -S data.shapes.noise=20` must not train on the pictures of the workspace."""
    aside = project / ".dvc/tmp/exps/standalone/tmp1"
    shutil.copytree(project, aside, ignore=shutil.ignore_patterns(".dvc"))
    (project / "weights.pt").write_bytes(b"weights")  # git ignores it, so the copy lacks it
    (project / "data/mine").mkdir()
    monkeypatch.setenv("DVC_ROOT", str(project))
    monkeypatch.chdir(aside)
    assert worker_config(load_params(), load_runtime(), digest="d", run="").data.root == str(
        aside / "data/prepared/images"
    )
    assert picture_root("data/mine") == str(project / "data/mine")
    assert picture_root("data/none") == str(aside / "data/none")
    assert storage_location(load_runtime()) == str(project / "runs")
    change("params.yaml", model__weights="weights.pt", model__norm="frozen_batch")
    assert initial_weights(load_params(), load_runtime()) == project / "weights.pt"


def test_tags_of_a_project_below_the_root_are_of_its_own_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "cells").mkdir()
    (tmp_path / "cells/params.yaml").write_text("seed: 1\n")
    monkeypatch.setenv("DVC_ROOT", str(tmp_path))
    monkeypatch.chdir(tmp_path / "cells")
    git("init", "-q", str(tmp_path))
    assert git("rev-parse", "--show-prefix") == "cells/"


# ---- every command ---------------------------------------------------------------------------------------------------


@pytest.fixture
def own_data(project: Path, home: Path) -> Path:
    """A COCO data set in the user's home, named with ~; and a conf/ whose storage is there."""
    folder = home / "mine"
    folder.mkdir()
    Image.new("RGB", (64, 48)).save(folder / "a.png")
    content = {
        "images": [{"id": 1, "file_name": "a.png", "width": 64, "height": 48}],
        "annotations": [{"id": 1, "image_id": 1, "category_id": 1, "bbox": [1, 2, 30, 40]}],
        "categories": [{"id": 1, "name": "cell"}],
    }
    (folder / "a.json").write_text(json.dumps(content))
    split = {"annotations": "a.json", "images": "."}
    change("params.yaml", data__format="coco", data__root="~/mine", data__classes=None)
    change("params.yaml", **{f"data__{name}": split for name in ("train", "val", "test")})
    change("conf/local.yaml", storage="~/runs")
    (project / "conf/sweep.yaml").write_text((project / "conf/local.yaml").read_text())
    return folder


def file_url(folder: Path) -> str:
    return folder.as_uri()


@pytest.mark.parametrize("spelt", ["~/mine", "file", "absolute"])
def test_prepare_reads_a_root_as_train_and_evaluate_and_compare_do(spelt: str, own_data: Path) -> None:
    written = {"file": own_data.as_uri(), "absolute": str(own_data)}.get(spelt, spelt)
    change("params.yaml", data__root=written)
    prepare.main([])
    truth = json.loads(Path("data/prepared/val.json").read_text())
    assert truth["info"]["root"] == written  # as written, so that its bytes are the same for every user
    assert len(truth["images"]) == 1
    assert worker_config(load_params(), load_runtime(), digest="d", run="").data.root == str(own_data)
    assert picture_root(truth["info"]["root"], load_runtime()) == str(own_data)
    assert root_of(truth, None) == str(own_data)
    assert root_of(truth, "~/mine") == str(own_data)


def test_train_sweep_and_export_take_the_storage_from_the_home(
    own_data: Path, home: Path, project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    prepare.main([])
    params, runtime = load_params(), load_runtime()
    assert storage_location(runtime) == str(home / "runs")
    assert params.sweep is not None
    assert make_plan(params, params.sweep, runtime).folder.url.startswith(f"{home}/runs/sweeps/")
    with pytest.raises(ValueError, match=rf"there is no sweep in {home}/runs"):
        sweep(["status"])
    monkeypatch.setattr(export, "load_detector", lambda path: (None, {"run": {"digest": "d1"}}))
    monkeypatch.setattr(export, "find_run", lambda tag, value: None)
    with pytest.raises(
        ValueError, match=rf"comes from run d1, but neither {home}/runs/d1 nor MLflow names its MLflow run"
    ):
        export.model_of_file(export.MODEL)
    assert not (project / "~").exists()


def test_replay_reads_a_file_in_the_home(home: Path) -> None:
    (home / "not_finite.pt").write_bytes(b"")
    with pytest.raises(ValueError, match=r"^~/not_finite\.pt cannot be read"):
        load_step("~/not_finite.pt")
    with pytest.raises(ValueError, match=r"^~/other\.pt does not exist"):
        load_step("~/other.pt")


@pytest.mark.parametrize("command", ["train", "sweep", "evaluate"])
def test_pictures_that_are_nowhere_are_told_before_anything_starts(
    command: str, own_data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    prepare.main([])
    own_data.rename(own_data.with_name("moved"))
    begins_nothing(monkeypatch)
    with pytest.raises(ValueError, match=rf"the image folder {own_data} does not exist; set data_root in conf/"):
        run_command(command, monkeypatch)


def begins_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ray and the detection on pictures fail the test."""
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setattr(cluster, "start_ray", lambda *arguments, **options: pytest.fail("Ray starts"))
    monkeypatch.setattr(detection, "detect", lambda *arguments, **options: pytest.fail("detection starts"))


def run_command(command: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A command up to the point where it would begin."""
    if command == "train":
        train([])
    elif command == "sweep":
        sweep(["run"])
    else:
        evaluate.run(load_params(), load_runtime())


# ---- what params.yaml and conf/ say only together --------------------------------------------------------------------


@pytest.mark.parametrize("command", ["train", "sweep"])
@pytest.mark.usefixtures("project")
def test_synchronised_norm_on_cpus_is_refused_before_anything_starts(
    command: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    change("params.yaml", model__norm="sync_batch")
    Path("conf/sweep.yaml").write_text(Path("conf/local.yaml").read_text())
    begins_nothing(monkeypatch)
    with pytest.raises(
        ValueError, match=r"^model\.norm is sync_batch, which torch computes on GPUs only, but gpus_per"
    ):
        run_command(command, monkeypatch)


@pytest.mark.parametrize("where", ["space", "points", "fixed"])
@pytest.mark.usefixtures("project")
def test_synchronised_norm_in_a_sweep_on_cpus_is_refused_before_anything_starts(
    where: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    entries: dict[str, Any] = {
        "space": {"model.norm": {"choice": ["group", "sync_batch"]}},
        "points": [{"model.norm": "sync_batch"}],
        "fixed": {"model.norm": "sync_batch"},
    }
    change("params.yaml", **{f"sweep__{where}": entries[where]})
    Path("conf/sweep.yaml").write_text(Path("conf/local.yaml").read_text())
    begins_nothing(monkeypatch)
    with pytest.raises(ValueError, match=r"model\.norm is sync_batch, which torch computes on GPUs only"):
        sweep(["run"])
