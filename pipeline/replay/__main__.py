"""The command replay."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace

from pipeline.cli.command import Command

DESCRIPTION = """\
Recompute the losses of a saved training step, each image alone: once as in training, once in float32.

reads    the file named in the error message of `train`
"""


def add_options(parser: ArgumentParser) -> None:
    """The file."""
    parser.add_argument("file", help="path or URL of a file not_finite_*.pt")


def work(options: Namespace) -> None:
    """Run the command, in any folder."""
    from pipeline.replay.run import run  # torch is not needed before

    run(options.file)


COMMAND = Command("replay", DESCRIPTION, work, add_options, in_project=False)
main = COMMAND.main

if __name__ == "__main__":
    COMMAND.run()
