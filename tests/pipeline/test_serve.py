"""Laws of the service without Ray: the detector's own detections, one JSON error for every bad request, full queues."""

from __future__ import annotations

import asyncio
import io
import struct
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from starlette.applications import Starlette

from pipeline.serve.app import build_app
from pipeline.serve.detection import DetectionService, Outcome, Prepared
from pipeline.serve.settings import Settings
from pipeline.serve.uploads import decode_upload
from retinanet.data.pictures import decode, read_picture
from retinanet.inference.detector import Detector
from retinanet.inference.detector_file import load_detector, save_detector
from tests.asgi import Answer, ask

PICTURE = "data/prepared/images/test/000001.png"
FORM = "multipart/form-data; boundary=x"


def post(app: Starlette, body: bytes | Sequence[bytes], *, url: str = "/detect", **options: Any) -> Answer:
    return asyncio.run(ask(app, "POST", url, body, **options))


async def no_metrics() -> str:
    return "ray_serve_x 1\n"


def make_service(**settings: Any) -> DetectionService:
    path = "models/model.pt"
    return DetectionService(Detector.load(path), Settings(model=path, **{"thresholds": [0.07] * 3} | settings))


def make_app(**settings: Any) -> Starlette:
    return build_app(make_service(**settings), metrics=no_metrics)


def form_of(content: bytes) -> bytes:
    head = b'--x\r\nContent-Disposition: form-data; name="image"; filename="a.png"\r\nContent-Type: image/png\r\n\r\n'
    return head + content + b"\r\n--x--\r\n"


def png_of(width: int, height: int) -> bytes:
    """A PNG that says it is so large, and is a few bytes."""
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    chunks = [(b"IHDR", header), (b"IDAT", zlib.compress(b"\0")), (b"IEND", b"")]
    written = (
        struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data)) for name, data in chunks
    )
    return b"\x89PNG\r\n\x1a\n" + b"".join(written)


def saved(image: Image.Image, kind: str) -> bytes:
    file = io.BytesIO()
    image.save(file, kind)
    return file.getvalue()


# ---- detections ------------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("untrained")
def test_answer_is_what_the_detector_finds() -> None:
    detector = Detector.load("models/model.pt")
    content = Path(PICTURE).read_bytes()
    (expected,) = detector([read_picture(PICTURE).permute(1, 2, 0).numpy()], score_threshold=0.07)
    assert len(expected.scores) > 5
    app = make_app()
    for answer in (post(app, content), post(app, form_of(content), headers={"Content-Type": FORM})):
        assert answer.status == 200
        assert (answer.json["width"], answer.json["height"]) == (64, 64)
        assert answer.json["thresholds"] == dict.fromkeys(detector.class_names, 0.07)
        rows = answer.json["detections"]
        assert np.array([row["box"] for row in rows]) == pytest.approx(expected.boxes.numpy(), abs=0.006)
        assert [row["score"] for row in rows] == pytest.approx(expected.scores.tolist(), abs=1e-5)
        assert [row["label"] for row in rows] == expected.labels.tolist()
        assert [row["class_name"] for row in rows] == [detector.class_names[label] for label in expected.labels]


@pytest.mark.usefixtures("untrained")
def test_caller_chooses_the_thresholds() -> None:
    weights, description = load_detector("models/model.pt")
    # One of 2 objects and no error above 0.08: F1 2/3. Both, and 4 errors, above 0.06: F1 2 * 2 / (2 + 6) = 0.5.
    counts = {"num_truths": 2, "true_positives": [1, 2], "false_positives": [0, 4], "thresholds": [0.08, 0.06]}
    description["working_point"] = {"overall": counts, "classes": [counts] * 3}
    save_detector(Path("models/model.pt"), weights, description)
    app, content = make_app(thresholds=None), Path(PICTURE).read_bytes()
    assert set(post(app, content).json["thresholds"].values()) == {0.08}
    assert set(post(app, content, url="/detect?working_point=recall=0.9").json["thresholds"].values()) == {0.06}
    at_none = post(app, content, url="/detect?threshold=0").json
    assert min(row["score"] for row in at_none["detections"]) > 0.05  # the floor
    assert post(app, content, url="/detect?threshold=1").json["detections"] == []


