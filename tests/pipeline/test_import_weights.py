"""Laws of the command import_weights: from another project's file to a detector that the other commands take."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import yaml
from PIL import Image
from torch import Tensor
from torchvision.models import resnet18
from torchvision.models.detection import RetinaNet
from torchvision.models.detection.backbone_utils import resnet_fpn_backbone
from torchvision.ops.feature_pyramid_network import LastLevelP6P7

from pipeline.__main__ import do
from pipeline.import_weights.__main__ import main
from pipeline.params import load_params
from retinanet.inference.detector import Detector

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def state() -> dict[str, Tensor]:
    """A RetinaNet of torchvision over a ResNet-18, with two classes and the background."""
    torch.manual_seed(0)
    blocks = LastLevelP6P7(256, 256)
    body = resnet_fpn_backbone(
        backbone_name="resnet18", weights=None, returned_layers=[2, 3, 4], extra_blocks=blocks, trainable_layers=5
    )
    return dict(RetinaNet(body, num_classes=3).state_dict())


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, state: dict[str, Tensor]) -> Path:
    """A folder with a checkpoint and names of its classes."""
    monkeypatch.chdir(tmp_path)
    torch.save(state, "theirs.pth")
    Path("names.txt").write_text("cat\n\ndog\n")
    return tmp_path


def test_the_detector_is_written_and_its_settings_are_params(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    do(["import", "theirs.pth", "--classes", "names.txt", "--output", "models/cats.pt"])
    first, _, rest = capsys.readouterr().out.partition("\n")
    assert first == (
        "recognised torchvision: resnet18, P6 from P5, heads of 4 convolutions, 3 logits per anchor, 2 classes"
    )
    assert "  mean: [0.485, 0.456, 0.406]\n" in rest
    sections = yaml.safe_load(rest.partition("settings:\n\n")[2])
    content = yaml.safe_load((ROOT / "params.yaml").read_text())
    for name, section in sections.items():
        assert section.keys() <= content[name].keys()
        content[name] |= section
    Path("params.yaml").write_text(yaml.safe_dump(content))
    params = load_params(Path("params.yaml"))
    assert sections.keys() == {"model", "transforms", "anchors", "postprocess"}
    assert (params.model.weights, params.model.norm) == ("models/cats.pt", "frozen_batch")
    assert (params.anchors.sizes or [])[1] == [64.0, 80.0, 101.0]
    detector = Detector.load("models/cats.pt")
    assert detector.class_names == ["cat", "dog"]
    assert detector.postprocess.max_detections == params.postprocess.max_detections == 300


def test_predict_takes_the_detector(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main(["theirs.pth", "--classes", "names.txt"])
    Image.new("RGB", (64, 48), (200, 30, 30)).save("a.png")
    do(["predict", "a.png", "--model", "models/imported.pt", "--format", "coco", "--device", "cpu"])
    assert Path("predictions/coco.json").is_file()


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["no.pth"], r"no\.pth does not exist"),
        (["theirs.pth"], r"theirs\.pth: it has 3 logits per anchor, but the classes are none; give --classes FILE"),
        (["theirs.pth", "--classes", "no.txt"], r"--classes no\.txt cannot be read"),
        (
            ["theirs.pth", "--classes", "twice.txt"],
            r"--classes twice\.txt has cat twice; expected each class name once",
        ),
        (["theirs.pth", "--classes", "empty.txt"], r"--classes empty\.txt has no name"),
        (["theirs.pth", "--norm-eps", "2"], r"--norm-eps is 2\.0; expected 0 to 1"),
        (["theirs.pth", "--output", "names.txt"], r"--output names\.txt exists; give a new file, or remove it"),
        (["names.txt"], r"names\.txt cannot be read as weights"),
    ],
)
def test_a_mistake_is_one_sentence_and_writes_nothing(folder: Path, arguments: list[str], complaint: str) -> None:
    Path("twice.txt").write_text("cat\ncat\n")
    Path("empty.txt").write_text("\n")
    before = sorted(path.name for path in folder.iterdir())
    with pytest.raises(ValueError, match=complaint) as caught:
        main(arguments)
    assert "\n" not in str(caught.value)
    assert sorted(path.name for path in folder.iterdir()) == before


def test_a_file_with_a_backbone_alone_is_no_detector(folder: Path) -> None:
    torch.save(resnet18().state_dict(), "resnet18.pth")
    with pytest.raises(ValueError, match=r"resnet18\.pth: the names \(conv1\.weight, .*known RetinaNet"):
        main(["resnet18.pth"])
