"""Laws of predict on videos: frames are detected on like pictures, numbered, and drawn at the same rate."""

from __future__ import annotations

import csv
import json
import struct
import sys
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
import torch

from pipeline.predict.__main__ import main
from pipeline.predict.inputs import find_pictures
from pipeline.predict.video import count_frames, read_frames
from retinanet.data.pictures import read_picture
from retinanet.inference.detector import Detector

IMAGES = Path("data/prepared/images/test")
RATE = Fraction(10)


def film(path: Path, frames: list[np.ndarray]) -> None:
    """A video of H.264 from [H, W, 3] uint8 RGB of even sides."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=RATE, options={"crf": "0"})
        stream.height, stream.width, stream.pix_fmt = *frames[0].shape[:2], "yuv444p"
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode())


def shapes(count: int) -> list[np.ndarray]:
    paths = sorted(IMAGES.glob("*.png"))
    return [read_picture(str(paths[i % len(paths)])).permute(1, 2, 0).numpy() for i in range(count)]


@pytest.mark.usefixtures("untrained")
def test_frames_are_detected_on_as_by_the_detector_and_numbered(capsys: pytest.CaptureFixture[str]) -> None:
    film(Path("a.mp4"), shapes(20))
    one = sorted(IMAGES.glob("*.png"))[0]
    command = ["a.mp4", str(one), "--score-threshold", "0.02", "--output", "out", "--print"]
    main([*command, "--format", "pictures", "coco", "csv", "yolo"])
    assert "a.mp4 frame 19: " in capsys.readouterr().out
    content, results = (json.loads(Path(f"out/{name}.json").read_text()) for name in ("coco", "results"))
    assert [image.get("frame_id") for image in content["images"]] == [None, *range(20)]
    assert [image["id"] for image in content["images"]] == list(range(1, 22))
    detector = Detector.load("models/model.pt")
    detector.postprocess = detector.build_postprocess(score_threshold=0.02)
    total = 0
    for number, frame in enumerate(read_frames("a.mp4"), start=2):
        (expected,) = detector([frame.permute(1, 2, 0).numpy()])
        rows = [row for row in results if row["image_id"] == number]
        assert [row["score"] for row in rows] == pytest.approx(expected.scores.tolist(), abs=1e-5)
        total += len(rows)
    assert total > 20
    with Path("out/detections.csv").open() as file:
        assert {row["frame"] for row in csv.DictReader(file)} == {"", *map(str, range(20))}
    assert len(list(Path("out/labels/a").glob("*.txt"))) == 20
    drawn, whole = (torch.stack(list(read_frames(name))).int() for name in ("out/videos/a.mp4", "a.mp4"))
    assert drawn.shape == whole.shape
    assert (drawn - whole).abs().max() > 60
    with av.open("out/videos/a.mp4") as container:
        assert container.streams.video[0].average_rate == RATE


@pytest.mark.usefixtures("untrained")
def test_video_of_odd_sides_is_drawn_with_even_ones() -> None:
    with av.open("odd.avi", "w") as container:
        stream = container.add_stream("ffv1", rate=RATE)
        stream.height, stream.width, stream.pix_fmt = 33, 47, "bgr0"
        for frame in shapes(2):
            image = av.VideoFrame.from_ndarray(np.ascontiguousarray(frame[:33, :47]), format="rgb24")
            container.mux(stream.encode(image))
        container.mux(stream.encode())
    main(["odd.avi", "--output", "out"])
    assert [tuple(frame.shape) for frame in read_frames("out/videos/odd.mp4")] == [(3, 34, 48)] * 2
    sizes = {(image["height"], image["width"]) for image in json.loads(Path("out/coco.json").read_text())["images"]}
    assert sizes == {(33, 47)}


def test_video_that_a_phone_stored_lying_down_is_upright(tmp_path: Path) -> None:
    marked = np.zeros((32, 64, 3), dtype=np.uint8)
    marked[:8, :8] = 255
    film(tmp_path / "a.mp4", [marked])
    content = bytearray((tmp_path / "a.mp4").read_bytes())
    matrix = content.index(b"tkhd") + 44  # 4 of the name, and 40 before it in version 0 of the box
    one = 1 << 16
    content[matrix : matrix + 36] = struct.pack(">9i", 0, one, 0, -one, 0, 0, 32 * one, 0, 1 << 30)  # 90 degrees right
    (tmp_path / "a.mp4").write_bytes(content)
    (frame,) = read_frames(str(tmp_path / "a.mp4"))
    assert frame.shape == (3, 64, 32)
    assert frame[:, :8, -8:].min() > 250 and frame[:, :8, :8].max() < 5  # the upper left is at the upper right


@pytest.mark.usefixtures("untrained")
def test_broken_videos_are_reported_and_the_others_go_on() -> None:
    film(Path("a.mp4"), shapes(4))
    film(Path("cut.mkv"), shapes(40))
    content = Path("cut.mkv").read_bytes()
    Path("cut.mkv").write_bytes(content[: len(content) // 2] + b"\0" * (len(content) // 2))
    Path("no.mp4").write_bytes(b"no video")
    with pytest.raises(ValueError, match=r"of 3 pictures could not be read, listed in out/failed.txt; the first: "):
        main(["no.mp4", "cut.mkv", "a.mp4", "--output", "out", "--format", "pictures", "coco"])
    assert "no.mp4\t" in Path("out/failed.txt").read_text()
    names = [image["file_name"] for image in json.loads(Path("out/coco.json").read_text())["images"]]
    assert names.count("a.mp4") == 4
    assert sorted(path.name for path in Path("out/videos").iterdir()) == ["a.mp4", "cut.mp4"]


@pytest.mark.usefixtures("untrained")
def test_video_without_a_frame_is_reported() -> None:
    with av.open("a.mp4", "w", options={"movflags": "faststart"}) as container:  # the header before the frames
        stream = container.add_stream("libx264", rate=RATE)
        stream.height, stream.width, stream.pix_fmt = 64, 64, "yuv420p"
        container.mux(stream.encode(av.VideoFrame.from_ndarray(np.zeros((64, 64, 3), np.uint8), format="rgb24")))
        container.mux(stream.encode())
    content = Path("a.mp4").read_bytes()
    Path("a.mp4").write_bytes(content[: content.index(b"mdat") + 4])
    with pytest.raises(ValueError, match=r"1 of 1 pictures could not be read, .*; the first: a.mp4: it has no frame"):
        main(["a.mp4", "--output", "out"])


def test_folder_holds_videos_too_and_their_frames_are_counted(tmp_path: Path) -> None:
    film(tmp_path / "b.mkv", [np.zeros((32, 32, 3), dtype=np.uint8)] * 7)
    (source,) = find_pictures([str(tmp_path)])
    assert source.is_video and source.name == "b"
    assert count_frames(source.location) == 7  # 0.7 s of 10 frames/s: Matroska has no count
    assert count_frames(str(tmp_path / "nowhere.mp4")) == 0


@pytest.mark.usefixtures("untrained")
def test_video_without_its_package_and_on_ray_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    Path("a.mp4").touch()
    with pytest.raises(ValueError, match=r"a.mp4 is a video; --ray takes pictures"):
        main(["a.mp4", "--ray"])
    monkeypatch.setitem(sys.modules, "av", None)
    with pytest.raises(ValueError, match=r"a.mp4 is a video, which needs the package PyAV: pip install av"):
        main(["a.mp4"])
