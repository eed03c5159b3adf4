"""Laws of the folder of shards: every picture is in one, what exists stays, another job is refused."""

from __future__ import annotations

import io
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from pipeline.predict import on_ray, worker
from pipeline.predict.__main__ import main
from pipeline.predict.batches import PICTURES_PER_READ
from pipeline.predict.detection import Failed, Found
from pipeline.predict.inputs import Source
from pipeline.predict.on_ray import WorkerConfig, find_root
from pipeline.predict.shards import MOST_PICTURES, Job, ShardFolder, choose_shard_size, digest_list
from pipeline.predict.table import SCHEMA, to_parquet, to_table
from retinanet.inference.postprocess import Detections

IMAGES = Path("data/prepared/images/test")
JOB = Job(pictures=40, list_sha256="l1", model_sha256="m1", classes=["disc"], thresholds=[0.1 + 0.2], shard_pictures=16)


@given(st.integers(1, 10**5), st.integers(1, 100))
def test_every_picture_is_in_one_shard_of_whole_reads(pictures: int, workers: int) -> None:
    size = choose_shard_size(pictures, workers)
    job = replace(JOB, pictures=pictures, shard_pictures=size)
    assert [place for shard in range(job.shards) for place in job.places(shard)] == list(range(pictures))
    assert size % PICTURES_PER_READ == 0 and PICTURES_PER_READ <= size <= MOST_PICTURES


@pytest.mark.parametrize(("pictures", "workers", "size"), [(10**6, 4, 512), (4096, 4, 128), (100, 4, 16), (1, 1, 16)])
def test_few_pictures_are_dealt_into_eight_shards_a_worker(pictures: int, workers: int, size: int) -> None:
    assert choose_shard_size(pictures, workers) == size  # 4096 / (8 * 4) = 128


def test_lists_of_one_text_in_other_pieces_differ() -> None:
    assert digest_list(["a", "b"]) != digest_list(["b", "a"])
    assert digest_list(["ab"]) != digest_list(["a", "b"])


@pytest.mark.parametrize("kind", ["{}", "file://{}"])
def test_shard_that_exists_is_done_and_a_half_written_one_is_not(kind: str, tmp_path: Path) -> None:
    folder = ShardFolder(kind.format(tmp_path / "out"))
    assert folder.open(JOB) == JOB
    folder.write_shard(1, b"one")
    (tmp_path / "out/.writing-shard-000002.parquet-host-1").write_bytes(b"hal")
    assert folder.done() == {1}
    assert (tmp_path / "out/shard-000001.parquet").read_bytes() == b"one"
    assert folder.open(replace(JOB, shard_pictures=32)) == JOB  # goes on with the shards that it began with


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"list_sha256": "l2", "pictures": 41}, "a list of 40 pictures, now it is another one of 41"),
        ({"model_sha256": "m2"}, "another model"),
        ({"classes": ["square"]}, "other classes"),
        ({"thresholds": [0.5]}, r"the thresholds \[0.30000000000000004\], now they are \[0.5\]"),
    ],
)
def test_another_job_is_refused(change: dict[str, Any], message: str, tmp_path: Path) -> None:
    ShardFolder(str(tmp_path)).open(JOB)
    with pytest.raises(ValueError, match=f"was begun with {message}; give another --output"):
        ShardFolder(str(tmp_path)).open(replace(JOB, **change))