@pytest.mark.usefixtures("untrained")
def test_drawn_picture_is_a_jpeg_with_boxes() -> None:
    app, content = make_app(), Path(PICTURE).read_bytes()
    drawn, plain = (post(app, content, url=f"/draw?threshold={limit}") for limit in (0.07, 1))
    assert drawn.headers["content-type"] == "image/jpeg"
    first, second, original = decode(drawn.body).int(), decode(plain.body).int(), decode(content).int()
    assert first.shape == original.shape
    assert (second - original).abs().float().mean() < 12 < (first - original).abs().float().mean()


def test_picture_of_two_formats_is_read_as_the_one_that_is_allowed() -> None:
    """A WebP with the mark of a Photo CD in what follows its pixels, which Pillow by itself takes for one."""
    content = saved(Image.new("RGB", (64, 64)), "WEBP")
    more = bytearray(4096)
    place = 2048 - len(content) - 8  # in the chunk
    more[place : place + 4] = b"PCD_"
    both = content + b"JUNK" + struct.pack("<I", len(more)) + more
    both = both[:4] + struct.pack("<I", len(both) - 8) + both[8:]
    Image.init()  # all of its readers
    assert Image.open(io.BytesIO(both)).format == "PCD"
    assert decode_upload(both, max_pixels=10**6).shape == (3, 64, 64)


# ---- bad requests ----------------------------------------------------------------------------------------------------

BAD: dict[str, tuple[int, str, dict[str, Any]]] = {
    "empty": (400, "no body", {"body": b""}),
    "text": (415, "no picture of a known format", {"body": b"x" * 1000}),
    "eps": (415, "no picture of a known format", {"body": saved(Image.new("RGB", (9, 9)), "EPS")}),
    "cut": (422, "cannot be decoded", {"body": saved(Image.effect_noise((64, 64), 50), "PNG")[:900]}),
    "header": (422, "cannot be decoded", {"body": png_of(64, 64)}),
    "floats": (422, "32-bit floats", {"body": saved(Image.new("F", (9, 9)), "TIFF")}),
    "pixels": (413, "4000 x 4000 px, more than 1 megapixels", {"body": png_of(4000, 4000)}),
    "bomb": (413, "more than 1 megapixels", {"body": png_of(60_000, 60_000)}),
    "bytes": (413, "larger than 0.1 MB", {"body": [b"\0" * 60_000] * 2}),
    "announced": (413, "larger than 0.1 MB", {"body": b"", "headers": {"Content-Length": "100001"}}),
    "form without a file": (
        400,
        "the form has no file",
        {
            "body": b'--x\r\nContent-Disposition: form-data; name="a"\r\n\r\nb\r\n--x--\r\n',
            "headers": {"Content-Type": FORM},
        },
    ),
    "form without a boundary": (
        400,
        "cannot be read",
        {"body": form_of(b""), "headers": {"Content-Type": "multipart/form-data"}},
    ),
    "form that is none": (400, "cannot be read", {"body": b"\0\1", "headers": {"Content-Type": FORM}}),
    "large form": (413, "larger", {"body": [form_of(b"\0" * 120_000)], "headers": {"Content-Type": FORM}}),
    "threshold": (400, "threshold is 'high'", {"body": b"x", "url": "/detect?threshold=high"}),
    "threshold that is no number": (400, "threshold is 'nan'", {"body": b"x", "url": "/detect?threshold=nan"}),
    "working point": (400, "working_point: ", {"body": b"x", "url": "/detect?working_point=best"}),
    "no working point": (400, "has no working point", {"body": b"x", "url": "/detect?working_point=f1"}),
    "slow": (408, "within 0.01 s", {"body": []}),
    "path": (404, "POST /nothing: Not Found", {"body": b"x", "url": "/nothing"}),
    "method": (405, "Method Not Allowed", {"body": b"x", "url": "/model"}),
}


