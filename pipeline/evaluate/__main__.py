"""Command of the stage evaluate."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from pathlib import Path

from pipeline.cli.command import Command
from pipeline.params import load_params
from pipeline.params.runtime import load_runtime

DESCRIPTION = """\
Run models/model.pt (or --model) on the test (or val) split and compute the COCO metrics; on a cluster Ray's workers
detect.

reads    params.yaml (postprocess, evaluate), models/model.pt, plots/training.csv, data/prepared/<split>.json, images
writes   reports/evaluate.json, reports/evaluate.html (figures, errors, pictures, what to try first),
         reports/detections.json.gz (a COCO results file), reports/{label_mistakes,confusion}.csv, reports/speed.json,
         plots/{precision_recall,thresholds,errors,calibration}.{csv,png}, plots/confusion.png,
         plots/detections.png; MLflow: continues the run of train
"""


def add_options(parser: ArgumentParser) -> None:
    """Which detector, or whose detections."""
    parser.add_argument("--model", type=Path, default=Path("models/model.pt"), help="file of a detector")
    parser.add_argument(
        "--detections",
        type=Path,
        metavar="FILE",
        help="judge a COCO results file of any detector, with the same report",
    )
    parser.add_argument(
        "--output", type=Path, help="folder for what --detections writes (default: reports/ and the name of the file)"
    )


def work(options: Namespace) -> None:
    """Run the stage in the folder of params.yaml.

    Raises:
        ValueError: for --output without --detections.
    """
    if options.output and not options.detections:
        raise ValueError("--output is only for --detections; the stage writes to the files that dvc.yaml names")
    params, runtime = load_params(), load_runtime()
    if options.detections:
        from pipeline.evaluate.given import run_given

        output = options.output or Path("reports", options.detections.name.removesuffix(".gz").removesuffix(".json"))
        run_given(params, runtime, options.detections, output)
        return
    from pipeline.evaluate.run import run  # imports torch, which the check of params.yaml does not need

    run(params, runtime, options.model)


COMMAND = Command("evaluate", DESCRIPTION, work, add_options)
main = COMMAND.main

if __name__ == "__main__":
    COMMAND.run()
