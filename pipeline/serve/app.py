"""The HTTP interface: routes, JSON, one JSON error for whatever goes wrong. Knows no Ray."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from functools import wraps
from pathlib import Path
from typing import Any

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route

from pipeline.serve.detection import DetectionService, Found
from pipeline.serve.uploads import RequestError, read_file

FILES = {"page.html": "text/html", "page.css": "text/css", "page.js": "text/javascript"}
"""The page, beside this module."""

POLICY = "default-src 'self'; img-src 'self' blob: data:; frame-ancestors 'none'; base-uri 'none'"
HEADERS = {
    "Content-Security-Policy": POLICY,
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-cache",
}
Endpoint = Callable[[Request], Awaitable[Response]]
LOGGER = logging.getLogger("ray.serve")


def build_app(service: DetectionService, *, metrics: Callable[[], Awaitable[str]]) -> Starlette:
    """The application of one replica.

    Args:
        metrics: the text of /metrics.
    """

    async def detect(request: Request) -> Response:
        _, found = await find(service, request)
        return JSONResponse(describe(found, service.detector.class_names))

    async def draw(request: Request) -> Response:
        content, found = await find(service, request)
        return Response(await service.draw(content, found), media_type="image/jpeg")

    async def model(request: Request) -> Response:
        return JSONResponse(describe_model(service))

    async def health(request: Request) -> Response:
        service.check()
        return JSONResponse({"status": "ok", "waiting": service.waiting})

    async def show_metrics(request: Request) -> Response:
        return PlainTextResponse(await metrics())

    return Starlette(
        routes=[
            Route("/detect", guard(detect), methods=["POST"]),
            Route("/draw", guard(draw), methods=["POST"]),
            Route("/model", guard(model)),
            Route("/health", guard(health)),
            Route("/metrics", guard(show_metrics)),
            Route("/", serve_file("page.html")),
            *(Route(f"/{name}", serve_file(name)) for name in ("page.css", "page.js")),
        ],
        exception_handlers={HTTPException: refuse},
    )


async def find(service: DetectionService, request: Request) -> tuple[bytes, Found]:
    """Read the picture of a request and detect on it."""
    settings, query = service.settings, request.query_params
    thresholds = service.choose_thresholds(threshold=query.get("threshold"), working_point=query.get("working_point"))
    with service.accept():
        content = await read_file(
            request.headers, request.stream(), max_bytes=settings.max_bytes, timeout_s=settings.upload_timeout_s
        )
        return content, await service.detect(content, thresholds)


def describe(found: Found, class_names: list[str]) -> dict[str, Any]:
    """The answer to a picture; boxes are x1, y1, x2, y2 in its px."""
    fields = (field.tolist() for field in found.detections)
    height, width = found.size
    return {
        "width": width,
        "height": height,
        "thresholds": by_name(class_names, found.thresholds),
        "detections": [
            {
                "box": [round(side, 2) for side in box],
                "score": round(score, 5),
                "label": label,
                "class_name": class_names[label],
            }
            for box, score, label in zip(*fields, strict=True)
        ],
    }


def by_name(class_names: list[str], thresholds: list[float]) -> dict[str, float]:
    """Thresholds as readable as the scores that they are compared with."""
    return {name: round(threshold, 5) for name, threshold in zip(class_names, thresholds, strict=True)}


def describe_model(service: DetectionService) -> dict[str, Any]:
    """What is served, and its limits."""
    settings, names = service.settings, service.detector.class_names
    return {
        "run": service.detector.description.get("run", {}),
        "class_names": names,
        "thresholds": by_name(names, service.thresholds),
        "floor": service.floor,
        "temperature": service.temperature,
        "max_upload_bytes": settings.max_bytes,
        "max_pixels": settings.max_pixels,
        "max_waiting": settings.max_waiting,
    }


def guard(endpoint: Endpoint) -> Endpoint:
    """Answer an error with JSON; what is no fault of the client's is logged, and its traceback stays there."""

    @wraps(endpoint)
    async def answer(request: Request) -> Response:
        try:
            return await endpoint(request)
        except RequestError as error:
            return JSONResponse({"error": str(error)}, status_code=error.status, headers=error.headers)
        except ClientDisconnect:
            return JSONResponse({"error": "the client has gone"}, status_code=400)
        except Exception:
            LOGGER.exception("%s failed", request.url.path)
            return JSONResponse({"error": "the service failed; its log says why"}, status_code=500)

    return answer


async def refuse(request: Request, error: Exception) -> Response:
    """Answer a wrong path or method."""
    assert isinstance(error, HTTPException)
    message = f"{request.method} {request.url.path}: {error.detail}; pictures go to POST /detect"
    return JSONResponse({"error": message}, status_code=error.status_code, headers=error.headers)


def serve_file(name: str) -> Endpoint:
    """The endpoint of a file of the page."""
    content = (Path(__file__).parent / name).read_bytes()

    async def show(request: Request) -> Response:
        return Response(content, media_type=FILES[name], headers=HEADERS)

    return show
