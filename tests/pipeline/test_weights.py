"""Laws of initial weights: found where the user says, downloaded once, and refused with one sentence."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
import torchvision
from torchvision.models.detection import RetinaNet_ResNet50_FPN_V2_Weights, RetinaNet_ResNet50_FPN_Weights

from pipeline import manifest
from pipeline.params import load_params
from pipeline.params.detector import COCO_NETWORKS, Model
from pipeline.params.runtime import load_runtime
from pipeline.runs import inputs, weights
from pipeline.runs.checksums import write_checksums
from pipeline.runs.identity import BEST, ENDED
from pipeline.runs.weights import COCO, IMAGENET, find_weights, hub_folder
from pipeline.worker_config import check_weights, initial_weights
from retinanet.network.backbone import BACKBONES
from retinanet.network.checkpoints.conversion import convert
from tests.buckets import BUCKET, make_bucket, variables_of
from tests.servers import running_s3, running_web
from tests.settings import change

ROOT = Path(__file__).parents[2]
CONTENT = bytes(range(256)) * 4096
"""1.05 MB."""
DIGEST = hashlib.sha256(CONTENT).hexdigest()


@pytest.fixture(autouse=True)
def homes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Empty caches."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    monkeypatch.setattr(weights, "CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(inputs, "CACHE", str(tmp_path / "cache"))


@pytest.fixture
def server(tmp_path: Path) -> Iterator[tuple[str, Path, list[str]]]:
    """A web server: its address, its folder, and what it was asked for."""
    folder = tmp_path / "web"
    folder.mkdir()
    with running_web(folder) as (address, asked):
        yield address, folder, asked


def model_with(name: str | None) -> Model:
    return load_params(ROOT / "params.yaml").model.model_copy(update={"weights": name})


def no_mlflow(uri: str, folder: Path) -> Path:
    raise AssertionError(uri)


def find(name: str, storage: str = "runs") -> Path:
    path = find_weights(model_with(name), storage=storage, fetch_model=no_mlflow)
    assert path is not None
    return path


# ---- names ----


def test_published_weights_are_torchvisions() -> None:
    assert {
        "coco": RetinaNet_ResNet50_FPN_V2_Weights.COCO_V1.url,
        "coco_v1": RetinaNet_ResNet50_FPN_Weights.COCO_V1.url,
    } == COCO
    assert IMAGENET.keys() == BACKBONES.keys()
    for name, url in IMAGENET.items():
        assert torchvision.models.get_model_weights(name).IMAGENET1K_V1.url == url


def test_coco_needs_the_settings_of_torchvisions_networks() -> None:
    detection = torchvision.models.detection
    for name, build in (("coco", detection.retinanet_resnet50_fpn_v2), ("coco_v1", detection.retinanet_resnet50_fpn)):
        with torch.device("meta"):
            state = build(weights=None, weights_backbone=None).state_dict()
        found = convert(state, is_caffe=False).sections["model"]
        assert COCO_NETWORKS[name].items() <= found.items()


def test_downloads_lie_where_torch_looks_for_them(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert hub_folder() == Path(torch.hub.get_dir()) / "checkpoints" == tmp_path / "torch/hub/checkpoints"
    monkeypatch.delenv("TORCH_HOME")
    for cache in (str(tmp_path / "xdg"), ""):
        monkeypatch.setenv("XDG_CACHE_HOME", cache)
        if cache:
            assert hub_folder() == Path(torch.hub.get_dir()) / "checkpoints"
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert hub_folder() == Path(torch.hub.get_dir()) / "checkpoints"


def test_file_in_the_users_cache_is_taken_without_a_network(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(COCO, "coco", f"http://127.0.0.1:9/retinanet-{DIGEST[:8]}.pth")
    path = hub_folder() / f"retinanet-{DIGEST[:8]}.pth"
    path.parent.mkdir(parents=True)
    path.write_bytes(CONTENT)
    assert find("coco") == path
    path.write_bytes(CONTENT[:-1])
    with pytest.raises(ValueError, match=rf"coco: .*{path.name} has the SHA-256 .* promises {DIGEST[:8]}; remove it"):
        find("coco")


# ---- downloads ----


def test_url_is_downloaded_once_with_its_size(
    server: tuple[str, Path, list[str]], capsys: pytest.CaptureFixture[str]
) -> None:
    address, folder, asked = server
    (folder / f"mine-{DIGEST[:8]}.pt").write_bytes(CONTENT)
    url = f"{address}/mine-{DIGEST[:8]}.pt"
    path = find(url)
    assert path.read_bytes() == CONTENT
    assert capsys.readouterr().out == f"model.weights {url}: downloading {url} (1.0 MB) to {path}\n"
    before = list(asked)
    assert find(url) == path
    assert asked == before
    assert [entry.name for entry in path.parent.iterdir()] == [path.name]


@pytest.mark.parametrize("published", [True, False])
def test_what_cannot_be_downloaded_names_the_file_to_put_there(
    published: bool, server: tuple[str, Path, list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    url = f"{server[0]}/no.pth"
    if published:
        monkeypatch.setitem(COCO, "coco", url)
    name = "coco" if published else url
    with pytest.raises(ValueError, match=r"cannot be downloaded \(HTTP status 404\)") as caught:
        find(name)
    place = Path(str(caught.value).partition("put it here as ")[2].partition(", or set model.weights")[0])
    assert place.parent == (hub_folder() if published else weights.cache_folder())
    assert len(server[2]) <= 2  # HEAD, and GET where that is refused: once each
    place.write_bytes(CONTENT)
    assert find(name) == place


def test_server_that_is_not_there_is_one_sentence() -> None:
    with pytest.raises(
        ValueError, match=r"^model\.weights is http://127.*9/a\.pt: .* cannot be downloaded \(Connect call failed"
    ):
        find("http://127.0.0.1:9/a.pt")


def test_protocol_that_nobody_knows_is_named() -> None:
    with pytest.raises(ValueError, match=r"^model\.weights is nostore://a/b\.pt: .* downloaded \(Protocol not known"):
        find("nostore://a/b.pt")


def test_other_content_than_the_name_promises_is_refused_and_not_kept(server: tuple[str, Path, list[str]]) -> None:
    address, folder, _ = server
    (folder / "mine-0123abcd.pt").write_bytes(CONTENT)
    (folder / "mine-20261129.pt").write_bytes(CONTENT)
    with pytest.raises(ValueError, match=rf"gave has the SHA-256 {DIGEST[:16]}\.\., but .* promises 0123abcd"):
        find(f"{address}/mine-0123abcd.pt")
    assert list(weights.cache_folder().iterdir()) == []
    assert find(f"{address}/mine-20261129.pt").read_bytes() == CONTENT  # a date


def test_credentials_in_a_url_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"model\.weights is a https:// URL with credentials in it"):
        find("https://me:secret@127.0.0.1:9/a.pt")


@pytest.mark.slow
def test_object_of_a_bucket_is_downloaded_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with running_s3(tmp_path) as address:
        for name, text in variables_of(address).items():
            monkeypatch.setenv(name, text)
        make_bucket(address).put_object(Bucket=BUCKET, Key="weights/mine.pt", Body=CONTENT)
        path = find(f"s3://{BUCKET}/weights/mine.pt")
        with pytest.raises(ValueError, match=r"s3://experiment/no\.pt cannot be downloaded \(.*put it here as"):
            find(f"s3://{BUCKET}/no.pt")
    assert find(f"s3://{BUCKET}/weights/mine.pt") == path
    assert path.read_bytes() == CONTENT


# ---- runs of this project ----


def store_run(storage: Path, name: str, folder: str, content: bytes) -> None:
    place = storage / name / folder
    place.mkdir(parents=True)
    (place / BEST).write_bytes(content)
    write_checksums(place)


def test_run_gives_its_newest_detector_when_it_has_finished(tmp_path: Path) -> None:
    storage = tmp_path / "runs"
    store_run(storage, "aaaa1111-22223333", "checkpoint_000000005_5", b"older")
    store_run(storage, "aaaa1111-22223333", "checkpoint_000000009_9", CONTENT)
    store_run(storage, "aaaa2222-22223333", "checkpoint_000000009_9", b"other")
    with pytest.raises(ValueError, match=r"run:aaaa1, but this run has not finished"):
        find("run:aaaa1", str(storage))
    (storage / "aaaa1111-22223333" / ENDED).write_text("3")
    assert find("run:aaaa1", str(storage)).read_bytes() == CONTENT
    store_run(storage, "aaaa1111-22223333", "finished", b"archived")
    assert find("run:aaaa1111-22223333", str(storage)).read_bytes() == b"archived"
    with pytest.raises(ValueError, match=r"run:aaaa: 2 runs begin so: aaaa1111-22223333, aaaa2222"):
        find("run:aaaa", str(storage))
    with pytest.raises(ValueError, match=r"run:b: there is no such run; .*runs has aaaa1111-22223333, aaaa2222"):
        find("run:b", str(storage))


def test_detector_of_a_run_that_is_damaged_is_refused(tmp_path: Path) -> None:
    store_run(tmp_path, "aaaa1111-22223333", "finished", CONTENT)
    (tmp_path / "aaaa1111-22223333" / ENDED).write_text("3")
    (tmp_path / "aaaa1111-22223333/finished" / BEST).write_bytes(b"x")
    with pytest.raises(ValueError, match=r"finished/detector\.pt does not match its checksum"):
        find("run:aaaa", str(tmp_path))


# ---- what DVC and the run's name know ----


def test_manifest_notes_the_content_of_the_weights(project: Path) -> None:
    manifest.main([])
    assert json.loads(Path("data/weights.json").read_text()) == {"weights": None, "sha256": None}
    (project / "r18.pth").write_bytes(CONTENT)
    change("params.yaml", model__weights="r18.pth")
    manifest.main([])
    assert json.loads(Path("data/weights.json").read_text()) == {"weights": "r18.pth", "sha256": DIGEST}
    before = Path("data/weights.json").stat().st_mtime_ns
    manifest.main([])
    assert Path("data/weights.json").stat().st_mtime_ns == before
    (project / "r18.pth").write_bytes(b"other")
    manifest.main([])
    assert json.loads(Path("data/weights.json").read_text())["sha256"] == hashlib.sha256(b"other").hexdigest()


def test_manifest_keeps_what_it_noted_of_weights_that_are_not_here(
    project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    change("params.yaml", model__weights="r18.pth")
    with pytest.raises(ValueError, match=r"r18\.pth': no such file"):
        manifest.main([])
    noted = {"weights": "r18.pth", "sha256": DIGEST}
    Path("data/weights.json").write_text(json.dumps(noted))
    manifest.main([])
    assert json.loads(Path("data/weights.json").read_text()) == noted
    assert "no such file; expected coco, coco_v1, imagenet, a file" in capsys.readouterr().out


def test_weights_that_do_not_fit_are_refused_before_any_work(untrained: Path) -> None:
    change("params.yaml", model__weights="models/model.pt", model__p7_relu=False, model__head_depth=3)
    params = load_params()
    path = initial_weights(params, load_runtime())
    expected = (
        r"model\.pt, a network with other settings; set in section model: p7_relu: true \(now false\), head_depth"
    )
    with pytest.raises(ValueError, match=expected):
        check_weights(params, path)
