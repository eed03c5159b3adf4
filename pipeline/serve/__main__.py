"""The command serve."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from collections.abc import Mapping
from functools import partial
from typing import Any

from pipeline.cli.command import Command
from pipeline.detector.calibration import OPTION as CALIBRATE

MODEL = "models/model.pt"
PORT = 8000

DESCRIPTION = """\
Serve a detector over HTTP with Ray Serve, until Ctrl-C: a page for pictures at /, and

POST /detect   a picture (the body, or a form with one file) -> JSON with boxes, scores and classes
POST /draw     the same -> a JPEG with the boxes
GET  /model, /health, /metrics

?threshold=0.5 is one score for all classes; ?working_point=precision=0.9 (recall=0.8, f1) chooses thresholds on val.

reads    the model; conf/local.yaml, or the file named by PIPELINE_CONF, for the cluster and a replica's resources
"""


def add_options(parser: ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument(
        "--model", default=MODEL, help="file or URL of a detector, or an MLflow model such as models:/cells@champion"
    )
    parser.add_argument(
        "--host", default="127.0.0.1", help="address to listen on; 0.0.0.0: all (default: this machine)"
    )
    parser.add_argument("--port", type=int, default=PORT, help="default: %(default)s")
    parser.add_argument("--replicas", type=int, default=1, help="copies of the detector (default: %(default)s)")
    parser.add_argument("--batch-size", type=int, default=8, help="most pictures per pass (default: %(default)s)")
    parser.add_argument(
        "--batch-wait-ms", type=float, default=5.0, help="wait for others that long (default: %(default)s)"
    )
    lowest = parser.add_mutually_exclusive_group()
    lowest.add_argument("--working-point", metavar="TARGET", help="f1, precision=0.9 or recall=0.8, as in predict")
    lowest.add_argument("--score-threshold", type=float, help="one for all classes, exclusive, instead")
    parser.add_argument("--calibrate", **CALIBRATE)
    parser.add_argument("--max-upload-mb", type=float, default=20.0, help="larger: 413 (default: %(default)s)")
    parser.add_argument("--max-megapixels", type=float, default=50.0, help="larger: 413 (default: %(default)s)")
    parser.add_argument(
        "--max-waiting",
        type=int,
        default=64,
        help="pictures a replica accepts at a time; more: 503 (default: %(default)s)",
    )


def work(options: Namespace) -> None:
    """Check the options, and serve."""
    checks = {"replicas": 1, "batch_size": 1, "batch_wait_ms": 0, "max_waiting": 1}
    for name, least in checks.items():
        if getattr(options, name) < least:
            raise ValueError(f"--{name.replace('_', '-')} is {getattr(options, name)}; expected {least} or more")
    for name in ("max_upload_mb", "max_megapixels"):
        if not 0 < getattr(options, name) < 1e6:
            raise ValueError(f"--{name.replace('_', '-')} is {getattr(options, name)}; expected more than 0")
    if not 0 < options.port < 2**16:
        raise ValueError(f"--port is {options.port}; expected 1 to 65535")
    if options.score_threshold is not None and not 0 <= options.score_threshold <= 1:
        raise ValueError(f"--score-threshold is {options.score_threshold}; expected 0 to 1")
    from pipeline.serve.place import choose_place
    from pipeline.serve.settings import Settings

    settings = Settings(
        model=options.model,
        batch_size=options.batch_size,
        batch_wait_s=options.batch_wait_ms / 1000,
        max_upload_mb=options.max_upload_mb,
        max_megapixels=options.max_megapixels,
        max_waiting=options.max_waiting,
    )
    place = choose_place(options)
    from pipeline.serve.run import run_service

    run_service(settings, place, partial(choose_settings, options=options))


def choose_settings(description: Mapping[str, Any], *, options: Namespace) -> dict[str, Any]:
    """The settings that depend on the detector."""
    from pipeline.detector.thresholds import choose_scores

    scores = choose_scores(
        description,
        number=options.score_threshold,
        target=options.working_point,
        calibrate=options.calibrate,
        is_projects=options.model == MODEL,
    )
    return {"thresholds": scores.thresholds, "calibrate": scores.temperature is not None}


COMMAND = Command("serve", DESCRIPTION, work, add_options, in_project=False)
main = COMMAND.main

if __name__ == "__main__":
    COMMAND.run()
