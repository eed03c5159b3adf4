"""The command predict."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from pipeline.cli.command import Command
from pipeline.detector.calibration import OPTION as CALIBRATE

if TYPE_CHECKING:
    from pipeline.predict.inputs import Source

FORMATS = ("pictures", "coco", "csv", "yolo", "voc")
DEFAULT_FORMATS = ("pictures", "coco", "csv")
MODEL = "models/model.pt"

DESCRIPTION = """\
Detect on pictures with a trained detector.

reads    pictures: files, folders with what lies below them, patterns such as 'a/*.jpg', URLs, lists (.txt, one path a
         line), - for a list on standard input; the model
writes   to --output: pictures/NAME.jpg with boxes, coco.json and results.json, detections.csv, and with --format also
         labels/NAME.txt with data.yaml (YOLO) and annotations/NAME.xml (VOC), for correction in a labelling tool;
         with --ray shard-NUMBER.parquet, a row per picture, and job.json

A picture that cannot be read is reported, and written to failed.txt; the others go on, and the exit status is 1.
"""


def add_options(parser: ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument("paths", nargs="+", metavar="PATH", help="pictures")
    parser.add_argument(
        "--model", default=MODEL, help="file or URL of a detector, or an MLflow model such as models:/cells@champion"
    )
    parser.add_argument("--output", default="predictions", help="folder of the results; with --ray also a URL")
    parser.add_argument(
        "--format", nargs="+", choices=FORMATS, help=f"what to write; by default {' '.join(DEFAULT_FORMATS)}"
    )
    lowest = parser.add_mutually_exclusive_group()
    lowest.add_argument(
        "--working-point",
        metavar="TARGET",
        help="thresholds of the classes: f1 (the best F1 on val), precision=0.9 or recall=0.8; by default "
        "evaluate.working_point of params.yaml for the project's own model, f1 for any other",
    )
    lowest.add_argument("--score-threshold", type=float, help="one for all classes, exclusive, instead")
    parser.add_argument("--calibrate", **CALIBRATE)
    parser.add_argument("--device", help="cpu, cuda, cuda:1; by default a GPU where there is one")
    parser.add_argument("--processes", type=int, default=0, help="that read and decode ahead of the network")
    parser.add_argument("--print", action="store_true", help="print a line per picture")
    parser.add_argument(
        "--ray",
        action="store_true",
        help="detect on the cluster that conf/ and RAY_ADDRESS name, and write Parquet files; the same command goes on "
        "where a killed one stopped",
    )


def work(options: Namespace) -> None:
    """Detect, and say what was done."""
    check_options(options)
    from pipeline.predict.inputs import find_pictures

    sources = find_pictures(options.paths)
    check_videos([source.location for source in sources if source.is_video], on_ray=options.ray)
    if options.ray:
        work_on_ray(options, sources)
    else:
        work_here(options, sources)


def check_options(options: Namespace) -> None:
    """Raise ValueError for an option that nothing can be done with."""
    if options.score_threshold is not None and not 0 <= options.score_threshold <= 1:
        raise ValueError(f"--score-threshold is {options.score_threshold}; expected 0 to 1")
    if options.processes < 0:
        raise ValueError(f"--processes is {options.processes}; expected 0 or more")
    if options.ray:
        given = [name for name in ("format", "device", "processes", "print") if getattr(options, name)]
        if given:
            raise ValueError(
                f"--ray writes Parquet, and conf/ names its GPUs and processes; leave out --{' and --'.join(given)}"
            )
    elif "://" in options.output:
        raise ValueError(f"--output is {options.output}; expected a folder on this machine (a URL only with --ray)")


def check_videos(locations: Sequence[str], *, on_ray: bool) -> None:
    """Raise ValueError for videos that cannot be read: on Ray, and without their package."""
    from pipeline.predict.video import demand_package

    if locations and on_ray:
        raise ValueError(f"{locations[0]} is a video; --ray takes pictures, give videos to predict without it")
    if locations:
        demand_package(locations[0])


def work_here(options: Namespace, sources: Sequence[Source]) -> None:
    """Detect in this process."""
    from pipeline.detector.calibration import set_postprocess
    from pipeline.detector.model import choose_device, load_model
    from pipeline.detector.thresholds import choose_scores
    from pipeline.predict.folder import claim
    from pipeline.predict.run import FAILED, predict

    output, formats = Path(options.output), list(dict.fromkeys(options.format or DEFAULT_FORMATS))
    detector = load_model(options.model, choose_device(options.device))
    thresholds, temperature = choose_scores(detector.description, **score_options(options))
    claim(output)
    set_postprocess(detector, lowest=min(thresholds), calibrate=temperature is not None)
    failed = predict(
        detector,
        sources,
        thresholds=thresholds,
        output=output,
        formats=formats,
        processes=options.processes,
        shows_lines=options.print,
    )
    print(f"{len(sources) - len(failed)} pictures: {', '.join(formats)} in {output}")
    if failed:
        first = f"{failed[0].source.location}: {failed[0].reason}"
        raise ValueError(
            f"{len(failed)} of {len(sources)} pictures could not be read, listed in {output / FAILED}; "
            f"the first: {first}"
        )


def work_on_ray(options: Namespace, sources: Sequence[Source]) -> None:
    """Detect on the cluster that conf/ names."""
    from pipeline.detector.model import find_weights
    from pipeline.detector.thresholds import choose_scores
    from pipeline.predict.on_ray import predict_on_ray
    from retinanet.inference.detector_file import load_detector

    with TemporaryDirectory() as folder:
        model = find_weights(options.model, Path(folder))
        _, description = load_detector(model)
        thresholds, temperature = choose_scores(description, **score_options(options))
        failed, first = predict_on_ray(
            sources,
            model,
            thresholds=thresholds,
            temperature=temperature,
            classes=[category["name"] for category in description["categories"]],
            output=options.output,
        )
    print(f"{len(sources)} pictures: Parquet in {options.output}")
    if failed:
        raise ValueError(
            f"{failed} of {len(sources)} pictures could not be read, see column error in {options.output}; "
            f"the first: {first}"
        )


def score_options(options: Namespace) -> dict[str, Any]:
    """The arguments of choose_scores that the options give."""
    return {
        "number": options.score_threshold,
        "target": options.working_point,
        "calibrate": options.calibrate,
        "is_projects": options.model == MODEL,
    }


COMMAND = Command("predict", DESCRIPTION, work, add_options, in_project=False)
main = COMMAND.main

if __name__ == "__main__":
    COMMAND.run()
