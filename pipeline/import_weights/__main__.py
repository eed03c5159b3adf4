"""The command import_weights."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from pathlib import Path

from pipeline.cli.command import Command

DESCRIPTION = """\
Make a detector of a RetinaNet that torchvision, Detectron2, MMDetection or yhenon/pytorch-retinanet trained.

reads    the checkpoint; no code in it runs
writes   --output, a file for `predict --model`, `evaluate --model`, `export --model` and model.weights

Prints what it recognised, and the sections of params.yaml with the same settings.
"""


def add_options(parser: ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument("file", metavar="FILE", type=Path, help="checkpoint: .pth, .pt, or .pkl of Detectron2")
    parser.add_argument("--output", type=Path, default=Path("models/imported.pt"), help="new file of the detector")
    parser.add_argument(
        "--classes", metavar="NAMES", type=Path, help="text file, a class name a line; by default those in FILE or COCO"
    )
    parser.add_argument(
        "--style", choices=("pytorch", "caffe"), help="of its ResNet; by default as file and project say"
    )
    parser.add_argument(
        "--norm-eps", type=float, help="eps of its frozen norms; 0: of torchvision's COCO_V1, or trained from it"
    )


def work(options: Namespace) -> None:
    """Import the file.

    Raises:
        ValueError: when the output exists, or an option is out of range.
    """
    if options.output.exists():
        raise ValueError(f"--output {options.output} exists; give a new file, or remove it")
    if options.norm_eps is not None and not 0 <= options.norm_eps < 1:
        raise ValueError(f"--norm-eps is {options.norm_eps}; expected 0 to 1, mostly 0.00001")
    from pipeline.import_weights.run import run  # torch is not needed before

    run(options.file, output=options.output, classes=options.classes, style=options.style, norm_eps=options.norm_eps)


COMMAND = Command("import_weights", DESCRIPTION, work, add_options, in_project=False)
main = COMMAND.main

if __name__ == "__main__":
    COMMAND.run()
