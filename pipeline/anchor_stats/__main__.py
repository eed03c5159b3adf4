"""The stage anchor_stats as a command."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace

from pipeline.cli.command import Command
from pipeline.params import load_params

DESCRIPTION = """\
Match the anchors of params.yaml, or those that fit (anchors.mode: fitted), to every ground-truth box of the training
split, on images resized as in training.

reads    params.yaml (anchors, matcher, transforms), data/prepared/train.json
writes   anchors.json (what train reads), reports/anchor_stats.json, plots/anchors.png
"""


def add_options(parser: ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument(
        "--suggest", action="store_true", help="fit anchors to the boxes, print them, and write nothing"
    )


def work(options: Namespace) -> None:
    """Run the stage in the folder of params.yaml."""
    params = load_params()
    from pipeline.anchor_stats.run import run, suggest  # torch is not needed before

    (suggest if options.suggest else run)(params)


COMMAND = Command("anchor_stats", DESCRIPTION, work, add_options)
main = COMMAND.main

if __name__ == "__main__":
    COMMAND.run()
