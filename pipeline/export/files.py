"""Export to files that need none of this project: written, checked on pictures beside the detector, then named."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from pipeline.detector.thresholds import choose_scores
from pipeline.export.check import MOST_PX, MOST_SCORE, check
from pipeline.export.metadata import describe_file, describe_origin
from pipeline.export.onnx_file import OPSET, count_nodes, demand_packages, open_onnx, write_onnx
from pipeline.export.quantise import check_classes, export_int8, find_split, int8_path
from pipeline.formats.recognised import IMAGE_SUFFIXES
from pipeline.storage.outs import read_json
from pipeline.tracking.registry import RunModel
from retinanet.data.pictures import read_picture
from retinanet.inference.detector import Detector

PREPARED = (Path("data/prepared/test.json"), Path("data/prepared/val.json"), Path("data/prepared/train.json"))
CHECKED = 16  # pictures


@dataclass(frozen=True)
class Request:
    """What to export.

    Attributes:
        onnx: the new file.
        int8: whether it gets a copy in INT8.
        pictures: on which it is checked, files and folders; empty: the first of data/prepared.
        working_point: text of a target for the thresholds in the file; None: the project's, or the best F1.
        calibrate: whether the file calibrates its scores; None: as the project, or not.
        max_detections: per picture; None: as the model.
    """

    onnx: Path
    int8: bool = False
    pictures: Sequence[Path] = ()
    working_point: str | None = None
    calibrate: bool | None = None
    max_detections: int | None = None


def check_request(request: Request) -> None:
    """Refuse before any work.

    Raises:
        ValueError: when a package is missing, or the file exists.
    """
    demand_packages()
    for file in [request.onnx, *([int8_path(request.onnx)] if request.int8 else [])]:
        if file.exists():
            raise ValueError(f"--onnx {file} exists; give a new file, or remove it")
    if request.int8:
        find_split()
    if request.max_detections is not None and request.max_detections < 1:
        raise ValueError(f"--max-detections is {request.max_detections}; expected 1 or more")


def export_files(path: Path, model: RunModel | None, request: Request, *, is_projects: bool) -> None:
    """Export the detector of a file.

    Args:
        model: of the detector in MLflow, where it is known.
        is_projects: the detector is that of the project in the current folder.
    """
    detector = load(path, request)
    if request.int8:
        check_classes(detector.class_names)
    thresholds, temperature = choose_scores(
        detector.description,
        number=None,
        target=request.working_point,
        calibrate=request.calibrate,
        is_projects=is_projects,
    )
    detector.postprocess.temperature = temperature
    pictures = [read_picture(location) for location in find_pictures(request.pictures)]
    metadata = describe_file(detector, thresholds, describe_origin(detector.description, model))
    export_onnx(detector, request.onnx, metadata, pictures)
    if request.int8:
        target = int8_path(request.onnx)
        with written(target) as temporary:
            export_int8(request.onnx, temporary, detector, find_split())
        print(f"wrote {target}")


def load(path: Path, request: Request) -> Detector:
    """Load a detector that a graph of fixed output shapes can hold.

    Raises:
        ValueError: for one in tiles, or without a limit of detections.
    """
    detector = Detector.load(path)
    own = detector.description.get("postprocess", {})
    if request.max_detections is not None:
        detector.postprocess = detector.build_postprocess(**own | {"max_detections": request.max_detections})
    if detector.transforms.tiles is not None:
        raise ValueError(
            f"{path} detects on tiles (transforms.tiles) and joins their detections, which no exported graph does; "
            "export a model that was trained without tiles, or use it by predict or --register"
        )
    if detector.postprocess.max_detections is None:
        raise ValueError(
            f"{path} keeps any number of detections (postprocess.max_detections is null), but the outputs of a file "
            "have a fixed shape; give --max-detections N"
        )
    return detector


def find_pictures(given: Sequence[Path]) -> list[str]:
    """Paths or URLs of the pictures for the check: of these files and folders, or the first of the prepared data.

    Raises:
        ValueError: when there are none.
    """
    found = [
        str(file)
        for path in given
        for file in (sorted(path.rglob("*")) if path.is_dir() else [path])
        if not path.is_dir() or file.suffix.lower() in IMAGE_SUFFIXES
    ]
    if given and not found:
        raise ValueError(f"--pictures {' '.join(map(str, given))}: there is no picture")
    prepared = next((file for file in PREPARED if file.is_file()), None)
    if not given and prepared is not None:
        content = read_json(prepared)
        root = content["info"]["root"].rstrip("/")
        found = [f"{root}/{image['file_name']}" for image in content["images"]]
    if not found:
        raise ValueError(
            "the exported file is checked on real pictures, but data/prepared does not exist; give some with --pictures"
        )
    return found[:CHECKED]


def export_onnx(detector: Detector, path: Path, metadata: dict[str, str], pictures: Sequence[Tensor]) -> None:
    """Write and check an ONNX file.

    Raises:
        ValueError: when it does not detect what the detector does; there is no file then.
    """
    print(f"writing {path} (about a minute)", flush=True)
    with written(path) as temporary:
        write_onnx(detector, temporary, metadata)
        difference = check(open_onnx(temporary), detector, pictures)
        if not difference.is_small:
            raise ValueError(
                f"onnxruntime and PyTorch differ: {difference}; allowed are {MOST_PX} px and {MOST_SCORE}, so {path} "
                "was not written"
            )
        nodes = count_nodes(temporary).total()
    print(f"equal to PyTorch: {difference}")
    print(f"wrote {path}: {path.stat().st_size / 1e6:.1f} MB, opset {OPSET}, {nodes} nodes")


@contextmanager
def written(path: Path) -> Iterator[Path]:
    """A temporary file in a folder beside a new file, which takes its name where the body ends without an error."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".writing-", dir=path.parent) as folder:
        temporary = Path(folder) / path.name
        yield temporary
        temporary.replace(path)
