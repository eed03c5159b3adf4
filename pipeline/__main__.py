"""The command `retinanet`, also `python -m pipeline`: every command as a subcommand of one parser, under one guard.

Only the subcommand that is called is imported; `--help` imports none of them.
"""

from __future__ import annotations

import argparse
import platform
import sys
from collections.abc import Collection, Sequence
from typing import Any

from pipeline import __version__
from pipeline.cli.command import Command, run_command

NAME = "retinanet"
DESCRIPTION = """\
Train, evaluate, compare and export a RetinaNet. compare, export, import, predict, replay and serve run in any folder,
the others in the folder of params.yaml. `dvc repro` runs manifest, prepare, anchors, train and evaluate where their
inputs changed.
"""
EPILOG = 'completion for bash (or zsh, tcsh):  eval "$(retinanet --print-completion bash)"'

SUMMARIES = {
    "manifest": "list the files of the data set for prepare",
    "prepare": "check the data set and write one COCO file per split",
    "anchors": "match the anchors against the training split",
    "train": "train on Ray with the workers set in conf/",
    "evaluate": "compute the COCO metrics of models/model.pt",
    "diagnose": "say why AP is 0, the likeliest cause first",
    "sweep": "search parameters with Ray Tune (run, resume, status, report)",
    "compare": "say whether one run is better than another, with 95 %% intervals",
    "predict": "detect on pictures; draw them, or write COCO, CSV, YOLO or VOC files",
    "serve": "serve a detector over HTTP, with a page for pictures",
    "import": "make a detector of torchvision's, Detectron2's, MMDetection's or yhenon's weights",
    "export": "export the trained detector to MLflow's registry, a folder or an ONNX file",
    "replay": "recompute the losses of a step whose loss was not finite",
    "clean": "list what runs left in the storage, and remove it with --delete",
    "ui": "show the runs in the MLflow UI",
}


def load(name: str) -> Command:
    """Import one command.

    Args:
        name: a key of SUMMARIES.
    """
    match name:
        case "manifest":
            from pipeline.manifest import COMMAND
        case "prepare":
            from pipeline.prepare import COMMAND
        case "anchors":
            from pipeline.anchor_stats.__main__ import COMMAND
        case "train":
            from pipeline.train.__main__ import COMMAND
        case "evaluate":
            from pipeline.evaluate.__main__ import COMMAND
        case "diagnose":
            from pipeline.diagnose.__main__ import COMMAND
        case "sweep":
            from pipeline.sweep.__main__ import COMMAND
        case "compare":
            from pipeline.compare.__main__ import COMMAND
        case "predict":
            from pipeline.predict.__main__ import COMMAND
        case "serve":
            from pipeline.serve.__main__ import COMMAND
        case "import":
            from pipeline.import_weights.__main__ import COMMAND
        case "export":
            from pipeline.export.__main__ import COMMAND
        case "replay":
            from pipeline.replay.__main__ import COMMAND
        case "clean":
            from pipeline.clean.__main__ import COMMAND
        case "ui":
            from pipeline.ui import COMMAND
        case _:
            raise AssertionError(f"{name} has a summary, but no command")
    return COMMAND


class PrintCompletion(argparse.Action):
    """Print the completion script of a shell, and exit."""

    def __call__(
        self, parser: argparse.ArgumentParser, namespace: argparse.Namespace, values: Any, option: str | None = None
    ) -> None:
        """Build the parser with all options, for shtab to read."""
        import shtab

        print(shtab.complete(build_parser(SUMMARIES), values))
        parser.exit(0)


def build_parser(names: Collection[str]) -> argparse.ArgumentParser:
    """The parser of all subcommands.

    Args:
        names: the subcommands that are imported for their options.
    """
    parser = argparse.ArgumentParser(
        NAME, description=DESCRIPTION, epilog=EPILOG, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    version = f"{NAME} {__version__} (Python {platform.python_version()})"
    parser.add_argument("--version", action="version", version=version)
    parser.add_argument(
        "--print-completion", action=PrintCompletion, choices=("bash", "zsh", "tcsh"), help="print a completion script"
    )
    subcommands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    for name, summary in SUMMARIES.items():
        subparser = subcommands.add_parser(name, help=summary)
        if name in names:
            command = load(name)
            command.describe(subparser)
            subparser.set_defaults(do=command.do)
    return parser


def do(arguments: Sequence[str]) -> None:
    """Parse the arguments and do the work of the subcommand."""
    options = build_parser(arguments).parse_args(arguments)
    options.do(options)


def main() -> None:
    """Be the whole process; messages begin with the name of the subcommand."""
    arguments = sys.argv[1:]
    name = next((word for word in arguments if word in SUMMARIES), NAME)
    run_command(name, lambda: do(arguments))


if __name__ == "__main__":
    main()
