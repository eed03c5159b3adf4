"""All measures of an evaluation that need no network, on 5,000 images of up to 100 detections; and AP alone.

Prints seconds of wall time and of CPU time: on a busy machine only the second can be compared.
"""

from __future__ import annotations

import argparse
import resource
import time
from collections.abc import Callable
from typing import Any

from bench.evaluation import NUM_CLASSES, build_world
from retinanet.evaluation.coco_eval import evaluate_detections
from retinanet.evaluation.matching import match_all
from retinanet.evaluation.measures import analyse
from retinanet.evaluation.score_matches import describe_candidates

THRESHOLD, TEMPERATURE = 0.5, 0.8


def clock(title: str, work: Callable[[], Any]) -> Any:
    """Run and print the time."""
    wall, cpu = time.perf_counter(), time.process_time()
    value = work()
    print(f"| {title} | {time.perf_counter() - wall:.1f} | {time.process_time() - cpu:.1f} |", flush=True)
    return value


def main() -> None:
    """Time each step."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=5000)
    parser.add_argument("--resamples", type=int, default=500)
    options = parser.parse_args()
    truth, detections = build_world(options.images)
    total = sum(len(scores) for _, scores, _ in detections.values())
    print(f"{options.images} images, {len(truth['annotations'])} truths, {total} detections, {NUM_CLASSES} classes")
    print("| step | wall s | CPU s |\n|---|---|---|")
    result = clock("AP alone", lambda: evaluate_detections(truth, detections))
    clock("candidates for the working point, temperature", lambda: describe_candidates(truth, detections, lowest=0.05))
    matching = clock("matching", lambda: match_all(truth, detections))
    thresholds = [THRESHOLD] * NUM_CLASSES
    for resamples in (0, options.resamples):
        clock(
            f"all measures, {resamples} resamples",
            lambda resamples=resamples: analyse(
                truth, matching, result.metrics, thresholds=thresholds, resamples=resamples, temperature=TEMPERATURE
            ),
        )
    print(f"peak memory {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20:.2f} GiB")


if __name__ == "__main__":
    main()
