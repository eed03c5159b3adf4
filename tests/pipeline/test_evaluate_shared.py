"""Laws of an evaluation by several workers: when there are any, and that their number changes no digit."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from pipeline import cluster
from pipeline.cluster import pieces
from pipeline.evaluate import detection, sharing
from pipeline.evaluate.__main__ import main
from pipeline.evaluate.outputs import CURVE, CURVE_PICTURE, DETECTIONS, REPORT, SHEET
from pipeline.evaluate.run import MODEL
from pipeline.evaluate.sharing import IMAGES_PER_BATCH, DetectionConfig, is_shared
from pipeline.params.runtime import load_runtime
from pipeline.reports.results import read_results
from pipeline.runs.identity import digest_file
from retinanet.data.splits import load_split
from retinanet.evaluation.coco_eval import PackedDetections
from retinanet.inference.detector_file import load_detector, save_detector

OUTS = (REPORT, DETECTIONS, CURVE, CURVE_PICTURE, SHEET)
MANY = 2 * IMAGES_PER_BATCH
PREPARED = Path("data/prepared")


@pytest.fixture
def detector(untrained: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The project of an untrained detector, with a test split of 24 images: 3 batches."""
    shutil.copyfile(PREPARED / "train.json", PREPARED / "test.json")
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    return untrained


def change_runtime(**options: Any) -> None:
    runtime = yaml.safe_load(Path("conf/local.yaml").read_text()) | options
    Path("conf/local.yaml").write_text(yaml.safe_dump(runtime))


