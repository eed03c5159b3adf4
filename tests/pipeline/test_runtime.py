"""Laws of conf/: where and with how much the stages run; a mistake is one sentence with file, key and the nearest."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from pipeline.params import load_params
from pipeline.params.conflicts import conflict
from pipeline.params.runtime import load_runtime

REPOSITORY = Path(__file__).parents[2]


@pytest.mark.parametrize("name", ["local", "gpu", "sweep", "cluster", "slurm"])
def test_shipped_places_load(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    path = REPOSITORY / f"conf/{name}.yaml"
    monkeypatch.setenv("PIPELINE_CONF", str(path))
    assert load_runtime().model_dump() == yaml.safe_load(path.read_text())


def test_conf_that_does_not_exist_is_told_with_those_that_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(REPOSITORY)
    monkeypatch.setenv("PIPELINE_CONF", "conf/gpus.yaml")
    with pytest.raises(
        ValueError,
        match=r"^conf/gpus\.yaml, which PIPELINE_CONF names, does not exist; .*conf/cluster\.yaml, conf/gpu\.yaml",
    ):
        load_runtime()


def test_missing_conf_blames_no_variable_that_is_not_set(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("PIPELINE_CONF", raising=False)
    with pytest.raises(ValueError, match=r"^conf/local\.yaml does not exist; available in conf/: none "):
        load_runtime()


@pytest.mark.parametrize(
    ("key", "value", "sentence"),
    [
        ("workers", 0, "workers is 0: "),
        ("worker", 1, "worker is not a parameter; did you mean workers?"),
        ("precision", "fp8", "precision is 'fp8': .*did you mean fp"),
        ("precision", "tf32", "precision is tf32, which a GPU computes, but gpus_per_worker is 0; use fp32"),
        ("backend", "nccl", "backend is nccl, but gpus_per_worker is 0; use gloo"),
        ("cuda_graphs", True, "cuda_graphs is true, but gpus_per_worker is 0; use false"),
        ("max_failures", -1, "max_failures is -1: "),
    ],
)
def test_mistake_in_conf_is_told(
    key: str, value: object, sentence: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    content = yaml.safe_load((REPOSITORY / "conf/local.yaml").read_text()) | {key: value}
    (tmp_path / "mine.yaml").write_text(yaml.safe_dump(content))
    monkeypatch.setenv("PIPELINE_CONF", str(tmp_path / "mine.yaml"))
    with pytest.raises(ValueError, match=rf"mine\.yaml: {sentence}"):
        load_runtime()


@pytest.mark.parametrize(
    ("canvas", "norm", "complaint"),
    [
        (None, "group", "cuda_graphs is true in conf/, but transforms.canvas is null, so batches differ in size; set "),
        ([512, 512], "sync_batch", "cuda_graphs is true in conf/, but model.norm is sync_batch, whose workers talk"),
        ([512, 512], "group", None),
    ],
)
def test_cuda_graph_of_what_it_cannot_record_is_refused(
    canvas: list[int] | None, norm: str, complaint: str | None
) -> None:
    params = load_params(REPOSITORY / "params.yaml")
    params = params.model_copy(
        update={
            "transforms": params.transforms.model_copy(update={"canvas": canvas}),
            "model": params.model.model_copy(update={"norm": norm}),
        }
    )
    found = conflict(params, load_runtime(REPOSITORY / "conf/gpu.yaml").model_copy(update={"cuda_graphs": True}))
    assert found is None if complaint is None else found is not None and found.startswith(complaint)
