"""The command diagnose."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from pathlib import Path

from pipeline.cli.command import Command
from pipeline.params import load_params
from pipeline.params.runtime import load_runtime

MODEL = Path("models/model.pt")

DESCRIPTION = """\
Say why AP is 0: labels, anchors, the loss at the first step, norms, frozen stages, learning rate, scores, and AP on
pictures of train; the likeliest cause first, with the setting.

reads    params.yaml, conf/, data/prepared/*.json, pictures of train and of the evaluated split; models/model.pt (or
         --model) and plots/training.csv, where they are there
"""


def add_options(parser: ArgumentParser) -> None:
    """Which detector, and how many pictures."""
    parser.add_argument("--model", type=Path, default=MODEL, help="file of a detector")
    parser.add_argument("--pictures", type=int, default=50, help="of train and of the evaluated split; default: 50")


def work(options: Namespace) -> None:
    """Diagnose in the folder of params.yaml."""
    if options.pictures < 1:
        raise ValueError(f"--pictures is {options.pictures}; expected 1 or more")
    params, runtime = load_params(), load_runtime()
    from pipeline.diagnose.run import run  # imports torch, which the check of params.yaml does not need

    run(params, runtime, model=options.model, pictures=options.pictures)


COMMAND = Command("diagnose", DESCRIPTION, work, add_options)
main = COMMAND.main

if __name__ == "__main__":
    COMMAND.run()
