"""The deployment of Ray Serve: replicas that collect the pictures of many requests into batches.

`build` is what a file of `serve deploy` or a RayService names as import_path; see deploy/rayservice.yaml.
"""

from __future__ import annotations

import asyncio
import urllib.request
from typing import Any

import ray
import torch
from PIL import Image
from ray import serve
from starlette.applications import Starlette

from pipeline.detector.model import choose_device, load_model
from pipeline.serve.app import build_app
from pipeline.serve.detection import RETRY_AFTER_S, DetectionService, Outcome, Prepared
from pipeline.serve.settings import Settings

NAME, DEPLOYMENT = "retinanet", "detector"
"""Of the application, and of its only deployment."""

ROOM = 64
"""Requests that a replica takes beyond max_waiting: the page, /health, and those that it refuses itself, in JSON."""

METRICS = ("ray_serve_", "# HELP ray_serve_", "# TYPE ray_serve_")


class Replica:
    """A detector with its HTTP interface.

    Args:
        settings: values of Settings.
    """

    def __init__(self, settings: dict[str, Any]) -> None:
        own = Settings(**settings)
        # Pillow's own guard, beside ours: it also sees frames that are larger than the picture says.
        Image.MAX_IMAGE_PIXELS = own.max_pixels
        detector = load_model(own.model, choose_device(None))
        self.service = DetectionService(detector, own, threads=torch.get_num_threads())
        detector.detect([detector.prepare(torch.zeros(3, 64, 64, dtype=torch.uint8))])  # the first pass is slow

        async def detect_batch(pictures: list[Prepared]) -> list[Outcome]:
            return await self.service.detect_batch(pictures)

        batching = serve.batch(max_batch_size=own.batch_size, batch_wait_timeout_s=own.batch_wait_s)
        self.service.detect_one = batching(detect_batch)

    def __serve_build_asgi_app__(self) -> Starlette:
        """Called by Ray Serve."""
        return build_app(self.service, metrics=read_metrics)

    def check_health(self) -> None:
        """Called by Ray Serve, which replaces a replica that raises."""
        self.service.check()


def build(arguments: dict[str, Any]) -> serve.Application:
    """The application with these settings; replicas and resources come from the file that names it."""
    return bind(Settings(**arguments))


def bind(settings: Settings, **options: Any) -> serve.Application:
    """The application with these settings.

    Args:
        options: of the deployment: num_replicas, ray_actor_options.
    """
    deployment = serve.deployment(
        name=DEPLOYMENT,
        max_ongoing_requests=settings.max_waiting + ROOM,
        max_queued_requests=ROOM,
        backpressure_config={"retry_after_s": RETRY_AFTER_S},
        max_constructor_retry_count=2,
        graceful_shutdown_wait_loop_s=0.5,
        **options,
    )
    return deployment(serve.ingress()(Replica)).bind(settings.model_dump())


async def read_metrics() -> str:
    """Ray Serve's metrics of this node, as its agent gives them to Prometheus."""
    node = next(node for node in ray.nodes() if node["NodeID"] == ray.get_runtime_context().get_node_id())
    url = f"http://{node['NodeManagerAddress']}:{node['MetricsExportPort']}/metrics"
    text = await asyncio.to_thread(get, url)
    return "".join(line for line in text.splitlines(keepends=True) if line.startswith(METRICS))


def get(url: str) -> str:
    """The text at a URL of this machine; a proxy of the environment has no part in it."""
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with opener.open(url, timeout=10) as answer:
        text: str = answer.read().decode()
    return text
