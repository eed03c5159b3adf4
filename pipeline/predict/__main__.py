"""The command predict."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from pathlib import Path

from pipeline.cli.command import Command

FORMATS = ("pictures", "coco", "csv", "yolo", "voc")
MODEL = "models/model.pt"

DESCRIPTION = """\
Detect on pictures with a trained detector.

reads    pictures: files, folders with what lies below them, patterns such as 'a/*.jpg', URLs, lists (.txt, one path a
         line), - for a list on standard input; the model
writes   to --output: pictures/NAME.jpg with boxes, coco.json and results.json, detections.csv, and with --format also
         labels/NAME.txt with data.yaml (YOLO) and annotations/NAME.xml (VOC), for correction in a labelling tool

A picture that cannot be read is reported, and written to failed.txt; the others go on, and the exit status is 1.
"""


def add_options(parser: ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument("paths", nargs="+", metavar="PATH", help="pictures")
    parser.add_argument(
        "--model", default=MODEL, help="file of a detector, or an MLflow model such as models:/cells@champion"
    )
    parser.add_argument("--output", type=Path, default=Path("predictions"), help="folder of the results")
    parser.add_argument(
        "--format", nargs="+", choices=FORMATS, default=["pictures", "coco", "csv"], help="what to write"
    )
    lowest = parser.add_mutually_exclusive_group()
    lowest.add_argument(
        "--working-point",
        metavar="TARGET",
        help="thresholds of the classes: f1 (the best F1 on val), precision=0.9 or recall=0.8; by default "
        "evaluate.working_point of params.yaml for the project's own model, f1 for any other",
    )
    lowest.add_argument("--score-threshold", type=float, help="one for all classes, exclusive, instead")
    parser.add_argument("--device", help="cpu, cuda, cuda:1; by default a GPU where there is one")
    parser.add_argument("--processes", type=int, default=0, help="that read and decode ahead of the network")
    parser.add_argument("--print", action="store_true", dest="shows_lines", help="print a line per picture")


def work(options: Namespace) -> None:
    """Detect, and say what was done."""
    if options.score_threshold is not None and not 0 <= options.score_threshold <= 1:
        raise ValueError(f"--score-threshold is {options.score_threshold}; expected 0 to 1")
    if options.processes < 0:
        raise ValueError(f"--processes is {options.processes}; expected 0 or more")
    from pipeline.predict.inputs import find_pictures

    sources = find_pictures(options.paths)
    from pipeline.detector.model import choose_device, load_model
    from pipeline.detector.thresholds import choose_thresholds
    from pipeline.predict.run import predict

    detector = load_model(options.model, choose_device(options.device))
    thresholds = choose_thresholds(
        detector.description,
        number=options.score_threshold,
        target=options.working_point,
        is_projects=options.model == MODEL,
    )
    own = detector.description.get("postprocess", {})
    detector.postprocess = detector.build_postprocess(**own | {"score_threshold": min(thresholds)})
    failed = predict(
        detector,
        sources,
        thresholds=thresholds,
        output=options.output,
        formats=list(dict.fromkeys(options.format)),
        processes=options.processes,
        shows_lines=options.shows_lines,
    )
    print(f"{len(sources) - len(failed)} pictures: {', '.join(dict.fromkeys(options.format))} in {options.output}")
    if failed:
        source, reason = failed[0]
        raise ValueError(
            f"{len(failed)} of {len(sources)} pictures could not be read, listed in {options.output / 'failed.txt'}; "
            f"the first: {source.location}: {reason}"
        )


COMMAND = Command("predict", DESCRIPTION, work, add_options, in_project=False)
main = COMMAND.main

if __name__ == "__main__":
    COMMAND.run()
