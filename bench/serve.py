"""Requests per second of `python -m pipeline.serve` and their latency, with and without batching.

    python -m bench.serve [--clients 1 8 32] [--requests 300] [--write]

The service runs with one replica on a Ray of its own; the clients are threads of this process, each with one open
connection, that send JPEG files of 640 x 480 px, every fourth upright. They take their share of the cores. A latency is
from the first byte sent to the last byte received. The weights are random, and detect nothing.
"""

from __future__ import annotations

import argparse
import http.client
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch

from bench.loader import write_pictures
from bench.ratios import header, keep, table
from pipeline.cluster.processors import count_cpus
from pipeline.params import load_params
from retinanet.anchors.grid import build_grid
from retinanet.inference.detector import build_network
from retinanet.inference.detector_file import describe_detector, save_detector

# Changes to params.yaml: that of `make repro`, and torchvision's RetinaNet at COCO's size.
NETWORKS: dict[str, dict[str, dict[str, Any]]] = {
    "params.yaml": {},
    "resnet50, 800 px": {
        "model": {"backbone": "resnet50", "fpn_channels": 256, "head_channels": 256, "head_depth": 4},
        "transforms": {"short_side": 800, "long_side": 1333},
    },
}
BATCHES = (8, 1)
CLASSES = 80  # COCO's
HOST = "127.0.0.1"


def main() -> None:
    """Print the table; --write keeps it in bench/RESULTS.md."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clients", type=int, nargs="+", default=[1, 8, 32])
    parser.add_argument("--requests", type=int, default=300, help="of each row")
    parser.add_argument("--network", choices=NETWORKS, default="params.yaml")
    parser.add_argument("--write", action="store_true", help="keep the table in bench/RESULTS.md")
    options = parser.parse_args()
    text, rows = header(), []
    with tempfile.TemporaryDirectory(prefix="serve") as name:
        folder = Path(name)
        write_model(folder / "model.pt", options.network)
        bodies = draw_pictures(folder)
        for batch_size in BATCHES:
            with serving(folder, batch_size) as port:
                send(port, bodies, clients=4, requests=16)
                for clients in options.clients:
                    latencies, seconds = send(port, bodies, clients=clients, requests=options.requests)
                    middle, late = 1000 * np.percentile(latencies, [50, 99])
                    per_s = f"{options.requests / seconds:.1f}"
                    rows.append([str(batch_size), str(clients), per_s, f"{middle:.0f}", f"{late:.0f}"])
                    print(*rows[-1], sep="  ", flush=True)
    columns = ["batch", "clients", "requests/s", "p50 ms", "p99 ms"]
    text = text.partition("\n")[0]  # the rest of the header is on ratios
    text += f"\n\nNetwork of {options.network}, {options.requests} requests a row.\n\n{table(columns, rows)}"
    print(text)
    if options.write:
        keep("Requests per second of the service", text)


def draw_pictures(folder: Path) -> list[bytes]:
    """16 JPEG files."""
    bodies: list[bytes] = []
    for name, size, count in (("wide", (480, 640), 12), ("tall", (640, 480), 4)):
        (folder / name).mkdir()
        bodies += [path.read_bytes() for path in write_pictures(folder / name, size, count)]
    return [bodies[place % 4 * 4 + place // 4] for place in range(16)]  # every fourth is upright


def write_model(path: Path, network: str) -> None:
    """Write a detector of random weights."""
    sections = load_params().model_dump()
    for section, values in NETWORKS[network].items():
        sections[section] |= values
    description = describe_detector(
        **{name: sections[name] for name in ("model", "loss", "transforms")},
        anchors=build_grid().to_dict(),
        categories=[{"id": label, "name": f"class {label}"} for label in range(CLASSES)],
        run={},
    )
    torch.manual_seed(0)
    save_detector(path, build_network(description).state_dict(), description)


@contextmanager
def serving(folder: Path, batch_size: int) -> Iterator[int]:
    """Run the command in a folder without conf/, so on all cores; yields its port."""
    with socket.socket() as listener:
        listener.bind((HOST, 0))
        port = int(listener.getsockname()[1])
    command = [sys.executable, "-m", "pipeline.serve", "--model", "model.pt", "--port", str(port)]
    command += ["--batch-size", str(batch_size), "--score-threshold", "0.5"]
    root = str(Path(__file__).parents[1])
    environment = {"PYTHONPATH": root, "OMP_NUM_THREADS": str(count_cpus())}
    process = subprocess.Popen(
        ["env", *(f"{key}={value}" for key, value in environment.items()), *command],
        cwd=folder,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    try:
        lines = iter(process.stdout.readline, "")
        if not any(line.startswith("serving ") for line in lines):
            raise RuntimeError(f"the service did not start; status {process.wait()}")
        yield port
    finally:
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=120)


def send(port: int, bodies: Sequence[bytes], *, clients: int, requests: int) -> tuple[list[float], float]:
    """Send requests from clients that wait for each answer before the next request.

    Returns:
        The latencies, and the time of all, s.
    """
    latencies: list[float] = []
    numbers = iter(range(requests))
    lock = threading.Lock()

    def work() -> None:
        connection = http.client.HTTPConnection(HOST, port, timeout=600)
        while True:
            with lock:
                number = next(numbers, None)
            if number is None:
                break
            begun = time.perf_counter()
            connection.request("POST", "/detect", bodies[number % len(bodies)])
            answer = connection.getresponse()
            content = answer.read()
            latencies.append(time.perf_counter() - begun)
            assert answer.status == 200, content
        connection.close()

    threads = [threading.Thread(target=work) for _ in range(clients)]
    begun = time.perf_counter()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(latencies) == requests
    return latencies, time.perf_counter() - begun


if __name__ == "__main__":
    main()
