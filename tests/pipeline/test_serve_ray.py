"""The service as users start it: on a Ray of its own and on a cluster, with many clients, and its page in a browser."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import psutil
import pytest
import ray
from playwright.sync_api import Page, expect

from docs.screenshots import CHROMIUMS, PATIENCE_MS, find_chromium, opened
from retinanet.data.pictures import read_picture
from retinanet.inference.detector import Detector
from tests.pipeline.conftest import write_detector
from tests.running import Stage
from tests.servers import free_port

pytestmark = pytest.mark.slow

PICTURES = "data/prepared/images/test"
BROKEN, GOOD, CLIENTS = 1000, 60, 16


def serve(project: Path, variables: dict[str, str], *options: str) -> tuple[Stage, str]:
    """The command, once it serves, and its address."""
    port = free_port()
    stage = Stage(project, variables, "serve", "--port", str(port), "--score-threshold", "0.07", *options)
    try:
        stage.wait_for("serving ")
    except BaseException:
        stage.end()
        raise
    return stage, f"http://127.0.0.1:{port}"


def stop(stage: Stage) -> None:
    """Ask it to stop, and wait until its Ray has gone, too."""
    try:
        family = psutil.Process(stage.process.pid).children(recursive=True)
        stage.process.send_signal(signal.SIGTERM)
        assert stage.wait() == 0, "\n".join(stage.lines)
        assert not psutil.wait_procs(family, timeout=30)[1]
    finally:
        stage.end()


@pytest.fixture(scope="module")
def served_project(prepared: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder: Path = tmp_path_factory.mktemp("served") / "project"
    shutil.copytree(prepared, folder)
    write_detector(folder)
    return folder


@pytest.fixture(scope="module")
def address(served_project: Path, stage_variables: dict[str, str]) -> Iterator[str]:
    """Of a service with two replicas on a Ray of its own."""
    variables = {key: text for key, text in stage_variables.items() if key != "RAY_ADDRESS"}
    stage, address = serve(served_project, variables, "--replicas", "2", "--batch-wait-ms", "50")
    try:
        yield address
    finally:
        stop(stage)


def ask(url: str, body: bytes | None = None) -> tuple[int, bytes]:
    """Status and content of an answer."""
    try:
        with urllib.request.urlopen(urllib.request.Request(url, data=body), timeout=120) as answer:
            return answer.status, answer.read()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read()


def test_no_good_picture_is_lost_among_a_thousand_broken_ones(address: str, served_project: Path) -> None:
    """They come from many clients at once, are detected on in batches, and get the detections of the detector."""
    paths = sorted((served_project / PICTURES).glob("*.png"))
    detector = Detector.load(served_project / "models/model.pt")
    expected = {path: scores_of(detector, path) for path in paths}
    whole = paths[0].read_bytes()
    broken = [whole[: 20 + 7 * number % (len(whole) // 2)] if number % 3 else b"no picture" for number in range(BROKEN)]
    good = [paths[number % len(paths)] for number in range(GOOD)]
    every = BROKEN // GOOD
    with ThreadPoolExecutor(CLIENTS) as clients:
        jobs = []
        for number, body in enumerate(broken):
            jobs.append((None, clients.submit(ask, f"{address}/detect", body)))
            if number % every == 0 and number // every < GOOD:
                path = good[number // every]
                jobs.append((path, clients.submit(ask, f"{address}/detect", path.read_bytes())))
        answers = [(path, *job.result()) for path, job in jobs]
    assert len(answers) == BROKEN + GOOD
    for path, status, content in answers:
        if path is None:
            assert status in (415, 422) and "error" in json.loads(content)
        else:
            assert status == 200, content
            found = [row["score"] for row in json.loads(content)["detections"]]
            assert found == pytest.approx(expected[path], abs=2e-5)
    assert ask(f"{address}/health") == (200, b'{"status":"ok","waiting":0}')


def scores_of(detector: Detector, path: Path) -> list[float]:
    (found,) = detector([read_picture(str(path)).permute(1, 2, 0).numpy()], score_threshold=0.07)
    scores: list[float] = found.scores.tolist()
    return scores


def test_metrics_are_those_of_ray_serve(address: str, served_project: Path) -> None:
    body = next((served_project / PICTURES).glob("*.png")).read_bytes()
    with ThreadPoolExecutor(8) as clients:
        assert {status for status, _ in clients.map(lambda _: ask(f"{address}/detect", body), range(24))} == {200}
    status, content = ask(f"{address}/metrics")
    names = set(re.findall(r"^(ray_serve_\w+)", content.decode(), flags=re.MULTILINE))
    assert status == 200 and "ray_serve_deployment_replica_healthy" in names, names


def test_service_listens_on_the_loopback_address_alone(address: str) -> None:
    port = int(address.rpartition(":")[2])
    listening = [each.laddr for each in psutil.net_connections("tcp") if each.status == psutil.CONN_LISTEN]
    assert {place.ip for place in listening if place.port == port} == {"127.0.0.1"}


# ---- its page --------------------------------------------------------------------------------------------------------


@pytest.fixture
def page(address: str) -> Iterator[Page]:
    """The page, which reaches nothing else."""
    chromium = find_chromium()
    if chromium is None:
        missing = f"none of {', '.join(CHROMIUMS)} is installed (Debian: apt-get install chromium)"
        if os.environ.get("CI"):
            pytest.fail(missing, pytrace=False)
        pytest.skip(missing)
    expect.set_options(timeout=PATIENCE_MS)
    with opened(address, chromium=chromium) as (page, elsewhere):
        errors: list[str] = []
        page.on("pageerror", lambda error: errors.append(str(error)))
        page.goto(f"{address}/")
        expect(page.locator("#classes")).to_have_text("Classes: disc, square, triangle")
        yield page
        assert (elsewhere, errors) == ([], [])


def test_page_shows_what_the_slider_leaves(page: Page, address: str, served_project: Path) -> None:
    path = next(path for path in sorted((served_project / PICTURES).glob("*.png")))
    _, content = ask(f"{address}/detect?threshold=0", path.read_bytes())
    scores = sorted(row["score"] for row in json.loads(content)["detections"])
    page.set_input_files("#file", str(path))
    count = page.locator("#count")
    expect(count).to_have_text(f"{sum(score > 0.07 for score in scores)} of {len(scores)} candidates shown")
    limit = round(scores[len(scores) // 2], 2)
    page.locator("#slider").fill(str(limit))
    shown = sum(score > limit for score in scores)
    assert 0 < shown < len(scores)
    expect(count).to_have_text(f"{shown} of {len(scores)} candidates shown")
    assert page.locator("#by-slider").is_checked()
    assert page.locator(".box").count() == page.locator("#rows tr").count() == shown
    assert_boxes_lie_where_they_are_listed(page)
    page.get_by_label("above the model's threshold of each class").check()
    expect(count).not_to_have_text(f"{shown} of {len(scores)} candidates shown")


def assert_boxes_lie_where_they_are_listed(page: Page) -> None:
    """The first box, as drawn, against its row; the picture is 64 px wide."""
    x1, y1, x2, y2 = map(int, page.locator("#rows tr td").nth(1).inner_text().split(", "))
    picture, box = page.locator("#picture").bounding_box(), page.locator(".box").first.bounding_box()
    assert picture is not None and box is not None
    scale = picture["width"] / 64
    drawn = [box["x"] - picture["x"], box["y"] - picture["y"], box["width"], box["height"]]
    assert drawn == pytest.approx([scale * side for side in (x1, y1, x2 - x1, y2 - y1)], abs=1.1 * scale)


def test_page_says_what_is_no_picture_and_fits_a_phone(page: Page, served_project: Path) -> None:
    page.set_viewport_size({"width": 360, "height": 740})
    page.set_input_files("#file", str(served_project / "params.yaml"))
    expect(page.get_by_role("status")).to_contain_text("params.yaml: this is no picture of a known format")
    page.set_input_files("#file", str(next((served_project / PICTURES).glob("*.png"))))
    expect(page.locator("#count")).to_contain_text("candidates shown")
    assert page.evaluate("() => document.documentElement.scrollWidth <= window.innerWidth")


# ---- on a cluster ----------------------------------------------------------------------------------------------------


def test_stop_on_a_cluster_answers_what_was_accepted_and_leaves_nothing(
    served_project: Path, shared_ray: str, stage_variables: dict[str, str]
) -> None:
    """The nodes of the cluster get the code from the driver, and the model from the storage."""
    variables = stage_variables | {"RAY_ADDRESS": shared_ray, "RAY_AUTH_MODE": "disabled"}
    stage, address = serve(served_project, variables, "--batch-size", "1")
    body = next((served_project / PICTURES).glob("*.png")).read_bytes()
    answered: list[int] = []

    def call(_: int) -> None:
        answered.append(ask(f"{address}/detect", body)[0])

    clients = [threading.Thread(target=call, args=(number,)) for number in range(40)]
    for client in clients:
        client.start()
    while not answered:
        assert any(client.is_alive() for client in clients)
    stop(stage)
    for client in clients:
        client.join()
    assert len(answered) == 40 and answered.count(200) > 1
    assert set(answered) <= {200, 404, 503}
    assert list((served_project / "runs/inputs").glob("*.pt"))
    names = actor_names(shared_ray)
    assert not [name for name in names if "detector" in name], names


def actor_names(address: str) -> list[str]:
    """The living actors of a cluster."""
    with ray.init(address=address, namespace="serve", logging_level="ERROR", log_to_driver=False):
        listed: list[dict[str, Any]] = ray.util.list_named_actors(all_namespaces=True)
    return [actor["name"] for actor in listed]