def test_folder_with_other_files_is_refused(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").touch()
    with pytest.raises(ValueError, match=r"is not empty, and has no job.json; give --output an empty folder"):
        ShardFolder(str(tmp_path)).open(JOB)


def test_a_row_for_every_picture_with_none_and_with_an_error() -> None:
    boxes = torch.tensor([[1.0, 2.0, 3.5, 4.0], [0.0, 0.0, 2.0, 2.0]])
    found = Found(1, Source("/x/a.png", "a.png"), (10, 20), Detections(boxes, torch.tensor([0.5, 0.25]), torch.ones(2)))
    found = found._replace(detections=found.detections._replace(labels=torch.tensor([1, 0])))
    none = found._replace(source=Source("b", "b"), detections=Detections(*(field[:0] for field in found.detections)))
    failed = Failed(3, Source("c", "c"), "no picture", may_heal=False)
    table = pq.read_table(io.BytesIO(to_parquet(to_table([found, none, failed], ["disc", "ring"]))))
    assert table.schema.equals(SCHEMA)
    nothing = {"labels": [], "scores": [], "boxes": [], "error": None}
    assert table.to_pylist() == [
        {"path": "a.png", "width": 20, "height": 10, "error": None}
        | {"labels": ["ring", "disc"], "scores": [0.5, 0.25], "boxes": boxes.tolist()},
        {"path": "b", "width": 20, "height": 10} | nothing,
        {**dict.fromkeys(SCHEMA.names), "path": "c", "error": "no picture"},
    ]


def test_root_is_the_innermost_folder_of_the_files() -> None:
    assert find_root(["/a/b/c.png", "/a/d/e/f.png", "s3://bucket/g.png"]) == "/a"
    assert find_root(["s3://bucket/g.png"]) is None


@pytest.mark.usefixtures("untrained")
def test_folder_that_a_node_does_not_see_is_named() -> None:
    config = WorkerConfig("models/model.pt", [0.5], False, str(Path.cwd()), "/nowhere/a", "cpu", threads=1, processes=0)
    with pytest.raises(ValueError, match="the folder /nowhere/a does not exist on node "):
        worker.prepare_worker(config)


@pytest.mark.usefixtures("untrained")
def test_shards_go_on_where_they_stopped_and_hold_what_one_run_holds(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Without Ray: the shards are detected on in this process, and the first time it ends after one."""
    threads, asked = torch.get_num_threads(), []

    def detect_shards(shards: list[Any], model: Path, job: Job, runtime: Any) -> Any:
        config = WorkerConfig(str(model), job.thresholds, False, str(Path.cwd()), None, "cpu", threads=1, processes=0)
        work = worker.prepare_worker(config)
        asked.append([number for number, _ in shards])
        for number, locations in reversed(shards):
            yield number, work(locations)
            if len(asked) == 1:
                raise KeyboardInterrupt

    monkeypatch.setattr(on_ray, "detect_shards", detect_shards)
    (IMAGES / "broken.png").write_bytes(b"no picture")
    Path("list.txt").write_text("\n".join(f"{path}\n" * 1 for path in sorted(IMAGES.parent.rglob("*.png"))))
    total = len(sorted(IMAGES.parent.rglob("*.png")))
    command = ["list.txt", "--ray", "--score-threshold", "0.02", "--output", "out"]
    with pytest.raises(KeyboardInterrupt):
        main(command)
    with pytest.raises(ValueError, match=rf"1 of {total} pictures could not be read, see column error in out; .*bro"):
        main(command)
    assert asked == [[0, 1, 2], [0, 1]]
    assert f"{total - 32} of {total} pictures are done; going on" in capsys.readouterr().out
    kept = {path: path.stat().st_mtime_ns for path in Path("out").iterdir()}
    with pytest.raises(ValueError, match=r"could not be read"):
        main(command)
    assert {path: path.stat().st_mtime_ns for path in Path("out").iterdir()} == kept
    rows = pq.ParquetDataset(sorted(Path("out").glob("shard-*"))).read().to_pylist()
    assert [row["path"] for row in rows] == list(filter(None, Path("list.txt").read_text().splitlines()))
    torch.set_num_threads(threads)


@pytest.mark.usefixtures("untrained")
def test_options_that_ray_has_no_use_for_are_named() -> None:
    with pytest.raises(ValueError, match="leave out --format and --device"):
        main([str(IMAGES), "--ray", "--format", "csv", "--device", "cpu"])
    with pytest.raises(ValueError, match="expected a folder on this machine"):
        main([str(IMAGES), "--output", "s3://bucket/out"])
    Path("conf/local.yaml").unlink()
    with pytest.raises(ValueError, match=r"--ray needs a file of conf/.* and conf/local.yaml does not exist"):
        main([str(IMAGES), "--ray"])
