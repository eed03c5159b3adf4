"""Laws of export --onnx: equal to PyTorch at every batch and size, refused where not, used by the example alone."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from collections import Counter
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
from PIL import Image

from pipeline.export.__main__ import main
from pipeline.export.check import check
from pipeline.export.files import Request, export_files
from pipeline.export.metadata import describe_file, describe_origin
from pipeline.tracking.registry import RunModel
from retinanet.data.pictures import read_picture
from retinanet.data.transforms import Transforms
from retinanet.inference.detector import Detector
from retinanet.inference.detector_file import load_detector, save_detector
from retinanet.inference.temperature import calibrate_scores
from tests.exported_detectors import build_detector, draw_pictures

EXAMPLE = Path(__file__).parents[2] / "examples/detect_onnx.py"
slow = pytest.mark.slow


@pytest.fixture(scope="module")
def example() -> ModuleType:
    spec = importlib.util.spec_from_file_location("detect_onnx", EXAMPLE)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def save(name: str, folder: Path) -> Path:
    detector = build_detector(name)
    path = folder / "model.pt"
    save_detector(path, detector.model.state_dict(), detector.description)
    return path


def save_pictures(folder: Path) -> list[Path]:
    paths = []
    for number, picture in enumerate(draw_pictures([(60, 90), (75, 40), (150, 210)])):
        paths.append(folder / f"{number}.png")
        Image.fromarray(picture.permute(1, 2, 0).numpy()).save(paths[-1])
    return paths


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with pictures, model.pt and the file that the command made of it."""
    folder: Path = tmp_path_factory.mktemp("exported")
    save_pictures(folder)
    model = save("torchvision", folder)
    main(["--model", str(model), "--onnx", str(folder / "new/model.onnx"), "--pictures", str(folder)])
    assert [path.name for path in (folder / "new").iterdir()] == ["model.onnx"]
    return folder


# ---- what is refused -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--onnx", "params.yaml"], "--onnx params.yaml exists; give a new file, or remove it"),
        (["--onnx", "--max-detections", "0"], "--max-detections is 0; expected 1 or more"),
        (["--onnx"], "models/model.pt does not exist"),
        (["--int8"], "nothing to do"),
        (["--output", "new", "--int8"], "--int8 is a copy of an ONNX file; give --onnx, too"),
    ],
)
@pytest.mark.usefixtures("project")
def test_mistake_is_one_sentence(arguments: list[str], sentence: str) -> None:
    with pytest.raises(ValueError) as caught:  # noqa: PT011 - the sentence is asserted below
        main(arguments)
    assert sentence in str(caught.value)


