"""Pictures per second of `predict`, of a loop over `Detector`, and of torchvision's RetinaNet of the same network.

    python -m bench.predict [--rounds 3] [--write]

Each contender reads JPEG files, of 640 x 480 px and every fourth upright, and detects on them; nothing is written. They
take turns in one process, on 1 and on 2 threads. All have the same random weights, which detect nothing.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import torch
from torchvision.models.detection import RetinaNet as TorchvisionRetinaNet

from bench.loader import write_pictures
from bench.peer import build_torchvision, our_name
from bench.ratios import header, keep, spread, table
from pipeline.params import load_params
from pipeline.predict.detection import detect
from pipeline.predict.inputs import Source
from retinanet.anchors.grid import build_grid
from retinanet.data.pictures import read_picture
from retinanet.inference.detector import Detector, build_network
from retinanet.inference.detector_file import describe_detector

CLASSES = 80
# Backbone, short and long side in px, number of pictures.
CASES = (("resnet18", 128, 224, 16), ("resnet18", 256, 448, 16), ("resnet50", 800, 1333, 4))


def main() -> None:
    """Print the table; --write keeps it in bench/RESULTS.md."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--cases", type=int, nargs="+", default=list(range(len(CASES))), help="by number, from 0")
    parser.add_argument("--write", action="store_true", help="keep the table in bench/RESULTS.md")
    options = parser.parse_args()
    text = header()
    with tempfile.TemporaryDirectory(prefix="predict") as folder:
        rows = [
            row
            for case in options.cases
            for row in measure(Path(folder), *CASES[case], threads=options.threads, rounds=options.rounds)
        ]
    columns = ["network, short side", "threads", "contender", "pictures/s", "CPU s a picture"]
    columns += ["wall, it / predict", "CPU, it / predict"]
    text += f"\n\n{table(columns, rows)}"
    print(text)
    if options.write:
        keep("predict beside a loop and torchvision", text)


def measure(
    folder: Path, backbone: str, short: int, long: int, count: int, *, threads: Sequence[int], rounds: int
) -> list[list[str]]:
    """A row per number of threads and contender."""
    paths = [str(path) for path in draw_pictures(folder, count)]
    detector, peer = build(backbone, short, long)
    contenders: Mapping[str, Callable[[Sequence[str]], Any]] = {
        "predict": lambda some: by_predict(detector, some),
        "loop over Detector": lambda some: by_loop(detector, some),
        "torchvision": lambda some: by_torchvision(peer, some),
    }
    rows = []
    for number in threads:
        torch.set_num_threads(number)
        for run in contenders.values():
            run(paths[2:4])  # of both shapes, to warm up
        turns = [{name: clock(partial(run, paths)) for name, run in contenders.items()} for _ in range(rounds)]
        for name in contenders:
            wall, cpu = (median(turn[name][which] for turn in turns) / count for which in (0, 1))
            ratios = [spread([turn[name][which] / turn["predict"][which] for turn in turns]) for which in (0, 1)]
            what = f"{backbone}, {short} px"
            rows.append([what, str(number), name, f"{1 / wall:.3g}", f"{cpu:.3g}", *ratios])
            print(*rows[-1], sep="  ", flush=True)
    return rows


def draw_pictures(folder: Path, count: int) -> list[Path]:
    """JPEG files, every fourth upright."""
    for name in ("wide", "tall"):
        (folder / name).mkdir(exist_ok=True)
    wide = write_pictures(folder / "wide", (480, 640), count - count // 4)
    tall = write_pictures(folder / "tall", (640, 480), count // 4)
    return [path for place in range(0, len(wide), 3) for path in [*wide[place : place + 3], *tall[place // 3 :][:1]]]


def build(backbone: str, short: int, long: int) -> tuple[Detector, TorchvisionRetinaNet]:
    """The detector, and torchvision's model with the same weights."""
    sections = load_params().model_dump()
    sections["transforms"] |= {"short_side": short, "long_side": long, "tiles": None, "resize": "torchvision"}
    sections["model"] |= {"backbone": backbone, "norm": "frozen_batch", "head_norm": "none", "p6_from": "p5"}
    sections["model"] |= {"fpn_channels": 256, "head_channels": 256, "head_depth": 4}
    description = describe_detector(
        **{name: sections[name] for name in ("model", "loss", "transforms")},
        anchors=build_grid().to_dict(),
        categories=[{"id": label, "name": f"class {label}"} for label in range(CLASSES)],
        run={},
    )
    torch.manual_seed(0)
    peer = build_torchvision(backbone, CLASSES).eval()
    peer.transform.min_size, peer.transform.max_size = (short,), long
    network = build_network(description)
    network.load_state_dict({our_name(name): value for name, value in peer.state_dict().items()})
    network.to(memory_format=torch.channels_last)
    return Detector(network.eval(), description), peer


def by_predict(detector: Detector, paths: Sequence[str]) -> object:
    """What the command does but for its files of results."""
    thresholds = [0.3] * CLASSES
    return list(detect(detector, [Source(path, path) for path in paths], thresholds=thresholds, processes=0))


def by_loop(detector: Detector, paths: Sequence[str]) -> object:
    """One picture after the other, as docs/use.md shows it."""
    return [detector([read_picture(path).permute(1, 2, 0).numpy()]) for path in paths]


@torch.no_grad()
def by_torchvision(peer: TorchvisionRetinaNet, paths: Sequence[str]) -> object:
    """One picture after the other, resized by the model."""
    return [peer([read_picture(path).float() / 255]) for path in paths]


def clock(run: Callable[[], Any]) -> tuple[float, float]:
    """Wall and CPU seconds of one run."""
    begun = time.perf_counter(), time.process_time()
    run()
    return time.perf_counter() - begun[0], time.process_time() - begun[1]


if __name__ == "__main__":
    main()
