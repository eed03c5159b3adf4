"""What importing the detector costs beyond torch and torchvision: seconds before the first step can begin.

python -m bench.imports [--repeats 5]
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from statistics import median

from bench.ratios import header, keep, table

ROOMS = [
    "retinanet.network.model",
    "retinanet.training.engine",
    "retinanet.inference.detector",
    "retinanet.evaluation.coco_eval",
]
CHILD = """
import importlib, json, sys, time
import torch, torchvision
before, start, cpu = set(sys.modules), time.perf_counter(), time.process_time()
importlib.import_module(sys.argv[1])
took = [time.perf_counter() - start, time.process_time() - cpu]
new = {name.partition(".")[0] for name in set(sys.modules) - before} - set(sys.stdlib_module_names)
print(json.dumps([*took, sorted(new - {"retinanet", "torch", "torchvision", "numpy"})]))
"""


def import_in_new_process(room: str) -> tuple[float, float, list[str]]:
    """Wall and processor seconds of one import, and which other libraries it brings."""
    done = subprocess.run([sys.executable, "-c", CHILD, room], stdout=subprocess.PIPE, text=True, check=True)
    wall, cpu, libraries = json.loads(done.stdout)
    return wall, cpu, libraries


def main() -> None:
    """Measure, and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=5, help="processes per room, in turns")
    parser.add_argument("--write", action="store_true", help="keep the table in bench/RESULTS.md")
    options = parser.parse_args()
    repeats, text = options.repeats, header()
    rounds = [[import_in_new_process(room) for room in ROOMS] for _ in range(1 + repeats)][1:]  # the first fills caches
    rows = []
    for room, found in zip(ROOMS, zip(*rounds, strict=True), strict=True):
        walls, cpus, libraries = zip(*found, strict=True)
        times = (f"{median(walls):.3f} ({min(walls):.3f} to {max(walls):.3f})", f"{median(cpus):.3f}")
        rows.append([room, *times, ", ".join(libraries[0])])
    text += "\n\n" + table(["import", "s, beyond torch and torchvision", "CPU s", "libraries"], rows)
    print(text)
    if options.write:
        keep("Importing the detector", text)


if __name__ == "__main__":
    main()