def test_missing_package_is_named_with_its_command(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipeline.export.onnx_file.find_spec", lambda name: None if name == "onnxscript" else name)
    with pytest.raises(ValueError, match="onnxscript is not installed; run: python -m pip install onnxscript"):
        main(["--onnx"])


def test_detector_that_no_graph_holds_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    model, request = save("group_norm", tmp_path), Request(Path("model.onnx"), pictures=save_pictures(tmp_path))
    detector = Detector.load(model)
    for section, keys, sentence in [
        ("transforms", {"tiles": {"size": 32}}, "detects on tiles"),
        ("postprocess", {"max_detections": None}, "give --max-detections N"),
    ]:
        changed = detector.description | {section: detector.description[section] | keys}
        save_detector(model, detector.model.state_dict(), changed)
        with pytest.raises(ValueError, match=sentence):
            export_files(model, None, request, is_projects=False)
    save_detector(model, detector.model.state_dict(), detector.description)
    with pytest.raises(ValueError, match=r"data/prepared does not exist; give some with --pictures"):
        export_files(model, None, replace(request, pictures=()), is_projects=False)
    with pytest.raises(ValueError, match="nowhere"):
        export_files(model, None, replace(request, pictures=[Path("nowhere")]), is_projects=False)


# ---- what the file says ----------------------------------------------------------------------------------------------


def test_file_says_what_its_user_needs() -> None:
    detector = build_detector("mmdetection")
    model = RunModel("m1", "r1", "", {}, {"git.commit": "c1", "other": "x"})
    texts = describe_file(detector, [0.3, 0.4, 0.5], describe_origin(detector.description, model))
    said = {name: json.loads(text) for name, text in texts.items()}
    assert said["classes"] == ["brick", "leaf", "pond"] and said["score_thresholds"] == [0.3, 0.4, 0.5]
    assert (said["short_side"], said["long_side"], said["size_divisor"], said["channel_order"]) == (64, 96, 32, "RGB")
    assert said["resize"] == {"kernel": "bilinear", "antialias": False, "rounds": True}
    assert (said["mean"], said["std"]) == ([0.4, 0.5, 0.6], [0.2, 0.21, 0.22])
    assert {key: said[key] for key in ("run", "epoch", "AP", "mlflow_run", "commit")} == {
        "run": "abc",
        "epoch": 2,
        "AP": 0.5,
        "mlflow_run": "r1",
        "commit": "c1",
    }


def test_file_says_whether_it_calibrates() -> None:
    for name, temperature in (("sharper", 0.6), ("flatter", 2.5), ("group_norm", None)):
        texts = describe_file(build_detector(name), [0.3, 0.4, 0.5], {})
        assert json.loads(texts["temperature"]) == temperature
        assert ("calibration of scores" in json.loads(texts["in_the_graph"])) == (temperature is not None)


# ---- the example's resizing ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("rule", ["pillow", "opencv", "torchvision"])
def test_example_resizes_to_the_pixel_as_the_detector(rule: str, example: ModuleType) -> None:
    for (short, long), size in [
        ((64, 96), (33, 47)),
        ((50, 400), (150, 211)),
        ((64, 70), (64, 90)),
        ((3, 90), (1, 99)),
    ]:
        transforms = Transforms(short_side=short, long_side=long, resize=rule)
        (picture,) = draw_pictures([size])
        expected, _, _ = transforms.apply(picture, torch.zeros(0, 4), transforms.for_evaluation)
        detector = build_detector("group_norm")
        detector.transforms = transforms
        about = {name: json.loads(text) for name, text in describe_file(detector, [], {}).items()}
        resized = example.resized_size(about, size)
        found = example.resize(picture.permute(1, 2, 0).numpy(), resized, antialias=about["resize"]["antialias"])
        assert found.shape == (*expected.shape[1:], 3)
        assert np.array_equal(found, expected.permute(1, 2, 0).numpy())


@pytest.mark.parametrize("kind", ["PNG", "TIFF", "PPM"])
def test_example_reads_16_bits_as_the_detector(kind: str, tmp_path: Path, example: ModuleType) -> None:
    grey = np.arange(0, 60000, 1000, dtype=np.uint16).reshape(6, 10)
    path = tmp_path / "a"
    Image.fromarray(grey).save(path, format=kind)
    assert np.array_equal(example.read(str(path)), read_picture(str(path)).permute(1, 2, 0).numpy())


# ---- the file --------------------------------------------------------------------------------------------------------


@slow
@pytest.mark.filterwarnings("ignore")  # of onnx and onnxruntime
def test_file_detects_what_the_detector_does_at_other_batches_and_sizes(exported: Path) -> None:
    from pipeline.export.onnx_file import count_nodes, open_onnx

    file, detector = exported / "new/model.onnx", Detector.load(exported / "model.pt")
    run = open_onnx(file)
    for short, long in [(32, 40), (64, 96), (130, 500)]:
        detector.transforms = replace(detector.transforms, short_side=short, long_side=long)
        difference = check(run, detector, draw_pictures([(60, 90), (40, 75), (70, 71)]))
        assert difference.is_small and difference.detections > 200, difference
    nodes = count_nodes(file)
    assert isinstance(nodes, Counter) and nodes["NonMaxSuppression"] == 1 and nodes["Conv"] == 48
    assert b"graph.py" not in file.read_bytes()  # no line of our source


@slow
@pytest.mark.filterwarnings("ignore")  # of onnx and onnxruntime
def test_calibrated_file_detects_what_the_calibrated_detector_does(
    tmp_path: Path, example: ModuleType, capsys: pytest.CaptureFixture[str]
) -> None:
    import onnxruntime

    pictures, model, file = save_pictures(tmp_path), save("sharper", tmp_path), tmp_path / "model.onnx"
    main(["--model", str(model), "--onnx", str(file), "--calibrate", "--pictures", str(tmp_path)])
    assert "scores are calibrated with the temperature 0.6" in capsys.readouterr().out
    session = onnxruntime.InferenceSession(str(file), providers=["CPUExecutionProvider"])
    about = {name: json.loads(text) for name, text in session.get_modelmeta().custom_metadata_map.items()}
    # The odds 4 of 0.8 to the power of 1 / 0.6.
    threshold = 1 / (1 + 4 ** (-1 / 0.6))
    assert about["score_thresholds"] == pytest.approx([threshold] * 3)
    assert (about["temperature"], about["score_threshold"]) == (0.6, 0.05)
    detector, total = Detector.load(model), 0
    detector.postprocess = detector.build_postprocess()
    for path in pictures:
        picture = read_picture(str(path)).permute(1, 2, 0).numpy()
        (raw,) = detector([picture], score_threshold=0.8)
        boxes, scores, labels = example.detect(session, about, picture)
        assert labels.tolist() == raw.labels.tolist()
        assert boxes == pytest.approx(raw.boxes.numpy(), abs=0.01)
        assert scores == pytest.approx(calibrate_scores(raw.scores, 0.6).numpy(), abs=1e-5)
        total += len(scores)
    assert 10 < total < 300


@slow
@pytest.mark.filterwarnings("ignore")
def test_example_alone_detects_what_the_detector_does(exported: Path) -> None:
    detector = Detector.load(exported / "model.pt")
    blocked = "import sys; sys.modules['torch'] = sys.modules['retinanet'] = None; sys.argv = sys.argv[1:]; "
    run = f"{blocked}exec(compile(open(sys.argv[0]).read(), sys.argv[0], 'exec'))"
    pictures = sorted(map(str, exported.glob("*.png")))
    command = [sys.executable, "-c", run, str(EXAMPLE), str(exported / "new/model.onnx"), *pictures]
    printed = subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()
    lines = [line.split(" ") for line in printed]
    total = 0
    for path in pictures:
        (expected,) = detector([read_picture(path).permute(1, 2, 0).numpy()], score_threshold=0.3)
        found = [line for line in lines if line[0] == path]
        assert [line[1] for line in found] == [detector.class_names[label] for label in expected.labels]
        assert [float(line[2]) for line in found] == pytest.approx(expected.scores.tolist(), abs=0.00051)
        boxes = torch.tensor([[float(side) for side in line[3:]] for line in found])
        torch.testing.assert_close(boxes, expected.boxes, rtol=0, atol=0.016)
        total += len(found)
    assert total > 10


@slow
@pytest.mark.filterwarnings("ignore")
def test_file_that_differs_is_not_written(exported: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    content = (exported / "new/model.onnx").read_bytes()
    monkeypatch.setattr("pipeline.export.files.write_onnx", lambda detector, path, metadata: path.write_bytes(content))
    other = Detector.load(exported / "model.pt")
    with torch.no_grad():
        other.model.box_head.output.bias.add_(0.01)
    save_detector(tmp_path / "model.pt", other.model.state_dict(), other.description)
    request = Request(tmp_path / "model.onnx", pictures=sorted(exported.glob("*.png")))
    with pytest.raises(ValueError, match=r"differ: \d+ detections on 9 pictures, boxes within .*was not written"):
        export_files(tmp_path / "model.pt", None, request, is_projects=False)
    assert [path.name for path in tmp_path.iterdir()] == ["model.pt"]


@slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.usefixtures("untrained")
def test_int8_copy_is_smaller_and_its_ap_is_reported(exported: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    content = (exported / "new/model.onnx").read_bytes()
    monkeypatch.setattr("pipeline.export.files.write_onnx", lambda detector, path, metadata: path.write_bytes(content))
    weights, description = load_detector(exported / "model.pt")
    with pytest.raises(ValueError, match=r"detects brick, leaf, pond, but data/prepared/train\.json holds disc"):
        main(["--model", str(exported / "model.pt"), "--onnx", "other.onnx", "--int8"])
    description["categories"] = json.loads(Path("data/prepared/train.json").read_text())["categories"]
    save_detector(Path("models/model.pt"), weights, description)
    main(["--onnx", "new.onnx", "--int8"])
    sizes = {path.name: path.stat().st_size for path in Path().glob("*.onnx")}
    assert sizes["new.int8.onnx"] < 0.5 * sizes["new.onnx"]
    report = json.loads(Path("reports/export.json").read_text())
    assert (report["split"], report["calibration_images"]) == ("test", 24)
    assert report["int8"]["megabytes"] < 0.5 * report["float32"]["megabytes"]
    assert all(0 <= report[kind]["AP"] <= 1 and report[kind]["images_per_s"] > 0 for kind in ("int8", "float32"))
    assert not list(Path().glob(".writing*"))
    with pytest.raises(ValueError, match=r"new\.onnx exists"):
        main(["--onnx", "new.onnx", "--int8"])
