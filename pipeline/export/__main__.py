"""The command export."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from pathlib import Path

from pipeline.cli.command import Command
from pipeline.detector.calibration import OPTION as CALIBRATE

NOT_BETTER = 3
"""Exit status of --if-better for a model that became the challenger."""

DESCRIPTION = """\
Export the trained detector: register it in MLflow, write it to a folder, to an ONNX file, or all of these.

reads    models/model.pt (or --model) and its run in MLflow, or the run of --run
writes   a version of --register with the alias and its AP; --output/pyfunc (what MLflow loads and serves) and
         --output/model.pt (what retinanet.inference.detector.Detector.load reads), both with model_card.md; --onnx
         (network, decoding and class-wise NMS for onnxruntime), once its detections on pictures equal those of PyTorch;
         with --int8 a smaller copy, and reports/export.json with the AP of both

With --if-better a paired bootstrap over the images of the evaluated split decides: the first model of a name and one
whose AP is better become the champion, any other the challenger. The exit status is then 0 for a champion and 3 for a
challenger; 1 is an error, such as two models that were not evaluated on the same split.
"""


def add_options(parser: ArgumentParser) -> None:
    """Which model, and where it goes."""
    parser.add_argument("--register", metavar="NAME", help="register the model under this name")
    parser.add_argument("--alias", default="champion", help="alias of the registered version (default: %(default)s)")
    parser.add_argument(
        "--if-better",
        action="store_true",
        help="make it the champion only if it is better than the champion, else the challenger",
    )
    parser.add_argument("--run", metavar="RUN_ID", help="MLflow run whose model is exported (default: --model)")
    parser.add_argument("--model", type=Path, default=Path("models/model.pt"), help="file of a detector")
    parser.add_argument("--output", metavar="FOLDER", type=Path, help="new folder for the model's files")
    files = parser.add_argument_group("files for other programs")
    files.add_argument(
        "--onnx",
        metavar="FILE",
        type=Path,
        nargs="?",
        const=Path("models/model.onnx"),
        help="new ONNX file (models/model.onnx where none is named)",
    )
    files.add_argument(
        "--int8",
        action="store_true",
        help="beside --onnx FILE.onnx also FILE.int8.onnx, calibrated on training pictures, and the AP of both",
    )
    files.add_argument(
        "--pictures",
        metavar="PATH",
        type=Path,
        nargs="+",
        default=[],
        help="files and folders for the check; by default pictures of data/prepared",
    )
    files.add_argument(
        "--working-point",
        metavar="TARGET",
        help="of the thresholds in the file: f1, precision=0.9 or recall=0.8; by default as in predict",
    )
    files.add_argument("--calibrate", **CALIBRATE)
    files.add_argument("--max-detections", metavar="N", type=int, help="per picture; by default as the model")


def work(options: Namespace) -> None:
    """Run the command.

    Raises:
        ValueError: when there is nothing to do.
    """
    if options.register is None and options.output is None and options.onnx is None:
        raise ValueError("nothing to do; give --register NAME, --output FOLDER or --onnx")
    if options.if_better and (options.register is None or options.alias != "champion"):
        raise ValueError("--if-better chooses between the aliases champion and challenger; give --register, no --alias")
    if options.int8 and options.onnx is None:
        raise ValueError("--int8 is a copy of an ONNX file; give --onnx, too")
    from pipeline.export.files import Request
    from pipeline.export.run import run  # torch is not needed before

    request = None
    if options.onnx is not None:
        request = Request(
            onnx=options.onnx,
            int8=options.int8,
            pictures=options.pictures,
            working_point=options.working_point,
            calibrate=options.calibrate,
            max_detections=options.max_detections,
        )
    is_champion = run(
        register=options.register,
        alias=options.alias,
        run_id=options.run,
        output=options.output,
        path=options.model,
        request=request,
        if_better=options.if_better,
    )
    if not is_champion:
        raise SystemExit(NOT_BETTER)


COMMAND = Command("export", DESCRIPTION, work, add_options, in_project=False)
main = COMMAND.main

if __name__ == "__main__":
    COMMAND.run()
