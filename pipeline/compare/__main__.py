"""The command: python -m pipeline.compare RUN_A RUN_B."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from pathlib import Path

from pipeline.cli.command import Command

SHEET = Path("plots/compare.png")

DESCRIPTION = """\
Say whether run B is better than run A: AP with 95 % intervals by paired bootstrap over the images, what changed in
params, data and code, and the images on which the two differ most. docs/compare.md explains the output.

A run is an MLflow run (id, its first 6 characters or more, or name), a DVC experiment, a git revision, `workspace`, or
a COCO results file of any detector on the workspace's split.

reads    the detections and the split that the stage evaluate stored with each run, the images
writes   reports/compare.json, reports/compare.html (one file that opens offline), plots/compare.png
"""


def add_options(parser: ArgumentParser) -> None:
    """The two runs, and how they are compared."""
    parser.add_argument("run_a", metavar="RUN_A", help="the run to compare with")
    parser.add_argument("run_b", metavar="RUN_B", help="the run that may be better")
    parser.add_argument("--split", help="val or test; needed only if both runs were evaluated on both")
    parser.add_argument("--resamples", type=int, default=1000, help="bootstrap resamples of the images (default: 1000)")
    parser.add_argument("--seed", type=int, default=0, help="seed of the resamples (default: 0)")
    parser.add_argument("--pictures", type=int, default=6, help="maximum number of images on the sheet (default: 6)")
    parser.add_argument("--data-root", help="folder or URL of the images, if that of conf/ or the split is wrong")
    parser.add_argument("--output", type=Path, default=SHEET, help=f"file for the sheet (default: {SHEET})")


def work(options: Namespace) -> None:
    """Compare two runs.

    Raises:
        ValueError: for a number out of range.
    """
    if options.resamples < 1:
        raise ValueError(f"--resamples is {options.resamples}; give at least 1, or 1000 for a reliable interval")
    if options.pictures < 0 or options.seed < 0:
        raise ValueError(f"--pictures is {options.pictures} and --seed {options.seed}; neither may be below 0")
    from pipeline.compare.run import run  # imports torch and MLflow, which the options do not need

    run(options)


COMMAND = Command("compare", DESCRIPTION, work, add_options, in_project=False)
main = COMMAND.main

if __name__ == "__main__":
    COMMAND.run()