def evaluate() -> list[bytes]:
    """The bytes of all outs, by one thread as in a worker: their number may change the last bit of a score."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    main([])
    torch.set_num_threads(threads)
    return [path.read_bytes() for path in OUTS]


# ---- the rule --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "address", "images", "shared"),
    [
        ({"workers": 8}, None, MANY, False),  # the cores of this machine: this process uses them all
        ({"workers": 1, "gpus_per_worker": 1}, None, MANY, False),
        ({"workers": 2, "gpus_per_worker": 0.5}, None, MANY, False),  # one GPU
        ({"workers": 2, "gpus_per_worker": 1}, None, MANY, True),
        ({"workers": [1, 2], "gpus_per_worker": 1}, None, MANY, True),
        ({"workers": 1, "address": "auto"}, None, MANY, True),
        ({"workers": 1}, "head:6379", MANY, True),
        ({"workers": 1}, "head:6379", IMAGES_PER_BATCH + 1, True),
        ({"workers": 1}, "head:6379", IMAGES_PER_BATCH, False),  # one batch
        ({"workers": 8, "address": "auto"}, "local", MANY, False),
    ],
)
@pytest.mark.usefixtures("project")
def test_workers_are_for_a_cluster_and_for_several_gpus(
    options: dict[str, Any], address: str | None, images: int, shared: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    if address is not None:
        monkeypatch.setenv("RAY_ADDRESS", address)
    assert is_shared(load_runtime().model_copy(update=options), images) is shared


# ---- the shares ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shares", [1, 2, 3, 5])
@pytest.mark.usefixtures("detector")
def test_shares_are_disjoint_and_together_the_split(shares: int) -> None:
    split = load_split(PREPARED / "test.json")
    own = detection.Detector.load(MODEL)
    parts = [detection.detect(own, split, processes=0, rank=rank, shares=shares) for rank in range(shares)]
    ids = [image_id for part in parts for image_id in part]
    assert sorted(ids) == sorted(record.image_id for record in split.records)
    assert [len(part) for part in parts] == [8 * len(range(rank, 3, shares)) for rank in range(shares)]


def done_here(
    prepare: Callable[[], Callable[[int], PackedDetections]], ranks: Sequence[int], **_: Any
) -> Iterator[PackedDetections]:
    """Every piece in this process by a worker of its own, the last one first."""
    threads = torch.get_num_threads()
    for rank in reversed(ranks):
        yield prepare()(rank)
    torch.set_num_threads(threads)


@pytest.mark.usefixtures("detector")
def test_number_of_shares_changes_no_byte(monkeypatch: pytest.MonkeyPatch) -> None:
    alone = evaluate()
    assert len({row["image_id"] for row in read_results(DETECTIONS)}) == 24
    ranks: list[Sequence[int]] = []
    monkeypatch.setenv("RAY_ADDRESS", "head:6379")
    monkeypatch.setattr(cluster, "start_ray", lambda *arguments, **options: nullcontext())
    monkeypatch.setattr(pieces, "do_pieces", lambda *own, **_: (ranks.append(own[1]), done_here(*own))[1])
    for shares in (1, 2, 3):
        monkeypatch.setattr(pieces, "PIECES_PER_WORKER", shares)
        assert evaluate() == alone
    assert ranks == [range(1), range(2), range(3)]


@pytest.mark.slow
@pytest.mark.usefixtures("detector")
def test_number_of_shares_changes_no_byte_of_pictures_in_tiles(monkeypatch: pytest.MonkeyPatch) -> None:
    weights, description = load_detector(MODEL)
    description["transforms"]["tiles"] = {"size": [64, 30], "overlap": 0.2, "min_visible": 0.25}  # 3 tiles
    save_detector(MODEL, weights, description)
    alone = evaluate()
    rows = read_results(DETECTIONS)
    assert len({row["image_id"] for row in rows}) == 24
    assert max(row["bbox"][0] for row in rows) > 30
    monkeypatch.setenv("RAY_ADDRESS", "head:6379")
    monkeypatch.setattr(cluster, "start_ray", lambda *arguments, **options: nullcontext())
    ranks: list[Sequence[int]] = []
    monkeypatch.setattr(pieces, "do_pieces", lambda *own, **_: (ranks.append(own[1]), done_here(*own))[1])
    monkeypatch.setattr(pieces, "PIECES_PER_WORKER", 100)
    assert evaluate() == alone
    assert ranks == [range(9)]  # 72 tiles; 3 pictures of 9 tiles together are a group, so the last share is empty


@pytest.mark.usefixtures("detector")
def test_workers_of_this_machine_read_its_files_and_those_of_a_cluster_read_the_storage(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    configs: list[DetectionConfig] = []
    original = sharing.prepare
    monkeypatch.setattr(cluster, "start_ray", lambda *arguments, **options: nullcontext())
    monkeypatch.setattr(
        sharing, "prepare", lambda config, shares: (configs.append(config), original(config, shares))[1]
    )
    monkeypatch.setattr(pieces, "do_pieces", done_here)
    files = (MODEL.resolve(), (PREPARED / "test.json").resolve())
    change_runtime(address="head:6379", cpus_per_worker=1, workers=1)
    main([])
    stored = [Path(f"runs/inputs/{digest_file(path)}{path.suffix}").resolve() for path in files]
    assert [path.is_file() for path in stored] == [True, True]
    assert {(config.model, config.split) for config in configs} == {(str(stored[0]), str(stored[1]))}
    assert {(config.device, config.threads) for config in configs} == {("cpu", 1)}


# ---- Ray itself ------------------------------------------------------------------------------------------------------


def prepare_or_die(config: DetectionConfig, shares: int) -> Callable[[int], PackedDetections]:
    """As sharing.prepare; the first worker that comes here dies."""
    try:
        Path(config.split).with_name("died").touch(exist_ok=False)
    except FileExistsError:
        from pipeline.evaluate.detection import prepare_worker

        return prepare_worker(config, shares)
    os._exit(1)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::ResourceWarning")
def test_two_workers_of_ray_one_of_which_dies_give_the_bytes_of_one_process(
    detector: Path, ray_address: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    alone = evaluate()
    monkeypatch.setenv("RAY_ADDRESS", ray_address)
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    monkeypatch.setattr(sharing, "prepare", prepare_or_die)
    change_runtime(workers=2)
    capsys.readouterr()
    shared = evaluate()
    assert [path.name for path, own, one in zip(OUTS, shared, alone, strict=True) if own != one] == []
    printed = capsys.readouterr().out
    assert "detecting on 24 images with 2 workers" in printed
    assert printed.count("its work is repeated by another") == 1
    assert (detector / "runs/inputs/died").is_file()