@pytest.mark.usefixtures("untrained")
def test_every_bad_request_gets_its_status_and_one_sentence_in_json() -> None:
    app = make_app(max_upload_mb=0.1, max_megapixels=1.0, upload_timeout_s=0.01)
    for name, (status, text, request) in BAD.items():
        answer = post(app, **request)
        assert answer.status == status, name
        assert answer.headers["content-type"] == "application/json", name
        assert text in answer.json["error"] and "\n" not in answer.json["error"], (name, answer.json)


@pytest.mark.usefixtures("untrained")
def test_picture_that_cannot_be_detected_on_spoils_no_other(monkeypatch: pytest.MonkeyPatch) -> None:
    service = make_service()
    good, bad = (service.detector.prepare(torch.full((3, 64, 64), value, dtype=torch.uint8)) for value in (1, 2))
    forward = service.detector.model.forward

    def fail(images: torch.Tensor) -> Any:
        if (images[:, 0, 0, 0] == bad_value).any():
            raise torch.OutOfMemoryError("CUDA out of memory")
        return forward(images)

    from retinanet.network.model import normalise_images

    transforms = service.detector.transforms
    bad_value = normalise_images(bad[0].images, list(transforms.mean), list(transforms.std))[0, 0, 0, 0]
    monkeypatch.setattr(service.detector.model, "forward", fail)
    outcomes = asyncio.run(service.detect_batch([good, bad, good]))
    assert [isinstance(outcome, Exception) for outcome in outcomes] == [False, True, False]
    service.check()
    asyncio.run(service.detect_batch([bad, bad, bad]))
    answer = asyncio.run(ask(build_app(service, metrics=no_metrics), "GET", "/health"))
    assert (answer.status, answer.json) == (503, {"error": "the network failed on 3 pictures in a row"})


@pytest.mark.usefixtures("untrained")
def test_bug_is_logged_and_not_shown(caplog: pytest.LogCaptureFixture) -> None:
    service = make_service()

    async def fail(prepared: Prepared) -> Outcome:
        raise KeyError("secret")

    service.detect_one = fail
    answer = post(build_app(service, metrics=no_metrics), Path(PICTURE).read_bytes())
    assert (answer.status, answer.json) == (500, {"error": "the service failed; its log says why"})
    assert "KeyError: 'secret'" in caplog.text
    assert service.waiting == 0


@pytest.mark.usefixtures("untrained")
def test_full_queue_refuses_at_once_and_answers_what_it_has_accepted() -> None:
    service = make_service(max_waiting=2)
    app, content = build_app(service, metrics=no_metrics), Path(PICTURE).read_bytes()
    detect_one = service.detect_one

    async def run() -> tuple[list[Answer], list[Answer]]:
        may_go = asyncio.Event()

        async def wait(prepared: Prepared) -> Outcome:
            await may_go.wait()
            return await detect_one(prepared)

        service.detect_one = wait
        accepted = [asyncio.create_task(ask(app, "POST", "/detect", content)) for _ in range(2)]
        await asyncio.sleep(0)
        refused = [await ask(app, "POST", "/detect", content) for _ in range(3)]
        assert (await ask(app, "GET", "/health")).json == {"status": "ok", "waiting": 2}
        may_go.set()
        return await asyncio.gather(*accepted), refused

    answered, refused = asyncio.run(run())
    assert [answer.status for answer in answered] == [200, 200]
    assert [(answer.status, answer.headers["retry-after"]) for answer in refused] == [(503, "1")] * 3
    assert "2 pictures are waiting" in refused[0].json["error"]
    assert service.waiting == 0


# ---- the other routes ------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("untrained")
def test_model_page_and_metrics_are_shown() -> None:
    app = make_app(max_upload_mb=2.5)
    model, page, metrics = (asyncio.run(ask(app, "GET", url)) for url in ("/model", "/", "/metrics"))
    assert model.json["class_names"] == ["disc", "square", "triangle"]
    assert (model.json["floor"], model.json["max_upload_bytes"]) == (0.05, 2_500_000)
    assert page.headers["content-type"].startswith("text/html") and b'<input id="file"' in page.body
    assert page.headers["content-security-policy"].startswith("default-src 'self';")
    assert metrics.body == b"ray_serve_x 1\n"
